"""A service process: HTTP at once, background work under supervision, a graceful stop within ten seconds.

`run` is what `python -m tidemill_<service>` calls. Whatever crashes ends the process with a status other than zero, and
the supervisor of the machine (tidemill, Docker, Kubernetes) starts it again: there is one place for restarts.
"""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import uvicorn
import uvloop
from starlette.types import ASGIApp

from tidemill_runtime import telemetry
from tidemill_runtime.errors import Configuration
from tidemill_runtime.health import Health
from tidemill_runtime.http import App, Keys, Route
from tidemill_runtime.http.direct import direct_protocol
from tidemill_runtime.http.guard import Bounds, Guard, guarded_protocol
from tidemill_runtime.http.heads import Direct
from tidemill_runtime.probes import probe_routes
from tidemill_runtime.settings import ServiceSettings

__all__ = ["Health", "Service", "build_app", "run", "serve"]

DRAIN_S = 4
"""Seconds for requests under way to finish; the background then has `BACKGROUND_S`, together below ten."""
BACKGROUND_S = 4.0
TOGETHER_S = 1.0
"""Of `BACKGROUND_S`: what is left for all others when one does not stop in its turn."""
LAST_S = 0.5
TICK_S = 0.05
OLDER = 1_000_000
"""New objects until the collector also looks at those that it has seen once."""
Background = Callable[[], Awaitable[None]]
Listen = Callable[[], Awaitable[list[socket.socket]]]
"""Returns the sockets once this process may have its part of the connections."""
S = TypeVar("S", bound=ServiceSettings)
_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Service:
    """What a composition root hands over.

    `background` names coroutines that run until they are cancelled; on cancellation they flush and return. The last is
    cancelled first, and the one before it when it has returned: what others need comes before them. `state` becomes
    `request.app.state`. Opening pools and clients belongs into the background, so that /livez answers at once. `front`
    may put an ASGI application before the routes, for a path that must not pay for them; what `direct` finds does not
    even pay for ASGI. `listen` opens the sockets where several processes share the port. `keys` are those of
    the settings, where the composition root has not read them itself. Of `young` objects more than before the collector
    looks at the new ones: fewer make its pauses shorter (a third of a microsecond each), and what lives for a moment is
    looked at more often.
    """

    routes: Sequence[Route]
    background: Mapping[str, Background] = field(default_factory=dict)
    state: Mapping[str, object] = field(default_factory=dict)
    title: str = "Tidemill"
    front: Callable[[App], ASGIApp] | None = None
    direct: Direct | None = None
    listen: Listen | None = None
    keys: Keys | None = None
    young: int = 50_000


def build_app(service: Service, settings: ServiceSettings, health: Health) -> App:
    """The service's routes and the standard ones: /livez, /readyz, /metrics, /openapi.json."""
    routes = [*service.routes, *probe_routes(service.title, service.routes, health)]
    app = App(routes, keys=service.keys or Keys.of(settings))
    for name, value in service.state.items():
        setattr(app.state, name, value)
    return app


def run(app_factory: Callable[[S, Health], Service], settings: S) -> None:
    """Run the service until SIGTERM or SIGINT, then exit 0; exit 1 after a crash, 2 when the settings are refused."""
    telemetry.init(settings)
    try:
        settings.check_exposure()
        health = Health()
        service = app_factory(settings, health)
        service.keys = service.keys or Keys.of(settings)
    except Configuration as error:
        _log.critical("%s", error)
        sys.exit(2)
    # What was imported lives as long as the process, and requests and records leave no cycles: look for them rarely.
    gc.freeze()
    gc.set_threshold(service.young, OLDER // service.young, 50)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        status = 1 if runner.run(serve(service, settings, health)) else 0
        telemetry.shutdown()
        if runner.run(_left_over()):
            logging.shutdown()
            os._exit(status)  # the runner would wait for them for ever: a client whose broker is away, a stubborn task
    sys.exit(status)


async def _left_over() -> bool:
    """Cancel whatever still runs; whether something does not care."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=LAST_S)
    return not all(task.done() for task in tasks)


async def serve(service: Service, settings: ServiceSettings, health: Health) -> bool:
    """Serve until a signal or a crash; returns whether something crashed."""
    app = build_app(service, settings, health)
    guard = Guard(Bounds(connections=settings.connections))
    config = uvicorn.Config(
        service.front(app) if service.front else app, host=settings.host, port=settings.port,
        http=direct_protocol(service.direct, guard) if service.direct else guarded_protocol(guard),
        loop="none", ws="none", lifespan="off", log_config=None, access_log=False, server_header=False,
        timeout_keep_alive=30, timeout_graceful_shutdown=DRAIN_S, proxy_headers=False,
    )  # fmt: skip
    server = _Server(config)
    async with _background(service.background, server) as crashed:
        with _signals(server, health):
            await server.serve(sockets=await _sockets(service.listen, server) if service.listen else None)
            health.set("running", ok=False, reason="stopping")
    return bool(crashed)


async def _sockets(listen: Listen, server: uvicorn.Server) -> list[socket.socket]:
    """What `listen` opens; nothing when the server is told to stop before."""
    opening = asyncio.ensure_future(listen())
    while not server.should_exit:
        done, _ = await asyncio.wait({opening}, timeout=TICK_S)
        if done:
            return opening.result()
    opening.cancel()
    await asyncio.wait({opening})
    return []


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `run`: uvicorn would raise them again afterwards and cut the background's flush short."""
        yield


@contextmanager
def _signals(server: uvicorn.Server, health: Health) -> Iterator[None]:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        health.set("running", ok=False, reason="stopping")
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    health.set("running", ok=True)
    yield  # the handlers stay: a second signal must not cut the flush short


@asynccontextmanager
async def _background(work: Mapping[str, Background], server: uvicorn.Server) -> AsyncIterator[list[str]]:
    """Run the coroutines beside the body; one that ends, in whatever way, stops the server and counts as crashed."""
    crashed: list[str] = []
    stopping = False

    def ended(task: asyncio.Task[None]) -> None:
        if stopping or task.cancelled():
            return
        crashed.append(task.get_name())
        _log.critical("background %s ended", task.get_name(), exc_info=task.exception())
        server.should_exit = True

    tasks = [asyncio.ensure_future(_named(name, start, ended)) for name, start in work.items()]
    try:
        yield crashed
    finally:
        stopping = True
        await _stop(tasks)


async def _stop(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel the last first, each once the one after it has flushed; one that is stubborn must not starve the rest."""
    loop = asyncio.get_running_loop()
    in_turn = loop.time() + BACKGROUND_S - TOGETHER_S
    for task in reversed(tasks):
        task.cancel()
        await asyncio.wait({task}, timeout=max(0.0, in_turn - loop.time()))
    if tasks:
        await asyncio.wait(tasks, timeout=max(0.0, in_turn - loop.time()) + TOGETHER_S)
    for task in tasks:
        if not task.done():
            _log.error("background did not stop within %s s: %s", BACKGROUND_S, task.get_name())


async def _named(name: str, start: Background, ended: Callable[[asyncio.Task[None]], None]) -> None:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine that runs has a task
    task.set_name(name)
    task.add_done_callback(ended)
    await start()
