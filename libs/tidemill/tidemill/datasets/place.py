"""Where the archive is, and what of the log it must hold."""

from pathlib import Path

from tidemill.client.calls import Call, Steps
from tidemill.client.clients import Client

_PATIENCE_S = 60.0


def flushed_archive(home: Path | None) -> tuple[str, dict[str, dict[int, int]]]:
    """The place of the running stack's archive, and by source and partition how many events are on the log.

    All of them are in the archive then. Raises TidemillError when the stack cannot be reached.
    """
    with Client(home, patience_s=_PATIENCE_S) as client:
        return client.transport.endpoints.store(), client.run(_flush())


def _flush() -> Steps[dict[str, dict[int, int]]]:
    answer: dict[str, dict[str, int]] = (yield Call("ingestion", "POST", "/v1/archive/flush", {}))["sources"]
    return {source: {int(p): end for p, end in ends.items()} for source, ends in answer.items()}
