"""Heads of requests that are answered without ASGI: read once, known by their bytes from then on; and their metric."""

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import httptools
from prometheus_client import Histogram

from tidemill_runtime.http.app import SECONDS

KNOWN_HEADS = 4096
LONGEST_HEAD = 4096
TOLD_EVERY_S = 0.5
END = b"\r\n\r\n"
_SINGLE = frozenset({"content-length", "content-type", "host", "traceparent"})


class Reply(Protocol):
    """The connection that waits for an answer."""

    def answer(self, body: bytes, traceparent: str) -> None:
        """Send 200 and a JSON body."""

    def refuse(self, head: bytes, body: bytes) -> None:
        """Send another status: `head` is its line and its headers without the length, each with its end of line."""

    def decline(self) -> None:
        """It was taken, but is not such a request after all: ASGI shall answer."""

    def taken(self, data: bytes) -> None:
        """What was asked, head and all, for `decline`."""

    def refusal(self, body: bytes) -> bytes:
        """What follows the status line and headers of `refuse`."""

    def front(self) -> bytes:
        """What `answer` begins with, up to the length of the body."""

    def flush(self) -> None:
        """No more answers come together with those that were sent."""

    def send(self, raw: bytes) -> None:
        """Send a whole answer, head and all."""


Take = Callable[[bytes, str | None, Reply], bool]
"""Takes a body and the trace context that it came with; False: not this one, ASGI shall answer."""


class Direct(Protocol):
    """What a service answers directly."""

    def find(self, path: str, headers: Mapping[str, str]) -> Take | None:
        """Who takes POSTs of this path and head (names in lower case); the same answer for as long as it runs."""


class Head(NamedTuple):
    """What is known of a head: the bytes of its body, and who takes it."""

    size: int
    take: Take | None


OTHER = Head(0, None)


class _Sight:
    """Collects what the parser finds in a head."""

    def __init__(self) -> None:
        self.url, self.headers = b"", list[tuple[str, str]]()
        self.is_complete = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        self.is_complete = True


class Tally:
    """Times of one child of a histogram: added for next to nothing, told to it twice a second."""

    def __init__(self, child: Histogram) -> None:
        self._child = child
        self._bounds = self._child._upper_bounds  # noqa: SLF001 - `observe` is one at a time
        self._counts = [0] * len(self._bounds)
        self._sum, self._is_due = 0.0, False

    def add(self, seconds: float) -> None:
        """One request."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_later(TOLD_EVERY_S, self.tell)

    def add_all(self, seconds: float, count: int) -> None:
        """So many requests of the same time."""
        if count:
            self._counts[bisect_left(self._bounds, seconds)] += count - 1
            self._sum += seconds * (count - 1)
            self.add(seconds)

    def tell(self) -> None:
        """Hand over all that were added."""
        for place, count in enumerate(self._counts):
            if count:
                self._child._buckets[place].inc(count)  # noqa: SLF001 - see above
                self._counts[place] = 0
        self._child._sum.inc(self._sum)  # noqa: SLF001 - see above
        self._sum, self._is_due = 0.0, False


class Seconds(Tally):
    """Request times of one route and status."""

    def __init__(self, method: str, route: str, status: int) -> None:
        super().__init__(SECONDS.labels(method, route, status))


class Heads:
    """The heads seen so far, bounded."""

    def __init__(self, direct: Direct) -> None:
        self._direct = direct
        self._known: dict[bytes, Head] = {}

    def find(self, head: bytes) -> Head:
        """What a head (without its empty line) means; read once."""
        found = self._known.get(head)
        if found is None:
            if len(head) > LONGEST_HEAD:
                return OTHER
            if len(self._known) >= KNOWN_HEADS:
                self._known.clear()
            found = self._known[head] = self._read(head)
        return found

    def _read(self, head: bytes) -> Head:
        sight = _Sight()
        parser = httptools.HttpRequestParser(sight)
        try:
            parser.feed_data(head + END)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            return OTHER  # uvicorn says what is wrong with it
        names = [name for name, _ in sight.headers]
        headers = dict(reversed(sight.headers))  # of repeated ones the first, as Starlette has it
        length = headers.get("content-length", "")
        if (
            not sight.is_complete or parser.get_method() != b"POST" or parser.get_http_version() != "1.1"
            or not parser.should_keep_alive() or parser.should_upgrade() or not length.isdecimal()
            or any(names.count(name) > 1 for name in _SINGLE) or not sight.url.isascii() or b"%" in sight.url
            or not {"transfer-encoding", "expect", "traceparent"}.isdisjoint(names)
        ):  # fmt: skip
            return OTHER
        return Head(int(length), self._direct.find(sight.url.decode("ascii"), headers))
