"""Dead letters of one task, within the runtime's limits."""

from collections.abc import Sequence
from importlib.metadata import version

from tidemill_features.domain.letter import Letter
from tidemill_features.domain.taken import Rejected
from tidemill_features.settings import Settings
from tidemill_runtime.dlq import DeadLetterLimiter, dead_letter

_CODE = version("tidemill-features")


class DeadLetters:
    """Counts what a task reads and buries what it rejects."""

    def __init__(self, settings: Settings, group: str) -> None:
        self._group = group
        self._limiter = DeadLetterLimiter(settings.dead_letter_share, settings.dead_letter_run)

    def bury(self, rejected: Sequence[Rejected], *, among: int) -> list[Letter]:
        """The letters of one poll with `among` records; raises Stalled when there are too many."""
        self._limiter.good(among - len(rejected))
        for _ in rejected:
            self._limiter.dead()
        return [self._letter(item) for item in rejected]

    def _letter(self, item: Rejected) -> Letter:
        topic, key, value, headers = dead_letter(
            item.record, group=self._group, reason="unreadable", error=item.reason, code_version=_CODE
        )
        return Letter(topic, 0, key, value, headers)
