"""The HTTP side of serving on a log in memory."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, nullcontext

import httpx
import uvicorn
from pydantic import SecretStr
from serving_cases import linear, pipeline, released
from serving_stack import until
from starlette.types import ASGIApp

from tidemill_runtime.errors import Later
from tidemill_runtime.health import Health
from tidemill_runtime.http import App, Keys
from tidemill_runtime.http.direct import direct_protocol
from tidemill_serving.api.direct import Hot
from tidemill_serving.api.front import Front
from tidemill_serving.api.inference import inference_routes
from tidemill_serving.api.predict import Predictor, predict_routes
from tidemill_serving.api.repository import repository_routes
from tidemill_serving.api.status import LogState, alone, status_of, status_routes
from tidemill_serving.domain.answers import Recent
from tidemill_serving.domain.desk import Desk, Loaded
from tidemill_serving.domain.entries import Entry, LogRefusedError
from tidemill_serving.domain.frames import Logged, apart
from tidemill_serving.domain.house import House
from tidemill_serving.domain.plan import Plan
from tidemill_serving.domain.scoring import Weighted
from tidemill_serving.domain.views import wants
from tidemill_serving.handlers.batching import Batcher
from tidemill_serving.handlers.freshness import Freshness
from tidemill_serving.handlers.importing import Importer
from tidemill_serving.handlers.journal import Journal
from tidemill_serving.handlers.repository import ModelRepository
from tidemill_serving.handlers.running import Runs
from tidemill_serving.onnx import Scorer
from tidemill_serving.onnx.graph import Graph
from tidemill_serving.spool import partitions_of

SPEC = pipeline()
NAMES = SPEC.feature_names()
PATH = f"/v1/predict/{SPEC.name}"
KEY = "secret"


class MemoryLog:
    """A log that keeps what it is given, or refuses."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.writes = 0
        self.written: list[Sequence[Entry]] = []
        self.is_full = False

    def append(self, entries: Sequence[Logged]) -> int:
        if self.is_full:
            raise LogRefusedError("full")
        found = apart(entries)
        self.entries += found
        self.writes += 1
        self.written.append(found)
        return len(self.entries)


class MemoryGraphs:
    """Opens nothing: the tests put opened models into the catalogue."""

    async def open_graph(self, digest: str) -> Graph:
        raise Later(digest)

    def keep(self, digests: Iterable[str]) -> None:
        """Nothing to forget."""


class MemoryStore:
    """Forgets."""

    def save_imported(self, models: list[tuple[str, int, str]], unloaded: list[str]) -> None:
        """Nothing is kept."""

    def load_imported(self) -> tuple[list[tuple[str, int, str]], list[str]]:
        return [], []


class Edge:
    """The HTTP side of the service on a log in memory."""

    def __init__(self, *, key: str | None = None, keys: Keys | None = None) -> None:
        self.house, self.log, self.health = House(), MemoryLog(), Health()
        self.batcher = Batcher(
            self.house, self.log, appended=lambda: None, swapped=lambda _: None, now_us=lambda: 1_400_000_000_000_000
        )
        self.desk = self.house.desks[SPEC.name] = Desk(SPEC, "tidemill", "test", partitions_of, recent=Recent(100))
        self.desk.is_ready = True
        for place, width in wants(self.desk).items():
            self.house.replica.want(place, width=width, partitions=1)
        keys = keys or Keys(SecretStr(key) if key else None)
        self.freshness = Freshness(self.house)
        predictor = self.predictor = Predictor(self.house.desks, self.batcher, self.freshness)
        state = LogState({}, {}, {})
        journal = Journal(self.house, self.log, "test", lambda: None, lambda: 1_400_000_000_000_000)
        self.runs = Runs(journal, "tidemill.inferences.v1")
        self.importer = Importer(MemoryGraphs(), MemoryStore(), journal, "tidemill.models.v1")
        self.models = ModelRepository(self.house, self.batcher, self.runs, self.importer)
        routes = [
            *predict_routes(predictor), *status_routes(lambda: status_of(self.house, "0", state), alone),
            *repository_routes(self.models, self.house.statistics.found),
            *inference_routes(self.models, lambda: self.health.ready()[0]),
        ]  # fmt: skip
        self.behind = App(routes, keys=keys)
        self.front = Front(self.behind, predictor, keys=keys)
        self.hot = Hot(self.house.desks, self.batcher, keys=keys)

    def imported(self, name: str, version: int, data: bytes) -> None:
        """An open imported model."""
        self.house.catalogue.add(name, version, f"{version:064x}")
        found = self.house.catalogue.models[name][version]
        found.state, found.graph = "READY", Graph(data)

    def release(self) -> None:
        plan, scorer = Plan(SPEC, NAMES), Scorer(linear(NAMES), len(NAMES))
        member = Weighted("m", "1" * 64, 3, 1.0, scorer)
        self.desk.champion.restore(Loaded(released(SPEC, 1, "1" * 64), SPEC, plan, [member], []), None)


def client(app: ASGIApp) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://serving")


@asynccontextmanager
async def direct(edge: Edge) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a real server, with the hot path before everything else."""
    config = uvicorn.Config(
        edge.front, host="127.0.0.1", port=0, http=direct_protocol(edge.hot), ws="none", lifespan="off",
        log_config=None, access_log=False, server_header=False,
    )  # fmt: skip
    server = uvicorn.Server(config)
    server.capture_signals = nullcontext  # type: ignore[method-assign, assignment]
    running = asyncio.ensure_future(server.serve())
    await until(lambda: server.started, "the server listens")
    port = server.servers[0].sockets[0].getsockname()[1]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as opened:
        yield opened
    server.should_exit = True
    await running
