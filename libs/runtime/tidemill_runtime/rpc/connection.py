"""One HTTP/2 connection of a gRPC client, under the guard that all connections of a server have.

Calls that arrive with one read are begun in one turn of the event loop, and what they are answered in one turn leaves
with one write.
"""

import asyncio
import socket
from http import HTTPStatus

from tidemill_runtime.http.guard import Bounds
from tidemill_runtime.rpc import frames
from tidemill_runtime.rpc.control import Shared
from tidemill_runtime.rpc.frames import ConnectionFault, ErrorCode
from tidemill_runtime.rpc.session import Session

LINGER_S = 5.0
"""For what is still to be sent when the connection is closed."""


class Connection(asyncio.Protocol):
    """See above; `leave` ends it gently."""

    def __init__(self, shared: Shared) -> None:
        self._shared, self._loop = shared, asyncio.get_running_loop()
        self._session = Session(shared, self._loop, self._close)
        self._out = self._session.out
        self._rest, self._is_greeted = b"", False
        self._opened_at = self._heard_at = self._loop.time()
        self._paused_at: float | None = None
        self._closed_at: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet, if there is room."""
        self._out.attach(transport)
        opened = transport.get_extra_info("socket")
        if opened is not None:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # who has gone without a word is found out
        shared, limits = self._shared, self._shared.limits
        shared.connections.add(self)
        if not shared.guard.admit(self._loop, shared.connections, self):
            self.dismiss(HTTPStatus.SERVICE_UNAVAILABLE)
            return
        self._out.write(frames.settings({
            frames.MOST_STREAMS: limits.streams, frames.INITIAL_WINDOW: limits.window, frames.MOST_HEADERS: limits.head,
        }))  # fmt: skip
        self._out.write(frames.window_update(0, limits.shared_window - frames.DEFAULT_WINDOW))

    def data_received(self, data: bytes) -> None:
        """Frames, and the beginning of one perhaps."""
        if self._closed_at is not None:
            return
        self._heard_at = self._loop.time()
        if self._rest:
            data = self._rest + data
        try:
            at = 0 if self._is_greeted else self._greeting(data)
            self._rest = data[self._session.read(data, at) :] if self._is_greeted else data
        except ConnectionFault as fault:
            self._end(fault.code, fault.text)

    def pause_writing(self) -> None:
        """The peer does not read: nothing more is read from it either, for all of it would be answered."""
        self._paused_at = self._loop.time()
        self._out.pause()
        if self._out.transport is not None and self._closed_at is None:
            self._out.transport.pause_reading()

    def resume_writing(self) -> None:
        """It does again."""
        self._paused_at = None
        if self._out.transport is not None and self._closed_at is None:
            self._out.transport.resume_reading()
            self._out.resume()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the loop's signature
        """The calls under way have nobody to be answered to."""
        self._closed_at = self._loop.time()
        self._shared.connections.discard(self)
        for stream in list(self._session.streams.values()):
            stream.close()

    def _greeting(self, data: bytes) -> int:
        """Where the frames begin."""
        size = len(frames.PREFACE)
        if data[:size] != frames.PREFACE[: len(data)]:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "this port speaks HTTP/2 with prior knowledge")
        self._is_greeted = len(data) >= size
        return size

    # How it ends.

    def leave(self) -> None:
        """Answer what is under way and what is on its way, and then close."""
        if self._closed_at is not None:
            return
        if self._is_greeted:
            self._session.leave()
        else:
            self._close()

    def abort(self) -> None:
        """Nobody waits any longer."""
        if self._out.transport is not None:
            self._out.transport.abort()

    def _end(self, code: ErrorCode, text: str) -> None:
        self._out.write(frames.goaway(self._session.last, code, text))
        self._close()

    def _close(self) -> None:
        if self._closed_at is None:
            self._closed_at = self._loop.time()
            self._rest = b""
            self._out.flush()
            if self._out.transport is not None:
                self._out.transport.close()

    # See `tidemill_runtime.http.guard.Connection`.

    @property
    def has_asked(self) -> bool:
        """Whether a call has ever come."""
        return self._session.last > 0

    def idle_s(self, now: float) -> float | None:
        """Without a call under way."""
        is_here = self._session.streams or self._paused_at is not None or self._closed_at is not None
        return None if is_here else now - self._heard_at

    def overdue(self, now: float, bounds: Bounds) -> HTTPStatus | None:
        """A greeting and a head must end, a request must come, and an answer must be read in time."""
        session, late = self._session, False
        if self._closed_at is not None:
            late = now - self._closed_at > LINGER_S
        elif self._paused_at is not None:
            late = now - self._paused_at > bounds.answer_s
        elif session.out.blocked:
            late = now - session.out.progress_at > bounds.answer_s
        if not self._is_greeted:
            late = late or now - self._opened_at > bounds.head_s
        elif session.is_in_block:
            late = late or now - self._heard_at > bounds.head_s
        late = late or any(
            stream.is_midway and now - stream.began_at > bounds.whole_s for stream in session.streams.values()
        )
        return HTTPStatus.REQUEST_TIMEOUT if late else None

    def dismiss(self, status: HTTPStatus) -> bool:
        """Say so and close, whatever has come since: it can be asked elsewhere. Who does not read is cut off."""
        if self._closed_at is not None or self._paused_at is not None or self._session.streams:
            self.abort()
        elif status is HTTPStatus.SERVICE_UNAVAILABLE:
            self._end(ErrorCode.ENHANCE_YOUR_CALM, "there are as many connections as may be")
        else:
            self._end(ErrorCode.NO_ERROR, "nothing came for too long")
        return True
