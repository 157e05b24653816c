"""JSON lines on stderr, with the trace id of the moment, and a limit on how often a library may say the same thing."""

import json
import logging
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

CHATTY: Final = ("aiokafka", "faststream")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, service, trace_id, `extra` fields, error."""

    def __init__(self, service: str, trace_id: Callable[[], str | None]) -> None:
        super().__init__()
        self._service, self._trace_id = service, trace_id

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "service": self._service,
        }
        trace_id = self._trace_id()
        if trace_id is not None:
            line["trace_id"] = trace_id
        line.update({name: value for name, value in vars(record).items() if name not in _STANDARD})
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class RateLimit(logging.Filter):
    """Lets `burst` records of one logger and message template through per `period` seconds.

    A broker that is down makes aiokafka write thousands of lines a second. The first record of the next period says how
    many were left out.
    """

    def __init__(self, burst: int = 5, period: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._burst, self._period, self._clock = burst, period, clock
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        key, now = (record.name, str(record.msg)[:200]), self._clock()
        since, count = self._seen.get(key, (now, 0))
        if now - since >= self._period:
            if count > self._burst:
                record.left_out = count - self._burst
            since, count = now, 0
        if len(self._seen) > 1000:  # noqa: PLR2004 - messages formatted before they are logged are all different
            self._seen.clear()
        self._seen[key] = (since, count + 1)
        return count < self._burst


def configure_logging(service: str, level: str, trace_id: Callable[[], str | None]) -> None:
    """Replace the root handlers by one JSON handler on stderr; aiokafka and FastStream speak from WARNING, limited."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service, trace_id))
    limit = RateLimit()
    handler.addFilter(lambda record: not record.name.startswith(CHATTY) or limit.filter(record))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in (*CHATTY, "httpx", "uvicorn", "opentelemetry"):
        logging.getLogger(name).setLevel(logging.WARNING)
