"""What the README promises to a stranger, and what one trace shows: on one real stack that its commands start."""

import asyncio
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pyarrow as pa
import pytest
from e2e_adder import adder
from e2e_garbage import poison
from e2e_quarantine import ROWS, after, excluded
from e2e_reader import Reader
from e2e_shop import SHOP, SPEC, TRACE, Shop
from e2e_spans import FEATURES, INGESTION, LED_TO_A_SWAP, PREDICT, SERVING, about, way_back
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tidemill import Client
from tidemill.client.transport import Endpoints
from tidemill.datasets import Options, build
from tidemill.stack import Stack
from tidemill_contracts.events import RunFinished, RunProgress, TrainingCoalesced
from tidemill_contracts.pipeline import parse_pipeline
from tidemill_contracts.topics import view_topic
from tidemill_runtime.settings import ServiceSettings
from tidemill_testkit.otlp import otlp_receiver
from tidemill_testkit.readme import Block, blocks_of
from tidemill_testkit.waiting import until_sync

ROOT = Path(__file__).parents[2]
HEADING = "Your own pipeline in ten minutes"
START, STOP = "tidemill up", "tidemill down"
pytestmark = [pytest.mark.timeout(600)]


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
    from_archive = reader.read("tidemill parity")
    assert re.search(r"[1-9] vectors with [0-9]+ values checked, 0 differ", from_archive)
    assert "payments.parquet: 4,000 rows" in from_archive


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
        (FEATURES, f"send {view_topic('features', 'page-visits', SPEC.view_version('page-visits'))}"),
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

    def told() -> list[Span]:
        return way_back(reader.traces(), second)

    def predictions(drift: Span) -> list[Span]:
        return [cause for cause in reader.traces().causes(drift) if cause.name == PREDICT]

    until_sync(
        lambda: len(told()) > len(LED_TO_A_SWAP) and len(predictions(told()[-1])) > 0,
        "a way from the second swap back to predictions", timeout_s=60,
    )  # fmt: skip
    traces, [swap, release, *others] = reader.traces(), told()
    assert release in traces.causes(swap)
    assert about(release) == second
    assert {span.trace_id for span in [release, *others]} == {swap.trace_id}
    seen = predictions(others[-1])
    for prediction in seen:
        answering = traces.back(prediction, SERVING, "swap")
        assert answering is not None
        assert about(answering) == ("shop", 1)


def test_a_run_tells_its_steps_before_its_end(reader: Reader) -> None:
    """On the topic of runs: steps with rising shares for every run, the end after them."""

    events = reader.events("runs")
    finished = [event for event in events if isinstance(event, RunFinished)]
    assert finished
    for run in finished:
        before = events[: events.index(run)]
        steps = [event for event in before if isinstance(event, RunProgress) and event.run_id == run.run_id]
        assert [step.step for step in steps][:1] == ["rows"]
        assert steps[-1].step == "check"
        assert [step.share for step in steps] == sorted(step.share for step in steps)
    assert not [event for event in events[events.index(finished[-1]) :] if isinstance(event, RunProgress)]


def test_a_session_and_a_filter_are_the_same_online_offline_and_in_the_log(reader: Reader, shop: Shop) -> None:
    """A page's vector in the service, the data set's row of that instant, and what an answer was made of."""
    before = shop.visits(7, page="b")
    shop.minute += 20
    now = shop.visits(4, page="b")
    shop.send("visits", [{"id": visit["visit"], "data": visit} for visit in [*before, *now]])
    shop.tell(now)
    until_sync(lambda: shop.served_us() >= shop.now_us, "serving has seen them", timeout_s=60)
    online = shop.vector("b")
    prices = [visit["price"] for visit in [*before, *now]]
    assert online.values == [sum(prices) / 11, sum(prices[-4:]) / 4, float(sum(price < 5 for price in prices))]
    behind = pa.array([online.at_us + 1]).cast(pa.timestamp("us", "UTC"))  # a row sees what is strictly before it
    rows = pa.table({"page": ["b"], "at": behind})
    offline = build(SPEC, rows, Options(views=["page-visits"], home=reader.home)).to_arrow()
    names = SPEC.views["page-visits"].feature_names("page-visits")
    assert [offline.column(name).to_pylist() for name in names] == [[value] for value in online.values]
    answer = shop.client.predict("shop", shop.visits(1, page="b")[0])
    assert answer.defaulted == []
    found = reader.json("tidemill parity --pipeline shop --json")
    assert found["mismatches"] == 0, found
    assert found["checked"] > 0


def test_a_stream_that_breaks_a_bound_is_a_cause_like_any_other(reader: Reader, shop: Shop) -> None:
    """Told by ingestion, taken by monitoring in its turn; within the cool-down of the training that drift asked for."""
    shop.misprice()

    def causes() -> list[str]:
        told = [event for event in reader.events("training") if isinstance(event, TrainingCoalesced)]
        return [event.cause.detail for event in told if event.cause.kind == "quality"]

    until_sync(causes, "quality is a cause", timeout_s=60, every_s=0.2)
    assert causes() == ["visits.price range"]


def test_five_in_a_hundred_nulls_are_kept_from_the_next_model_until_a_hand_lets_them_back(
    reader: Reader, shop: Shop
) -> None:
    """Told within one window with exact numbers, listed, left out by the next manifest, and in the one after."""
    blanks = after(reader, shop)
    places = blanks.told()
    kept = blanks.manifest()
    blanks.listed(places)
    blanks.left_out(places)
    blanks.release()
    whole = blanks.manifest()
    assert blanks.is_back()
    assert excluded(kept) - excluded(whole) == set(places)
    assert sum(whole.rows.values()) - sum(kept.rows.values()) == ROWS


def test_a_shadow_is_judged_by_the_rows_that_were_answered_beside_it(reader: Reader, shop: Shop) -> None:
    """Scored by serving after the answer, joined by monitoring with the label, told by a command."""
    before = shop.shadowed(version=1, rows=12)
    [figures] = reader.json("tidemill rollout shop --json")["shadow_figures"]
    assert (figures["name"], figures["against"], figures["rows"]) == ("v1", before, 12)
    assert figures["difference"]["mean"] == pytest.approx(figures["log_loss"] - figures["answers_log_loss"])


def test_an_onnx_file_becomes_a_model_that_answers(reader: Reader) -> None:
    """Imported by a command, announced, opened and asked; the same bytes again keep their version."""
    (reader.folder / "here" / "model.onnx").write_bytes(adder())
    command = "tidemill import model.onnx --name adder --json"
    made = [reader.json(command) for _ in range(2)]
    assert [(each["version"], each["created"], each["state"]) for each in made] == [
        (1, True, "READY"), (1, False, "READY"),
    ]  # fmt: skip
    inputs = [{"name": name, "datatype": "FP32", "shape": [2], "data": [1, 2]} for name in ("x", "y")]
    url = Endpoints.find(reader.home).url("serving")
    answer = httpx.post(f"{url}/v2/models/adder/infer", json={"inputs": inputs}).json()
    assert answer["outputs"] == [{"name": "sum", "datatype": "FP32", "shape": [2], "data": [2.0, 4.0]}]


def test_garbage_on_every_topic_harms_nobody(reader: Reader, shop: Shop) -> None:
    """What can be said is in the dead letters; no process ends, and the loop goes on from the event to the release."""
    endpoints, stack = Endpoints.find(reader.home), Stack(reader.home)
    settings = ServiceSettings(
        service="test",
        kafka=endpoints.bootstrap(),
        postgres="postgresql:///none",
        artifacts="none",
        state=reader.folder,
    )
    before = {name: (process.pid, process.restarts) for name, process in stack.endpoints().services.items()}
    joined = shop.joined()
    assert len(asyncio.run(poison(settings))) > 30
    visits = shop.visits(20)
    answers = shop.client.predict_many("shop", [{"inputs": visit} for visit in visits])
    assert all(0 <= answer.score <= 1 for answer in answers)
    shop.tell(visits)
    shop.until_joined(joined + 20)
    request = shop.client.train("shop", at=shop.at(shop.minute))
    until_sync(lambda: shop.client.training_outcome(request), "a decision on a model", timeout_s=90, every_s=0.1)
    for name, url in endpoints.urls.items():
        answer = httpx.get(f"{url}/readyz")
        assert answer.status_code == 200, f"{name}: {answer.text}"
    assert {n: (p.pid, p.restarts) for n, p in stack.endpoints().services.items()} == before
    assert {letter.origin_topic for letter in shop.client.letters(limit=200)} >= {"tidemill.raw.visits.v1"}


def test_versions_of_a_view_stand_side_by_side_and_models_keep_theirs(reader: Reader, shop: Shop) -> None:
    """A file with another window: the model before answers from its own version, the next one from the new one.

    What drift is measured against goes and comes back with them.
    """
    epoch, client = shop.epoch(), shop.client
    changed = parse_pipeline(SHOP.replace("{length: 1h}", "{length: 1h, panes: 4}").encode())
    old, new = (spec.view_version("page-visits") for spec in (SPEC, changed))
    client.apply(changed)

    def running() -> set[str]:
        return {each["version"] for each in client.status("features")["views"] if each["view"] == "page-visits"}

    until_sync(lambda: running() == {old, new}, "both versions run", timeout_s=60, every_s=0.1)
    visits = shop.visits(20)
    shop.send("visits", [{"id": visit["visit"], "data": visit} for visit in visits])
    shop.tell(visits)
    until_sync(lambda: shop.served_us() >= shop.now_us, "serving has seen them", timeout_s=60)
    before, outcome = shop.answered(), shop.trained()
    assert outcome.status == "released", outcome
    until_sync(lambda: shop.epoch() == outcome.epoch, "the new release answers", timeout_s=60, every_s=0.1)
    after = shop.answered()
    client.rollback("shop", at=shop.at(shop.minute))
    until_sync(lambda: (shop.epoch() or 0) > after.epoch, "the one before answers again", timeout_s=60, every_s=0.1)
    back = shop.answered()
    assert [before.epoch, after.epoch] == [epoch, outcome.epoch]
    named = {release.epoch: (release.views["page-visits"], release.reference) for release in client.releases("shop")}
    first, second, third = (named[answer.epoch] for answer in (before, after, back))
    assert (first[0], second[0], third) == (old, new, first)
    assert all(one != other for one, other in zip(first, second, strict=True))
    found = reader.json("tidemill parity --pipeline shop --all --json")
    assert found["mismatches"] == 0, found
    assert found["checked"] >= 3
