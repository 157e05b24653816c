"""Lets go of versions of views that no file names any more: their state first, then their topics."""

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol

from tidemill_contracts.topics import view_topic

Version = tuple[str, str]
"""A view and its version."""
_log = logging.getLogger(__name__)


class Versions(Protocol):
    """What is stored of versions; every method may raise Later."""

    async def forget(self, named: Iterable[Version], *, after_s: float) -> list[Version]: ...
    async def forgotten(self, versions: Iterable[Version]) -> None: ...


async def forget(
    store: Versions, delete: Callable[[Sequence[str]], Awaitable[None]], named: Iterable[Version], *, prefix: str,
    after_s: float,
) -> list[Version]:  # fmt: skip
    """Delete what belongs to versions that were not `named` for `after_s` seconds; returns them. May raise Later.

    It may be repeated: what was interrupted is done again by the next call.
    """
    gone = await store.forget(named, after_s=after_s)
    if gone:
        await delete([name for version in gone for name in topics_of(version, prefix)])
        await store.forgotten(gone)
        _log.info("nobody has read these for long, they are deleted: %s", ", ".join("/".join(each) for each in gone))
    return gone


def topics_of(version: Version, prefix: str) -> list[str]:
    """Every topic that belongs to a version of a view alone."""
    return [view_topic("features", *version, prefix=prefix)]
