"""What answers the calls of a path: at once and without a task, in a task, or a stream of messages with another."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import partial

from tidemill_runtime.rpc.status import Code, StatusError
from tidemill_runtime.rpc.stream import Stream

Answer = Callable[[bytes, Stream], Awaitable[bytes]]
Answers = Callable[[AsyncIterator[bytes], Stream], AsyncGenerator[bytes]]
Rest = Callable[[], Awaitable[bytes]]
Take = Callable[[bytes, Stream], Rest | None]
_log = logging.getLogger(__name__)


class Unary:
    """One message, one answer. `run` may raise StatusError."""

    is_streaming = False

    def __init__(self, run: Answer) -> None:
        self._run = run

    def begin(self, call: Stream) -> None:
        """See `Method`."""
        _start(call, partial(self._answer, call))

    async def _answer(self, call: Stream) -> None:
        call.answer(await self._run(await call.message(), call))


class Quick:
    """One message, one answer, without a task where none is needed.

    `take` answers the call itself, now or later, and returns None, or it returns who makes the answer. It may
    raise StatusError.
    """

    is_streaming = False

    def __init__(self, take: Take) -> None:
        self._take = take

    def begin(self, call: Stream) -> None:
        """See `Method`."""
        if call.peek().is_packed:
            _start(call, partial(self._unpacked, call))
            return
        try:
            rest = self._take(call.take().raw, call)
        except StatusError as error:
            call.fail(error.code, error.text)
        except Exception:  # noqa: BLE001 - the edge of the process: nothing may pass it
            _fail(call)
        else:
            if rest is not None:
                _start(call, partial(self._finish, call, rest))

    async def _unpacked(self, call: Stream) -> None:
        rest = self._take(await call.message(), call)
        if rest is not None:
            call.answer(await rest())

    @staticmethod
    async def _finish(call: Stream, rest: Rest) -> None:
        call.answer(await rest())


class Streaming:
    """Messages and answers in any order. `run` may raise StatusError."""

    is_streaming = True

    def __init__(self, run: Answers) -> None:
        self._run = run

    def begin(self, call: Stream) -> None:
        """See `Method`."""
        _start(call, partial(self._answer, call))

    async def _answer(self, call: Stream) -> None:
        async with aclosing(call.messages()) as messages, aclosing(self._run(messages, call)) as answers:
            async for answer in answers:
                await call.send(answer)
        call.succeed()


def _start(call: Stream, work: Callable[[], Awaitable[None]]) -> None:
    call.task = asyncio.ensure_future(_guarded(call, work))


async def _guarded(call: Stream, work: Callable[[], Awaitable[None]]) -> None:
    try:
        await work()
    except StatusError as error:
        call.fail(error.code, error.text)
    except Exception:  # noqa: BLE001 - the edge of the process: nothing may pass it
        _fail(call)


def _fail(call: Stream) -> None:
    _log.exception("unexpected failure", extra={"path": call.head.path})
    call.fail(Code.INTERNAL, "an unexpected failure; the log of the service says more")
