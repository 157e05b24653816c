"""A small pipeline that learns and unlearns within minutes, and what drives it."""

from typing import Any

import httpx

from tidemill import Client
from tidemill.client.results import Prediction, TrainingOutcome
from tidemill_contracts import format_time
from tidemill_contracts.events import FeatureVector
from tidemill_contracts.pipeline import parse_pipeline
from tidemill_testkit.waiting import until_sync

SHOP = """
version: 1
name: shop
partitions: 1
sources:
  visits:
    key: [visit]
    time: at
    fields: {visit: {type: string}, page: {type: string}, at: {type: timestamp}, price: {type: float, required: false}}
    quality: {window: 10m, judge_from: 5, fields: {price: {max: 9, max_nulls: 0.04}}}
  sales: {key: [visit], time: at, fields: {visit: {type: string}, at: {type: timestamp}, bought: {type: boolean}}}
entities: {page: {key: [page]}}
views:
  page-visits:
    source: visits
    entity: page
    windows: {1h: {length: 1h}, stay: {session: 5m}}
    aggregations:
      - {function: mean, field: price}
      - {function: count, where: price < 5, name: cheap, windows: [1h]}
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
policy: {mode: auto, retrain_on: [drift, quality], drift_kinds: [calibration], cool_down: 1d}
"""
SPEC = parse_pipeline(SHOP.encode())
START_US, MINUTE_US = 1_767_225_600_000_000, 60_000_000
TRACE = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
"""Of the sender of one visit."""


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
        self.client.apply(SPEC)
        until_sync(lambda: self.client.is_known(SPEC), "the services know the pipeline", timeout_s=60, every_s=0.1)
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

    def misprice(self) -> None:
        """Prices that nobody asks, and time that goes on until their breach has had its turn."""
        visits = [{**visit, "price": 900.0} for visit in self.visits(10)]
        self.send("visits", [{"id": visit["visit"], "data": visit} for visit in visits])
        self.minute += 60
        self.tell(self.visits(1))

    @property
    def now_us(self) -> int:
        """How far event time has gone."""
        return START_US + self.minute * MINUTE_US

    def served_us(self) -> int:
        """How far it has gone in what answers are made of."""
        return self.client.status("serving")["pipelines"]["shop"]["watermark_us"] or -1

    def epoch(self) -> int | None:
        epoch: int | None = self.client.status("serving")["pipelines"]["shop"]["epoch"]
        return epoch

    def joined(self) -> int:
        """Labels that met their prediction."""
        return int(self.client.status("monitoring")["pipelines"]["shop"]["labels"]["joined"])

    def trained(self) -> TrainingOutcome:
        """What became of a training that was asked for now."""
        request = self.client.train("shop", at=self.at(self.minute))
        until_sync(lambda: self.client.training_outcome(request), "a decision on it", timeout_s=90, every_s=0.1)
        outcome = self.client.training_outcome(request)
        assert outcome is not None
        return outcome

    def answered(self) -> Prediction:
        """An answer and its truth, and that monitoring measures against what the release of the answer names."""
        visits = self.visits(1)
        answer = self.client.predict("shop", visits[0])
        self.tell(visits)
        named = {release.epoch: release.reference for release in self.client.releases("shop")}[answer.epoch]
        assert named is not None

        def measured() -> bool:
            told = self.client.status("monitoring")["pipelines"]["shop"]["drift_reference"]
            return bool(told["source"] == "release" and told["digest"] == named)

        until_sync(measured, "drift is measured against the reference of the release", timeout_s=60, every_s=0.1)
        return answer

    def until_joined(self, count: int) -> None:
        """Wait for so many of them."""
        try:
            until_sync(lambda: self.joined() == count, "the labels are joined", timeout_s=60)
        except AssertionError as late:
            late.add_note(f"{self.client.status('monitoring')}\n{self.client.status('serving')}")
            raise

    def visit_traced(self) -> None:
        """One visit whose sender has a trace of its own."""
        [visit] = self.visits(1)
        url = self.client.transport.endpoints.url("ingestion") + "/v1/events/visits"
        sent = httpx.post(url, json={"id": visit["visit"], "data": visit}, headers={"traceparent": TRACE})
        assert sent.status_code == 202

    def vector(self, page: str) -> FeatureVector:
        """What is told of a page now."""
        url = self.client.transport.endpoints.url("features")
        return FeatureVector.model_validate_json(httpx.get(f"{url}/v1/features/page-visits/{page}").content)

    def shadowed(self, *, version: int, rows: int) -> int:
        """Answers beside which a version scores, and their truth until all are counted; the version that answers."""
        epoch = self.client.shadow("shop", version, at=self.at(self.minute)).epoch
        until_sync(lambda: self.epoch() == epoch, "the shadow is open", timeout_s=60, every_s=0.1)
        visits = self.visits(rows)
        answers = self.client.predict_many("shop", [{"inputs": visit} for visit in visits])
        self.tell(visits)

        def counted() -> bool:
            return sum(figures.rows for figures in self.client.shadow_figures("shop")) == rows

        until_sync(counted, "the shadow's scores are counted", timeout_s=60, every_s=0.1)
        return answers[0].version

    def change(self) -> None:
        """Answers and their truth, until a new model is there because the truth has changed."""
        for step in range(30):
            visits = self.visits(20)
            self.client.predict_many("shop", [{"inputs": visit} for visit in visits])
            self.tell(visits, dear_too=step >= 5)
            if self.epoch() == 2:
                return
        until_sync(lambda: self.epoch() == 2, "a second release answers", timeout_s=60, every_s=0.1)
