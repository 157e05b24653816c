"""Reading one entity's features: Feast's protocol handler in this process, and Feast's own client over the wire."""

import asyncio
import gc
import json
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import uvloop
from _client import percentile
from _results import Progress, Result, report, result
from _stack import START_US, apply, departure, pipeline, stack
from predict import ENTITIES, fill
from starlette.types import Message

from tidemill.stack import Endpoints
from tidemill.stack.process import free_port
from tidemill_contracts import view_topic
from tidemill_contracts.events import FeatureVector
from tidemill_contracts.pipeline import PipelineSpec
from tidemill_features.domain.views import compile_program
from tidemill_features.feast import FeastStore, feast_routes
from tidemill_features.feast.store import OnRecords
from tidemill_runtime.http import App
from tidemill_testkit.peers import peer

HELD, BATCH, BATCHES = 100_000, 500, 16
ROUNDS = 400
VIEW, WIDE = "airport-departures", "airport-weather"
PEER = ("feast==0.67.0", "httpx==0.28.1")


class Held:
    """Vectors of many entities in every view, handed over as Kafka would."""

    def __init__(self, spec: PipelineSpec, topics: Sequence[str], take: OnRecords) -> None:
        self.caught_up = asyncio.Event()
        self._spec, self._topics, self._take = spec, set(topics), take

    async def run(self) -> None:
        """All at once, then nothing."""
        for view in self._spec.views:
            version, count = self._spec.view_version(view), HELD // len(self._spec.views)
            name, width = view_topic("features", view, version), len(self._spec.views[view].feature_names(view))
            self._take(name, 0, [_Record(_vector(view, version, width, number)) for number in range(count)])
        self.caught_up.set()
        await asyncio.Event().wait()


class _Record:
    key = b"key"

    def __init__(self, vector: FeatureVector) -> None:
        self.value: bytes | None = vector.model_dump_json().encode()


def _vector(view: str, version: str, width: int, number: int) -> FeatureVector:
    values: list[float | None] = [0.1 * number + place for place in range(width)]
    return FeatureVector(
        view=view, version=version, entity=f"E{number}", at_us=START_US, revision=1, values=values, positions={"0": 1}
    )


class Caller:
    """Calls the application as its server does, without a network."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._scope: dict[str, Any] = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
            "path": "/get-online-features", "raw_path": b"/get-online-features", "query_string": b"", "root_path": "",
            "headers": [(b"host", b"features"), (b"content-type", b"application/json")],
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
        }  # fmt: skip

    async def __call__(self, body: bytes) -> Any:  # noqa: ANN401 - JSON
        """The answer's body; raises RuntimeError for every status but 200."""
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        await self._app(dict(self._scope), receive, send)
        if sent[0]["status"] != 200:
            raise RuntimeError(sent[1]["body"])
        return sent[1]["body"]


class Inside(NamedTuple):
    """Milliseconds of each request and of as much counting, which shows what the machine takes from both, by batch."""

    requests: list[float]
    counting: list[float]


async def in_process(spec: PipelineSpec) -> Inside:
    """All features of one view of one entity: the batch of requests with the lowest p99."""
    store = FeastStore(
        open_tail=lambda topics, take: Held(spec, topics, take), ingestion=_Nobody(), is_ready=lambda: True,
        max_bytes=1 << 30, patience_s=120,
    )  # fmt: skip
    store.apply([spec], compile_program([spec], "tidemill"))
    app = App(feast_routes())
    app.state.feast = store
    gc.freeze()  # as `tidemill_runtime.service.run` does
    gc.set_threshold(50_000, 20, 50)
    running, call = asyncio.create_task(store.run()), Caller(app)
    view, found, length = spec.views[VIEW], list[Inside](), 0
    names = [f"{VIEW}:{name.partition('.')[2]}" for name in view.feature_names(VIEW)]
    count = HELD // len(spec.views)
    for batch in range(BATCHES):
        times, counting = list[float](), list[float]()
        for number in range(BATCH):
            entity = f"E{(batch * BATCH + number) * 7919 % count}"
            body = json.dumps({"features": names, "entities": {"origin": [entity]}}).encode()
            started = time.perf_counter()
            answer = await call(body)
            times.append(1000 * (time.perf_counter() - started))
            assert json.loads(answer)["results"][1]["statuses"] == ["PRESENT"]
            counting.append(_count(length))
        found.append(Inside(times, counting))
        length = length or int(percentile(times, 0.5) / percentile([_count(10_000) for _ in range(99)], 0.5) * 10_000)
    running.cancel()
    return min(found[1:], key=lambda inside: percentile(inside.requests, 0.99))


def _count(length: int) -> float:
    """Milliseconds that counting to `length` takes."""
    started = time.perf_counter()
    for _ in range(length):
        pass
    return 1000 * (time.perf_counter() - started)


class _Nobody:
    async def send(self, source: str, events: Sequence[Mapping[str, Any]]) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        pass


def over_the_wire(seen: Endpoints, spec: PipelineSpec, python: Path) -> dict[str, dict[str, list[float]]]:
    """Seconds of each request of Feast's client, by view asked and by server."""
    views = {
        name: {
            "keys": spec.entities[view.entity].key,
            "features": [feature.partition(".")[2] for feature in view.feature_names(name)],
        }
        for name, view in spec.views.items()
    }
    data = [departure(number, flight=f"UA-{number}")["data"] for number in range(ENTITIES)]
    rows = [{key: each[key] for view in views.values() for key in view["keys"]} for each in data]
    with tempfile.TemporaryDirectory(prefix="tm-feast-") as folder:
        what = {"folder": folder, "ours": seen.services["features"].url, "port": free_port(), "views": views,
                "rows": rows, "asked": [VIEW, WIDE, "route-arrivals"], "rounds": ROUNDS}  # fmt: skip
        done = subprocess.run(
            [str(python), str(Path(__file__).with_name("_feast_read.py"))], input=json.dumps(what), text=True,
            stdout=subprocess.PIPE, check=True,
        )  # fmt: skip
    found: dict[str, dict[str, list[float]]] = json.loads(done.stdout)
    return found


async def measure(seen: Endpoints) -> list[Result]:
    """All figures."""
    progress, spec = Progress(), pipeline()
    progress.step("the handler in this process")
    inside = await in_process(spec)
    progress.step("Feast's client against the service and against feast serve")
    python = await asyncio.to_thread(peer, "feast", *PEER)
    await apply(seen, spec)
    await fill(seen, spec)
    asked = await asyncio.to_thread(over_the_wire, seen, spec, python)
    results = [  # where as much counting takes longer than the target, it is the machine that is busy
        result(
            f"handler in process, p{100 * share:g}",
            percentile(inside.requests, share),
            "ms",
            target=target,
            peer=("as much counting", percentile(inside.counting, share)),
        )
        for share, target in ((0.5, None), (0.99, 1.0))
    ]
    for view, times in asked.items():
        for share in (0.5, 0.99):
            ours, theirs = (1000 * percentile(times[who], share) for who in ("ours", "theirs"))
            name, target = f"feast client, {view}, p{100 * share:g}", theirs if share == 0.5 else None
            results.append(result(name, ours, "ms", target=target, peer=("feast serve", theirs)))
    return results


if __name__ == "__main__":
    with stack("features") as running:
        report("online-read", uvloop.run(measure(running)))
