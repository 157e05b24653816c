"""A stream of which one window has too many nulls, and what is told of it on the way to a manifest."""

from dataclasses import dataclass
from typing import Any

from e2e_reader import Reader
from e2e_shop import MINUTE_US, SPEC, START_US, Shop

from tidemill.client.results import Run
from tidemill.datasets import FromSource, Options, Table, build
from tidemill.datasets.manifest import DatasetManifest
from tidemill_contracts import derived_id, format_time
from tidemill_contracts.events import QualityBreached, TrainingManifest
from tidemill_runtime.archive import archive_path, read_events
from tidemill_runtime.artifacts import Artifacts
from tidemill_testkit.waiting import until_sync

WINDOW_US, ROWS = 10 * MINUTE_US, 20
"""Of the shop's rule, and how many visits come in one."""
Places = dict[int, int]
"""Number of an event to its offset."""


@dataclass(frozen=True)
class Blanks:
    """Two windows of visits, in the first of them one in twenty without a price."""

    reader: Reader
    shop: Shop
    start_us: int

    @property
    def name(self) -> str:
        """Of the first window in the quarantine."""
        return str(derived_id("quality", "visits", 0, self.start_us, "price", "nulls"))

    def told(self) -> Places:
        """Send them and what was bought: before a third window begins, the first is told of with its numbers."""
        visits = self._visits()
        self.shop.send("visits", [{"id": v["visit"], "data": v} for v in visits])
        sales = [{"visit": v["visit"], "at": v["at"], "bought": v.get("price", 9) < 5} for v in visits]
        self.shop.send("sales", [{"id": sale["visit"], "data": sale} for sale in sales])
        until_sync(self._breaches, "the window with nulls is told of", timeout_s=60, every_s=0.2)
        [breach], mine = self._breaches(), {f"w{n}" for n in range(ROWS)}
        assert (breach.field, breach.rule, breach.value, breach.rows) == ("price", "nulls", 1 / ROWS, ROWS)
        assert breach.window_us == (self.start_us, self.start_us + WINDOW_US)
        events = self.reader.records("events", "visits")
        places = {r.envelope.seq or 0: r.offset for r in events if r.envelope and r.envelope.id in mine}
        assert _all(breach.ranges) == sorted(places)
        return places

    def listed(self, places: Places) -> None:
        """They are not gone: the command shows the window and the numbers."""
        [mine] = [
            each for each in self.reader.json("tidemill quarantine list visits --json") if each["id"] == self.name
        ]
        assert (mine["rows"], mine["released"]) == (ROWS, False)
        assert _all(mine["ranges"]) == sorted(places)
        table = read_events(archive_path(str(self.reader.home / "artifacts"), "visits"), {0: max(places) + 1})
        both = zip(table.column("seq").to_pylist(), table.column("offset").to_pylist(), strict=True)
        assert {seq: offset for seq, offset in both if seq in places} == places

    def left_out(self, places: Places) -> None:
        """A data set of visits has no rows of them, says so, and is made again from its manifest."""
        made = self._dataset()
        assert set(_all(made.manifest.excluded["0"])) >= set(places)
        ids = set(made.to_arrow().column("event_id").to_pylist())
        assert not ids & {f"w{n}" for n in range(ROWS)}
        assert ids > {f"w{n}" for n in range(ROWS, 2 * ROWS)}
        assert self._dataset(manifest=made.manifest).manifest == made.manifest
        whole = self._dataset(quarantined=True).manifest
        assert whole.rows.count - made.manifest.rows.count == len(_all(made.manifest.excluded["0"]))
        assert whole.excluded == {}

    def is_back(self) -> bool:
        """Whether a data set of visits has them."""
        return "w3" in self._dataset().to_arrow().column("event_id").to_pylist()

    def _dataset(self, *, manifest: DatasetManifest | None = None, quarantined: bool = False) -> Table:
        options = Options(home=self.reader.home, views=["page-visits"], manifest=manifest, quarantined=quarantined)
        return build(SPEC, FromSource("visits"), options)

    def release(self) -> None:
        """By the command; its word is then on the log, where trainings look."""
        command = f"tidemill quarantine release {self.name} --detail 'the till was broken' --json"
        assert self.reader.json(command)["released"] is True
        assert self.name not in {each.id for each in self.shop.client.quarantine("visits")}
        word = str(derived_id("quarantine released", self.name))
        until_sync(
            lambda: any(r.envelope is not None and r.envelope.id == word for r in self.reader.records("quality")),
            "the release is on the log", timeout_s=60, every_s=0.1,
        )  # fmt: skip

    def manifest(self) -> TrainingManifest:
        """Of a training from the archive that is asked for now."""
        self.shop.minute += 1  # a request's id follows from its time
        client = self.shop.client
        request = client.train("shop", at=self.shop.at(self.shop.minute), from_archive=True)

        def finished() -> list[Run]:
            return [run for run in client.runs("shop") if run.request_id == request and run.result is not None]

        until_sync(finished, "the training is over", timeout_s=90, every_s=0.1)
        [run] = finished()
        assert run.result is not None
        assert run.status == "succeeded", run
        raw = Artifacts(self.reader.home / "artifacts").get(run.result["manifest"])
        return TrainingManifest.model_validate_json(raw)

    def _visits(self) -> list[dict[str, Any]]:
        """Half a minute apart."""
        step = WINDOW_US // ROWS
        found = []
        for n in range(2 * ROWS):
            visit: dict[str, Any] = {"visit": f"w{n}", "page": "w", "at": format_time(self.start_us + n * step)}
            found.append(visit if n == ROWS // 2 else {**visit, "price": float(n % 10)})
        return found

    def _breaches(self) -> list[QualityBreached]:
        words = [record.envelope for record in self.reader.records("quality")]
        return [QualityBreached.read(word.data) for word in words if word is not None and word.id == self.name]


def after(reader: Reader, shop: Shop) -> Blanks:
    """Windows after all that the shop has seen; its clock goes on past them."""
    start_us = START_US + (shop.minute * MINUTE_US // WINDOW_US + 1) * WINDOW_US
    shop.minute = (start_us - START_US + 2 * WINDOW_US) // MINUTE_US
    return Blanks(reader, shop, start_us)


def excluded(manifest: TrainingManifest) -> set[int]:
    """Numbers of the visits that a manifest leaves out."""
    return set(_all(manifest.excluded.get("events.visits", {}).get("0", [])))


def _all(ranges: list[Any]) -> list[int]:
    return [number for first, last in ranges for number in range(first, last + 1)]
