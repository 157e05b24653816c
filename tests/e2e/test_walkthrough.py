"""What the README promises to a stranger, and what one trace shows: on one real stack that its commands start."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tidemill import Client
from tidemill_contracts import format_time
from tidemill_contracts.pipeline import parse_pipeline
from tidemill_testkit.otlp import Receiver, otlp_receiver
from tidemill_testkit.readme import Block, blocks_of
from tidemill_testkit.traces import Traces, attribute
from tidemill_testkit.waiting import until_sync

ROOT = Path(__file__).parents[2]
HEADING = "Your own pipeline in ten minutes"
START, STOP = "tidemill up", "tidemill down"
pytestmark = [pytest.mark.timeout(600)]


@dataclass
class Reader:
    """Somebody who follows the README in an empty folder; `said` is what each block of commands printed."""

    folder: Path
    receiver: Receiver
    said: dict[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def follow(self, block: Block) -> None:
        """Write the file, or run the commands; a command that fails ends it."""
        if block.file is not None:
            (self.folder / "here" / block.file).write_text(block.text)
            return
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        told = {"PATH": path, "TIDEMILL_HOME": str(self.home), "OTEL_EXPORTER_OTLP_ENDPOINT": self.receiver.endpoint}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.text], cwd=self.folder / "here", env={**os.environ, **told},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{block.text}\n{done.stdout}\n{done.stderr}"
        self.said[block.text] = done.stdout

    def traces(self) -> Traces:
        """What has arrived until now."""
        return Traces(list(self.receiver.spans))

    def read(self, command: str) -> str:
        """What the block with this command printed."""
        [found] = [text for commands, text in self.said.items() if command in commands]
        return found


@pytest.fixture(scope="module")
def blocks() -> list[Block]:
    """The README's blocks, from the one that starts the stack to the one that stops it."""
    found = blocks_of((ROOT / "README.md").read_text(), HEADING)
    assert START in found[0].text
    assert STOP in found[-1].text
    return found


@pytest.fixture(scope="module")
def reader(blocks: list[Block]) -> Iterator[Reader]:
    """Has started the stack, and stops it at the end, both as the README says it; spans go to a receiver."""
    folder = Path(tempfile.mkdtemp(prefix="tm-"))  # short, and not pytest's own: Postgres has an account of its own
    (folder / "here").mkdir()
    with otlp_receiver() as receiver:
        one = Reader(folder, receiver)
        try:
            one.follow(blocks[0])
            yield one
        finally:
            one.follow(blocks[-1])
            shutil.rmtree(folder, ignore_errors=True)


def test_a_stranger_follows_the_readme(reader: Reader, blocks: list[Block]) -> None:
    """Its files and commands, in order, do what it says about them."""
    for block in blocks[1:-1]:
        reader.follow(block)
    assert "card-fraud revision 1" in reader.read("tidemill apply")
    assert reader.read("history.py").count("4,000 events are on the log") == 3
    trained = reader.read("tidemill train")
    assert "version 1 is released and answers as epoch 1" in trained
    assert "first" in trained
    [answer] = json.loads((reader.folder / "here" / "answer.json").read_text())
    assert answer["epoch"] == 1
    assert 0.3 < answer["score"] < 0.8
    assert answer["defaulted"] == []
    lineage = reader.read("tidemill lineage")
    for part in ("release  epoch 1", "model  version 1", "cause  cold_start", "view card-payments  c7", "up to event"):
        assert part in lineage
    accounts = reader.read("tidemill ledger")
    assert "every count adds up" in accounts
    assert re.search(r"8,001 +accepted", accounts)
    assert "the chain holds" in accounts


SHOP = """
version: 1
name: shop
partitions: 1
sources:
  visits:
    key: [visit]
    time: at
    fields: {visit: {type: string}, page: {type: string}, at: {type: timestamp}, price: {type: float}}
  sales: {key: [visit], time: at, fields: {visit: {type: string}, at: {type: timestamp}, bought: {type: boolean}}}
entities: {page: {key: [page]}}
views:
  page-visits:
    source: visits
    entity: page
    windows: {1h: {length: 1h}}
    aggregations: [{function: mean, field: price}]
request:
  key: visit
  time: at
  fields: {visit: {type: string}, page: {type: string}, at: {type: timestamp}, price: {type: float}}
  features: {price: price}
label: {source: sales, join: visit, expression: bought}
cold_start: {source: visits, time: at}
model: {trainer: logistic, windows: [all], validation: 10m, minimum_rows: 50, calibrate: never}
gate: {period: 30m, block: 5m, alarm_period: 20m, alarm_block: 4m, margin: 1, minimum_rows: 10, minimum_blocks: 2}
monitor: {drift: {pane_rows: 10, warm_up_panes: 2, delta: 0.1, bias_panes: 2}}
policy: {mode: auto, retrain_on: [drift], drift_kinds: [calibration], cool_down: 1d}
"""
START_US, MINUTE_US = 1_767_225_600_000_000, 60_000_000
TRACE = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
INGESTION, FEATURES, SERVING, MONITORING, TRAINER, REGISTRY = (
    f"tidemill-{name}" for name in ("ingestion", "features", "serving", "monitoring", "trainer", "registry")
)
PREDICT = "POST /v1/predict/{pipeline}"


class Shop:
    """Drives a pipeline that learns and unlearns fast: a visit a minute, cheap things sell until everything does."""

    def __init__(self, client: Client) -> None:
        self.client, self.minute = client, 0

    def at(self, minute: int) -> str:
        return format_time(START_US + minute * MINUTE_US)

    def visits(self, count: int, page: str = "a") -> list[dict[str, Any]]:
        """The next visits; event time goes on past them."""
        numbers = range(self.minute, self.minute + count)
        self.minute += count + 1
        return [{"visit": f"v{n}", "page": page, "at": self.at(n), "price": float(n * 7 % 10)} for n in numbers]

    def tell(self, visits: list[dict[str, Any]], *, dear_too: bool = False) -> None:
        """What was bought, a second after each visit, and that time has gone on."""
        sales = []
        for visit in visits:
            later, bought = visit["at"].replace(":00Z", ":01Z"), dear_too or visit["price"] < 5
            sales.append({"id": visit["visit"], "data": {"visit": visit["visit"], "at": later, "bought": bought}})
        self.send("sales", sales)
        for source in ("visits", "sales"):
            self.client.progress(source, self.at(self.minute))

    def send(self, source: str, events: list[dict[str, Any]]) -> None:
        sent = self.client.send_events(source, events)
        until_sync(
            lambda: self.client.are_applied(source, sent), f"the events of {source} are on the stream", timeout_s=60
        )

    def open(self) -> None:
        """History, and a first model that answers."""
        spec = parse_pipeline(SHOP.encode())
        self.client.apply(spec)
        until_sync(lambda: self.client.is_known(spec), "the services know the pipeline", timeout_s=60, every_s=0.1)
        visits = self.visits(200)
        self.send("visits", [{"id": visit["visit"], "data": visit} for visit in visits])
        self.tell(visits)
        request = self.client.train("shop", at=self.at(self.minute))
        try:
            until_sync(lambda: self.client.training_outcome(request), "a decision on it", timeout_s=90, every_s=0.1)
        except AssertionError as late:
            late.add_note(f"{self.client.runs('shop')}\n{self.client.status('serving')}")
            raise
        outcome = self.client.training_outcome(request)
        assert outcome is not None
        assert outcome.epoch == 1, outcome

    def epoch(self) -> int | None:
        epoch: int | None = self.client.status("serving")["pipelines"]["shop"]["epoch"]
        return epoch

    def visit_traced(self) -> None:
        """One visit whose sender has a trace of its own."""
        [visit] = self.visits(1)
        url = self.client.transport.endpoints.url("ingestion") + "/v1/events/visits"
        sent = httpx.post(url, json={"id": visit["visit"], "data": visit}, headers={"traceparent": TRACE})
        assert sent.status_code == 202

    def change(self) -> None:
        """Answers and their truth, until a new model is there because the truth has changed."""
        for step in range(30):
            visits = self.visits(20)
            self.client.predict_many("shop", [{"inputs": visit} for visit in visits])
            self.tell(visits, dear_too=step >= 5)
            if self.epoch() == 2:
                return
        until_sync(lambda: self.epoch() == 2, "a second release answers", timeout_s=60, every_s=0.1)


@pytest.fixture(scope="module")
def shop(reader: Reader) -> Iterator[Shop]:
    """The second pipeline on the stack, with a model."""
    with Client(reader.home) as client:
        driven = Shop(client)
        driven.open()
        yield driven


def test_one_trace_shows_event_feature_update_and_prediction(reader: Reader, shop: Shop) -> None:
    """Asserted from the spans of an OTLP receiver: the sender's own trace, and the prediction's link into it."""
    wanted = {
        (INGESTION, "POST /v1/events/{source}"), (INGESTION, "send tidemill.raw.visits.v1"),
        (INGESTION, "process tidemill.raw.visits.v1"), (FEATURES, "process tidemill.events.visits.v1"),
        (FEATURES, "send tidemill.features.page-visits.v1"),
    }  # fmt: skip
    shop.visit_traced()
    trace_id = bytes.fromhex(TRACE[3:35])
    until_sync(
        lambda: reader.traces().of_trace(trace_id) >= wanted, "the trace from the event to its features", timeout_s=60
    )
    [visit] = shop.visits(1)
    answer = shop.client.predict("shop", visit)
    assert answer.trace_id is not None
    predicted = bytes.fromhex(answer.trace_id)
    until_sync(lambda: (SERVING, PREDICT) in reader.traces().of_trace(predicted), "the prediction's span", timeout_s=60)
    traces = reader.traces()
    [span] = [each for each in traces.named(SERVING, PREDICT) if each.trace_id == predicted]
    sent = traces.back(span, INGESTION, "send tidemill.raw.visits.v1")
    assert sent is not None
    assert sent.trace_id == trace_id
    assert sent in traces.causes(span)
    swap = traces.back(span, SERVING, "swap")
    assert swap is not None
    assert about(swap) == ("shop", 1)


def test_a_swap_leads_back_over_release_run_and_drift_to_predictions(reader: Reader, shop: Shop) -> None:
    """Asserted from the spans of an OTLP receiver: one trace from the drift to the swap, linked to what showed it."""
    shop.change()
    second = ("shop", 2)

    def swaps() -> list[Span]:
        return [span for span in reader.traces().named(SERVING, "swap") if about(span) == second]

    until_sync(swaps, "the span of the second swap", timeout_s=60)
    traces, [swap] = reader.traces(), swaps()
    release = traces.back(swap, REGISTRY, "release")
    assert release is not None
    assert release in traces.causes(swap)
    assert about(release) == second
    here = release
    for service, name in (TRAINER, "train"), (MONITORING, "request training"), (MONITORING, "detect drift"):
        before = traces.back(here, service, name)
        assert before is not None, f"nothing leads from {here.name} back to {name}"
        assert before.trace_id == swap.trace_id
        here = before
    seen = [cause for cause in traces.causes(here) if cause.name == PREDICT]
    assert seen
    for prediction in seen:
        answering = traces.back(prediction, SERVING, "swap")
        assert answering is not None
        assert about(answering) == ("shop", 1)


def about(span: Span) -> tuple[str | int | None, str | int | None]:
    """Pipeline and epoch of a release's or swap's span."""
    return attribute(span, "tidemill.pipeline"), attribute(span, "tidemill.epoch")
