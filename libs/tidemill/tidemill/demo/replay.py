"""Replays the year in event time: a tick's predictions, then its events, then a wait until serving has seen them.

Event time never runs ahead of what the loop has decided. A tick is held until monitoring has judged everything older
than the training duration and every training request that takes effect by its end has an outcome that serving has
staged. So the speed of the machine changes nothing that is decided.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tidemill.client.transport import AsyncTransport, RefusedError, UnreachableError
from tidemill.demo import flights as data
from tidemill_contracts import format_time
from tidemill_contracts.pipeline import PipelineSpec

SETTLED = frozenset({"released", "failed", "refused", "coalesced", "inconclusive", "rejected", "suggested"})
BATCH = 1000
CHUNK = 250
WAIT_S = 10
NOT_FOUND = 404


@dataclass(slots=True)
class Progress:
    """What the live view shows."""

    now_us: int = data.START_US
    end_us: int = data.START_US
    phase: str = "starting"
    events: int = 0
    predictions: int = 0
    answered: int = 0
    waits: dict[str, float] = field(default_factory=dict)

    def waited(self, name: str, since: float) -> None:
        """Add the time since `since` (a monotonic reading) to a kind of waiting."""
        self.waits[name] = self.waits.get(name, 0.0) + time.monotonic() - since


@dataclass(frozen=True, slots=True)
class Streams:
    """The four streams of the demo, each sorted by its own event time."""

    flights: data.Flights
    weather: data.Weather
    departures: data.Ints
    arrivals: data.Ints

    @classmethod
    def load(cls) -> "Streams":
        """Everything of the year, read from the data package."""
        flights, weather = data.load_flights(), data.load_weather()
        departed = np.flatnonzero(~np.isnan(flights.dep_delay))
        arrived = np.flatnonzero(~np.isnan(flights.arr_delay))
        return cls(
            flights, weather,
            departed[np.argsort(flights.departed_us[departed], kind="stable")],
            arrived[np.argsort(flights.arrived_us[arrived], kind="stable")],
        )  # fmt: skip

    def scheduled(self, low: int, high: int) -> data.Ints:
        """Flights to be predicted in [low, high)."""
        first, last = np.searchsorted(self.flights.scheduled_us, [low, high])
        return np.arange(first, last)

    def events(self, low: int, high: int, change_us: int | None) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Events of [low, high) by source, in event time."""
        first, last = np.searchsorted(self.flights.departed_us[self.departures], [low, high])
        yield "departures", data.departure_events(self.flights, self.departures[first:last])
        first, last = np.searchsorted(self.flights.arrived_us[self.arrivals], [low, high])
        yield "arrivals", data.arrival_events(self.flights, self.arrivals[first:last], change_us=change_us)
        first, last = np.searchsorted(self.weather.at_us, [low, high])
        yield "weather", data.weather_events(self.weather, np.arange(first, last))


@dataclass(slots=True)
class Replay:
    """Drives one pipeline. `on_tick` is called after each tick: the place for kills and the live view."""

    transport: AsyncTransport
    spec: PipelineSpec
    streams: Streams
    progress: Progress
    change_us: int | None = None
    on_tick: Callable[[int], Awaitable[None]] | None = None
    merged_us: int = -1
    request_times: dict[str, int | None] = field(default_factory=dict)
    settled: set[str] = field(default_factory=set)
    served_us: int = -1

    async def wait_configured(self) -> None:
        """Until every service that takes requests knows the pipeline."""

        async def known() -> bool:
            ingestion = await self.transport.call("ingestion", "GET", "/v1/status")
            serving = await self.transport.call("serving", "GET", "/v1/status")
            return (
                all(name in ingestion["sources"] for name in self.spec.sources)
                and self.spec.name in serving["pipelines"]
            )

        await self._until(known, "every service to know the pipeline", pause_s=0.1)

    async def warm_up(self, low: int, high: int, *, step: int = data.DAY) -> None:
        """Send the events of [low, high) without predictions: history for the first model."""
        for start in range(low, high, step):
            await self._send(start, min(start + step, high))
            self.progress.now_us = min(start + step, high)
        await self.wait_served(high)

    async def first_model(self, at_us: int) -> None:
        """Ask for the cold-start model from what is known at `at_us` and wait until serving answers with it."""
        body = {"cause": "cold_start", "at": format_time(at_us), "positions": await self._positions()}
        request = await self.transport.call("trainer", "POST", f"/v1/pipelines/{self.spec.name}/train", body=body)
        outcome = await self._outcome(request["request_id"])
        if outcome["status"] != "released":
            msg = f"the first model was not released: {outcome}"
            raise UnreachableError(msg)
        await self._until(
            lambda: self._serving_epoch(int(outcome["epoch"])), "the first release in serving", patience_s=120
        )

    async def run(self, low: int, high: int, *, tick: int) -> None:
        """The loop proper, tick by tick over [low, high). Ticks without predictions go out with the next."""
        sent = low
        for start in range(low, high, tick):
            wanted = self.streams.scheduled(start, min(start + tick, high))
            if len(wanted):
                await self._move(sent, start)
                sent = start
                await self._predict(wanted, start)
        await self._move(sent, high)

    async def _move(self, low: int, high: int) -> None:
        """Bring event time from `low` to `high`, once everything that takes effect by then is decided."""
        if low == high:
            return
        await self.hold(high)
        await self._send(low, high)
        self.progress.now_us = high
        if self.on_tick is not None:
            await self.on_tick(high)

    async def drain(self, end_us: int) -> None:
        """Wait until everything sent has been joined and every request is settled."""
        await self.wait_served(end_us)
        await self._wait_merged(end_us)
        for request_id in list(self.request_times):
            await self._settle(request_id)

    async def wait_served(self, until_us: int) -> None:
        """Until serving's replica has seen all events before `until_us`."""
        since = time.monotonic()

        async def served() -> bool:
            if self.served_us < until_us:
                status = await self.transport.call("serving", "GET", "/v1/status")
                self.served_us = (status["pipelines"].get(self.spec.name) or {}).get("watermark_us") or -1
            return self.served_us >= until_us

        await self._until(served, f"serving at {format_time(until_us)}", pause_s=0.003)
        self.progress.waited("serving", since)

    async def hold(self, until_us: int) -> None:
        """Until the loop has decided all that takes effect by `until_us`."""
        since = time.monotonic()
        duration = self.spec.policy.training_duration or 0
        if self.merged_us < until_us - duration:
            await self._wait_merged(until_us - duration)
        for request_id, effective in list(self.request_times.items()):
            if effective is not None and effective <= until_us:
                await self._settle(request_id)
        self.progress.waited("decisions", since)

    async def _wait_merged(self, until_us: int) -> None:
        async def merged() -> bool:
            status = await self.transport.call("monitoring", "GET", "/v1/status")
            mine = status["pipelines"].get(self.spec.name)
            if mine is None:
                return False
            for request in mine["requests"]:
                if request["request_id"] not in self.settled:
                    self.request_times.setdefault(request["request_id"], request["effective_at_us"])
            self.merged_us = mine["watermark_us"]
            return bool(self.merged_us >= until_us)

        await self._until(merged, f"monitoring at {format_time(until_us)}")

    async def _settle(self, request_id: str) -> None:
        outcome = await self._outcome(request_id)
        if outcome["status"] == "released":
            epoch = int(outcome["epoch"])
            await self._until(lambda: self._serving_epoch(epoch, staged=True), f"epoch {epoch} staged", patience_s=120)
        self.settled.add(request_id)
        self.request_times.pop(request_id, None)

    async def _outcome(self, request_id: str) -> dict[str, Any]:
        found: dict[str, Any] = {}

        async def decided() -> bool:
            for service in ("trainer", "registry"):
                try:
                    answer = await self.transport.call(service, "GET", f"/v1/requests/{request_id}")
                except RefusedError as error:
                    if error.status != NOT_FOUND:
                        raise
                    continue
                if answer["status"] in SETTLED:
                    found.update(answer)
                    return True
            return False

        await self._until(decided, f"the outcome of training request {request_id}", pause_s=0.1, patience_s=600)
        return found

    async def _serving_epoch(self, epoch: int, *, staged: bool = False) -> bool:
        status = await self.transport.call("serving", "GET", "/v1/status")
        mine = status["pipelines"].get(self.spec.name) or {}
        return (mine.get("epoch") or 0) >= epoch or (staged and epoch in (mine.get("staged") or []))

    async def _positions(self) -> dict[str, dict[str, int]]:
        status = await self.transport.call("ingestion", "GET", "/v1/status")
        return {
            f"events.{name}": entry["positions"]
            for name, entry in status["sources"].items()
            if name in self.spec.sources
        }

    async def _predict(self, wanted: data.Ints, start_us: int) -> None:
        """Ask for predictions from features as of `start_us`: the service waits for them; a 503 means again."""
        fresh = {"tidemill-minimum-watermark": str(start_us), "prefer": f"wait={WAIT_S}"}
        path, since = f"/v1/predict/{self.spec.name}", time.monotonic()
        for first in range(0, len(wanted), CHUNK):
            part = wanted[first : first + CHUNK]
            body = {"instances": data.prediction_inputs(self.streams.flights, part)}
            answer = await self.transport.call("serving", "POST", path, body=body, headers=fresh)
            self.progress.answered += len(answer["predictions"])
        self.progress.predictions += len(wanted)
        self.progress.waited("predictions", since)

    async def _send(self, low: int, high: int) -> None:
        async with asyncio.TaskGroup() as group:
            for source, events in self.streams.events(low, high, self.change_us):
                group.create_task(self._send_source(source, events, high))

    async def _send_source(self, source: str, events: list[dict[str, Any]], until_us: int) -> None:
        """The last batch carries the word that the tick is over: one record less to wait for in every topic behind."""
        path, word = f"/v1/events/{source}", {"progress": format_time(until_us)}
        for first in range(0, max(len(events), 1), BATCH):
            batch, is_last = events[first : first + BATCH], first + BATCH >= len(events)
            await self.transport.call("ingestion", "POST", path, body=batch, params=word if is_last else None)
        self.progress.events += len(events)

    @staticmethod
    async def _until(
        condition: Callable[[], Awaitable[bool]], what: str, *, pause_s: float = 0.01, patience_s: float = 120.0
    ) -> None:
        """Poll a named condition; raises UnreachableError naming it when patience runs out."""
        deadline = time.monotonic() + patience_s
        while not await condition():
            if time.monotonic() > deadline:
                msg = f"waited {patience_s:.0f} s in vain for {what}"
                raise UnreachableError(msg)
            await asyncio.sleep(pause_s)
