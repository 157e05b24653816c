import zipfile
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

from tidemill.demo import flights as data
from tidemill.demo.live import Rate, View, rolling
from tidemill.demo.quality import BASELINE, Scores, daily_curves, quality
from tidemill.demo.replay import Progress, Replay, Streams
from tidemill_contracts import parse_time
from tidemill_contracts.pipeline import load_pipeline
from tidemill_engine.stats import LossSums

if TYPE_CHECKING:
    from tidemill.client.transport import AsyncTransport

PIPELINE = Path(__file__).parents[3] / "pipelines" / "flight-delay.yaml"
FLIGHTS = (
    "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,tailnum,"
    "origin,dest,air_time,distance,hour,minute,time_hour"
)
ROW = (
    "2013,1,1,{clock},600,{early},830,840,{late},UA,{number},N1,"
    "EWR,IAH,120,1400,{hour},{minute},2013-01-01T1{hour}:00:00Z"
)
WEATHER = "origin,time_hour,temp,dewp,humid,wind_speed,wind_gust,precip,pressure,visib"


@pytest.fixture(scope="module")
def year() -> Streams:
    """The real data."""
    return Streams.load()


def small(folder: Path, monkeypatch: pytest.MonkeyPatch, *delays: float | str) -> Streams:
    """Flights at 10:00, 10:20, 10:40, 11:00, ... UTC, one for each departure delay; "NA" was cancelled."""
    folder.mkdir(exist_ok=True)
    rows = []
    for i, delay in enumerate(delays):
        hour, minute = divmod(20 * i, 60)
        late = "NA" if delay == "NA" else float(delay)
        clock = "NA" if delay == "NA" else 600
        rows.append(ROW.format(clock=clock, early=delay, late=late, number=i, hour=hour, minute=minute))
    with zipfile.ZipFile(folder / "flights.csv.zip", "w") as archive:
        archive.writestr("flights.csv", "\n".join([FLIGHTS, *rows]))
    readings = ["EWR,2013-01-01T10:00:00Z,30,20,50,5,NA,0,1000,10", "JFK,2013-01-01T11:00:00Z,31,NA,51,6,NA,0,NA,10"]
    (folder / "weather.csv").write_text("\n".join([WEATHER, *readings]))
    monkeypatch.setattr(data, "data_folder", lambda: folder)
    return Streams.load()


class Services:
    """Answers a replay as services would that are always up to date, and remembers what came in which order."""

    def __init__(self) -> None:
        self.log: list[tuple[str, str]] = []
        self.progress: dict[str, int] = {}

    async def call(
        self,
        service: str,
        method: str,
        path: str,
        *,
        body: Any = None,  # noqa: ANN401 - JSON
        params: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Any:  # noqa: ANN401 - JSON
        assert (service, method) in {
            ("ingestion", "POST"),
            ("serving", "POST"),
            ("serving", "GET"),
            ("monitoring", "GET"),
        }
        if path.startswith("/v1/events/"):
            self.log += [("event", event["id"]) for event in body]
            assert params is not None, "the last batch of a tick says that the tick is over"
            self.progress[path.split("/")[3]] = parse_time(params["progress"])
        elif path.startswith("/v1/predict/"):
            assert headers is not None
            assert {*self.progress.values()} <= {int(headers["tidemill-minimum-watermark"])}, "as of all that was sent"
            self.log += [("predict", each["id"]) for each in body["instances"]]
            return {"predictions": [{}] * len(body["instances"])}
        else:
            known: dict[str, Any] = {"watermark_us": 2**61, "requests": [], "epoch": 1, "staged": []}
            return {"pipelines": {"flight-delay": known}}
        return {}

    def predicted(self) -> list[str]:
        return [name for kind, name in self.log if kind == "predict"]


async def replayed(streams: Streams) -> Services:
    services = Services()
    replay = Replay(cast("AsyncTransport", services), load_pipeline(PIPELINE), streams, Progress())
    low = int(streams.flights.scheduled_us[0]) // data.HOUR * data.HOUR
    await replay.run(low, low + 12 * data.HOUR, tick=30 * data.MINUTE)
    return services


@pytest.mark.timeout(300)
def test_no_departure_is_known_before_its_flight_was_to_be_predicted(year: Streams) -> None:
    flights = year.flights
    assert len(flights.key) == 336_776
    assert len(set(flights.key)) == len(flights.key)
    assert (flights.departed_us >= flights.scheduled_us).all()
    early = np.flatnonzero(flights.dep_delay < 0)
    assert len(early) > 100_000
    assert (flights.departed_us[early] == flights.scheduled_us[early]).all()
    assert (flights.arrived_us[year.arrivals] > flights.scheduled_us[year.arrivals]).all()
    assert (np.diff(flights.scheduled_us) >= 0).all()


def test_windows_hold_every_event_once_and_every_flight_once(year: Streams) -> None:
    low, high = data.START_US, data.START_US + 3 * data.DAY
    edges = [low, low + 7 * data.MINUTE, low + data.DAY, low + 2 * data.DAY + 13 * data.HOUR, high]
    whole = {source: [e["id"] for e in events] for source, events in year.events(low, high, None)}
    parts: dict[str, list[str]] = {source: [] for source in whole}
    for start, end in pairwise(edges):
        for source, events in year.events(start, end, None):
            parts[source] += [event["id"] for event in events]
    assert parts == whole
    assert all(len(set(ids)) == len(ids) > 0 for ids in whole.values())
    asked = [i for start, end in pairwise(edges) for i in year.scheduled(start, end).tolist()]
    assert asked == year.scheduled(low, high).tolist()


def test_events_stand_in_their_window(year: Streams) -> None:
    low, high = data.START_US + 36 * data.HOUR, data.START_US + 37 * data.HOUR
    fields = {"departures": "departed", "arrivals": "arrived", "weather": "at"}
    for source, events in year.events(low, high, None):
        assert events
        assert all(low <= parse_time(event["data"][fields[source]]) < high for event in events)


async def test_a_prediction_comes_before_its_flights_own_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = small(tmp_path / "a", monkeypatch, -25, 0, 10, -40, 90, "NA")
    services = await replayed(streams)
    assert len(services.predicted()) == 6
    for key in streams.flights.key:
        predicted = services.log.index(("predict", key))
        for event in (f"dep-{key}", f"arr-{key}"):
            assert ("event", event) not in services.log or services.log.index(("event", event)) > predicted
    assert sum(name.startswith("dep-") for _, name in services.log) == 5
    assert set(services.progress) == {"departures", "arrivals", "weather"}


async def test_an_early_departure_changes_nothing_in_the_order_of_predictions_and_departures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_time = await replayed(small(tmp_path / "a", monkeypatch, 0, 0, 0, 0))
    planted = await replayed(small(tmp_path / "b", monkeypatch, 0, 0, 0, -55))
    wanted = [each for each in on_time.log if not each[1].startswith("arr-")]
    assert [each for each in planted.log if not each[1].startswith("arr-")] == wanted


def test_the_truth_changes_from_an_arrival_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = small(tmp_path, monkeypatch, 5, 5)
    change = int(streams.flights.arrived_us[1])
    events = dict(streams.events(data.START_US, data.START_US + data.DAY, change))["arrivals"]
    assert [event["data"]["late"] for event in events] == [False, True]
    assert [event["data"]["arr_late"] for event in events] == [False, False]


def test_a_silent_sensor_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = dict(small(tmp_path, monkeypatch, 0).events(data.START_US, data.START_US + data.DAY, None))["weather"]
    assert "wind_gust" not in events[0]["data"]
    assert events[1]["data"]["humid"] == 51.0
    assert "dewp" not in events[1]["data"]


def test_quality_compares_both_models_on_the_same_rows() -> None:
    january, march = data.START_US + data.DAY, data.START_US + 70 * data.DAY
    scores = Scores([january, march, march], [1.0, 1.0, 0.0], [0.5, 0.9, 0.1], [0.5, 0.5, 0.5], [1, 1, 2])
    found = quality(scores)
    assert found["loop"]["n"] == found["frozen"]["n"] == 3
    assert found["frozen"]["log_loss"] == pytest.approx(np.log(2))
    assert found["loop"]["log_loss"] == pytest.approx((np.log(2) - 2 * np.log(0.9)) / 3)
    assert set(found["months"]) == {"2013-01", "2013-03"}
    assert found["months"]["2013-03"]["loop"]["auc"] == 1.0
    assert found["months"]["2013-01"]["loop"]["auc"] is None
    assert quality(scores, since_us=march)["loop"]["n"] == 2


def test_daily_curves_roll_and_have_no_value_without_rows() -> None:
    first = data.START_US // data.DAY * data.DAY
    scores = Scores([first, first + 10 * data.DAY], [1.0, 1.0], [0.5, 0.25], [0.5, 0.5], [1, 1])
    curves = daily_curves(scores)
    assert len(curves["day_us"]) == 11
    assert curves["loop"][:7] == pytest.approx([np.log(2)] * 7)
    assert curves["loop"][7:10] == [None, None, None]
    assert curves["loop"][10] == pytest.approx(np.log(4))
    assert daily_curves(Scores())["day_us"] == []


def test_the_live_view_rolls_over_the_newest_days_of_everything() -> None:
    half, sure = LossSums.of(np.array([1.0]), np.array([0.5])), LossSums.of(np.array([1.0]), np.array([1.0]))
    items = [
        {"segment": "", "pane_us": 0, "sums": sure.to_dict(), "shadows": {}},
        {"segment": "", "pane_us": 9 * data.DAY, "sums": half.to_dict(), "shadows": {BASELINE: sure.to_dict()}},
        {"segment": "origin=EWR", "pane_us": 9 * data.DAY, "sums": sure.to_dict(), "shadows": {}},
    ]
    loop, frozen = rolling(items)
    assert loop == pytest.approx(np.log(2), abs=1e-9)
    assert frozen == pytest.approx(0.0, abs=1e-6)
    assert rolling([]) == (None, None)


def test_a_rate_is_growth_over_the_last_seconds() -> None:
    rate = Rate()
    assert rate.read(100, 0.0) == 0.0
    assert rate.read(200, 1.0) == 100.0
    assert rate.read(200, 30.0) == 0.0


def test_the_line_says_where_the_demo_is() -> None:
    progress = Progress(phase="loop", events=1_234, predictions=56, end_us=data.START_US + data.DAY)
    view = View(progress)
    view.seen.loop, view.seen.frozen, view.seen.drifts = 0.4, 0.5, 3
    view.tick()
    for part in ("the loop", "2013-01-01", "1,234 events", "0.4000 (frozen 0.5000)", "3 drifts"):
        assert part in view.line()
