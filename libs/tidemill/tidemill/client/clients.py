"""`Client` and `AsyncClient`: the same operations, the second to be awaited."""

import asyncio
import functools
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Self, TypeVar, overload

import httpx

from tidemill.client import calls, catalogue, decisions, frames, training
from tidemill.client import imports as foreign
from tidemill.client import letters as dead
from tidemill.client import quarantine as ward
from tidemill.client.calls import Steps
from tidemill.client.errors import TidemillError
from tidemill.client.transport import AsyncTransport, Endpoints, Transport

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tidemill.bulk import Progress, Sink
    from tidemill.client.results import BulkOutcome
    from tidemill.lineage import Lineage

P = ParamSpec("P")
T = TypeVar("T")


class Operation(Generic[P, T]):
    """An operation of `calls` as a method: `Client` runs it, `AsyncClient` gives something to await."""

    def __init__(self, steps: Callable[P, Steps[T]]) -> None:
        self._steps = steps
        self.__doc__ = steps.__doc__

    @overload
    def __get__(self, client: "Client", owner: object) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: "AsyncClient", owner: object) -> Callable[P, Awaitable[T]]: ...
    @overload
    def __get__(self, client: None, owner: object) -> Self: ...
    def __get__(self, client: "Client | AsyncClient | None", owner: object) -> Any:
        """The operation bound to a client."""
        if client is None:
            return self

        @functools.wraps(self._steps)
        def bound(*args: P.args, **kwargs: P.kwargs) -> Any:  # noqa: ANN401 - one of the overloads
            return client.run(self._steps(*args, **kwargs))

        return bound


class Operations:
    """What can be done; each is described in `tidemill.client.calls`."""

    send_events = Operation(calls.send_events)
    are_applied = Operation(calls.are_applied)
    progress = Operation(calls.progress)
    event = Operation(calls.event)
    apply = Operation(calls.apply)
    is_known = Operation(calls.is_known)
    pipelines = Operation(calls.pipelines)
    pipeline = Operation(calls.pipeline)
    predict = Operation(calls.predict)
    predict_many = Operation(calls.predict_many)
    predict_frame = Operation(frames.predict_frame)
    champion = Operation(calls.champion)
    releases = Operation(calls.releases)
    versions = Operation(calls.versions)
    gates = Operation(calls.gates)
    runs = Operation(calls.runs)
    train = Operation(training.train)
    training_outcome = Operation(training.training_outcome)
    promote = Operation(decisions.promote)
    canary = Operation(decisions.canary)
    shadow = Operation(decisions.shadow)
    mix = Operation(decisions.mix)
    rollback = Operation(decisions.rollback)
    freeze = Operation(calls.freeze)
    drifts = Operation(calls.drifts)
    metrics = Operation(calls.metrics)
    shadow_figures = Operation(calls.shadow_figures)
    audit_verify = Operation(calls.audit_verify)
    status = Operation(calls.status)
    letters = Operation(dead.letters)
    letter = Operation(dead.letter)
    replay = Operation(dead.replay)
    quarantine = Operation(ward.quarantine)
    quarantined = Operation(ward.quarantined)
    release_quarantined = Operation(ward.release_quarantined)
    import_model = Operation(foreign.import_model)
    served_models = Operation(foreign.served_models)
    feature_views = Operation(catalogue.feature_views)
    feature_view = Operation(catalogue.feature_view)


class AsyncClient(Operations):
    """Talks to the services; a context manager. Failed requests are sent again, unchanged, for `patience_s`.

    Its methods raise RefusedError when a service says no and UnreachableError when none answers.
    """

    def __init__(
        self, home: Path | None = None, *, endpoints: Endpoints | None = None, api_key: str | None = None,
        patience_s: float = 30.0, transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:  # fmt: skip
        """Find the services at `endpoints`, else in the environment or in the stack of `home` (None: the default one).

        Raises:
            TidemillError: no service was found.
        """
        found = endpoints or Endpoints.find(home or _default_home())
        self.transport = AsyncTransport(found, api_key or _api_key(), patience_s, transport)

    async def run(self, steps: Steps[T]) -> T:
        """The result of an operation."""
        answer: Any = None
        call = _next(steps, None)
        while isinstance(call, calls.Call):
            try:
                answer = await self.transport.call(call.service, call.method, call.path, **_rest(call))
            except TidemillError as error:
                call = _thrown(steps, error)
            else:
                call = _next(steps, answer)
        return call.value

    async def lineage(self, prediction_id: str) -> "Lineage":
        """Where a prediction came from: down to the events it rests on, up to the run and its cause.

        It also reads topics and the archive, so Kafka and the artifacts must be reachable from here.
        """
        from tidemill.lineage import walk  # noqa: PLC0415 - Kafka and Arrow, which nothing else here needs

        return await walk(self, prediction_id)

    async def predict_bulk(
        self, pipeline: str, instances: "Iterable[Mapping[str, Any]]", *, wait: bool = True,
        progress: "Progress | None" = None, sink: "Sink | None" = None,
    ) -> "BulkOutcome":  # fmt: skip
        """Predict many over Kafka, as `tidemill.bulk.predict_bulk` says; Kafka must be reachable from here."""
        from tidemill.bulk import predict_bulk  # noqa: PLC0415 - Kafka, which little else here needs

        return await predict_bulk(self, pipeline, instances, wait=wait, progress=progress, sink=sink)

    async def close(self) -> None:
        """Close the connections."""
        await self.transport.close()

    async def __aenter__(self) -> Self:
        """The client itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Close."""
        await self.close()


class Client(Operations):
    """`AsyncClient` for callers that do not await; may be used from several threads."""

    def __init__(
        self, home: Path | None = None, *, endpoints: Endpoints | None = None, api_key: str | None = None,
        patience_s: float = 30.0, transport: httpx.BaseTransport | None = None,
    ) -> None:  # fmt: skip
        """Find the services at `endpoints`, else in the environment or in the stack of `home` (None: the default one).

        Raises:
            TidemillError: no service was found.
        """
        found = endpoints or Endpoints.find(home or _default_home())
        self.transport = Transport(found, api_key or _api_key(), patience_s, transport)

    def run(self, steps: Steps[T]) -> T:
        """The result of an operation."""
        call = _next(steps, None)
        while isinstance(call, calls.Call):
            try:
                answer = self.transport.call(call.service, call.method, call.path, **_rest(call))
            except TidemillError as error:
                call = _thrown(steps, error)
            else:
                call = _next(steps, answer)
        return call.value

    def lineage(self, prediction_id: str) -> "Lineage":
        """As `AsyncClient.lineage`, in a thread of its own: the caller may already run an event loop."""
        return self._apart(lambda client: client.lineage(prediction_id))

    def predict_bulk(
        self, pipeline: str, instances: "Iterable[Mapping[str, Any]]", *, wait: bool = True,
        progress: "Progress | None" = None, sink: "Sink | None" = None,
    ) -> "BulkOutcome":  # fmt: skip
        """As `AsyncClient.predict_bulk`, in a thread of its own."""
        return self._apart(
            lambda client: client.predict_bulk(pipeline, instances, wait=wait, progress=progress, sink=sink)
        )

    def _apart(self, work: "Callable[[AsyncClient], Awaitable[T]]") -> T:
        async def run() -> T:
            mine = self.transport
            async with AsyncClient(
                endpoints=mine.endpoints, api_key=mine.api_key, patience_s=mine.patience_s
            ) as client:
                return await work(client)

        with ThreadPoolExecutor(1) as pool:
            return pool.submit(lambda: asyncio.run(run())).result()

    def close(self) -> None:
        """Close the connections."""
        self.transport.close()

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close."""
        self.close()


class _Done(Generic[T]):
    """The end of an operation with its result."""

    def __init__(self, value: T) -> None:
        self.value = value


def _rest(call: calls.Call) -> dict[str, Any]:
    """What a request carries besides its place."""
    return {"body": call.body, "params": call.params, "headers": call.headers, "deadline_ms": call.deadline_ms}


def _next(steps: Steps[T], answer: object) -> calls.Call | _Done[T]:
    try:
        return steps.send(answer)
    except StopIteration as end:
        return _Done(end.value)


def _thrown(steps: Steps[T], error: TidemillError) -> calls.Call | _Done[T]:
    """Tell the operation of an error; most let it pass."""
    try:
        return steps.throw(error)
    except StopIteration as end:
        return _Done(end.value)


def _default_home() -> Path:
    from tidemill.stack.paths import default_home  # noqa: PLC0415 - not needed where the home is known

    return default_home()


def _api_key() -> str | None:
    return os.environ.get("TIDEMILL_API_KEY")
