"""`features list | show` and `quarantine list | show | release` against services that answer from a table."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from tidemill.cli.main import build
from tidemill.client import Client, Endpoints, TidemillError
from tidemill.client.transport import SERVICES
from tidemill_contracts.pipeline import PipelineSpec, load_pipeline

SPEC = load_pipeline(Path(__file__).parents[3] / "pipelines" / "flight-delay.yaml")
DIGEST = "0" * 64
WINDOW = {
    "id": "2c7d1a3e-8f1b-5f55-9c1d-0a4b6f0e7a11", "source": "weather", "partition": 1, "field": "temp", "rule": "nulls",
    "value": 0.05, "bound": 0.04, "rows": 60, "window": ["2013-01-01T11:00:00Z", "2013-01-01T12:00:00Z"],
    "ranges": [[40, 97], [99, 100]], "released": False, "detail": "",
}  # fmt: skip


def owned(spec: PipelineSpec) -> PipelineSpec:
    """The pipeline with an owner of one view and bounds on the weather."""
    body = spec.model_dump(mode="json")
    body["views"]["airport-weather"] |= {"owner": "met office", "description": "what the weather is"}
    body["sources"]["weather"]["quality"] = {"fields": {"temp": {"max_nulls": 0.04}}}
    return PipelineSpec.model_validate_json(json.dumps(body))


OWNED = owned(SPEC)


def part(partition: int, watermark_us: int | None, **positions: int) -> dict[str, Any]:
    named = {name.removeprefix("p"): seq for name, seq in positions.items()}
    return {"partition": partition, "watermark_us": watermark_us, "positions": named, "keys": 3, "state_bytes": 100}


class Services:
    """What the services answer, and what was posted."""

    def __init__(self) -> None:
        self.posted: list[Any] = []
        running = [
            {"view": "airport-weather", "version": OWNED.view_version("airport-weather"), "pipeline": "flight-delay",
             "partitions": [part(0, 7_000_000, p0=8), part(1, 5_000_000, p1=19)]},
            {"view": "route-arrivals", "version": OWNED.view_version("route-arrivals"), "pipeline": "flight-delay",
             "partitions": [part(0, None, p0=4, p1=9), part(1, 5_000_000, p0=9)]},
            {"view": "aircraft-arrivals", "version": "another", "pipeline": "x", "partitions": [part(0, 1)]},
        ]  # fmt: skip
        source = {"positions": {"0": 10, "1": 20}, "newest_us": {"0": 9_000_000, "1": None}}
        release = {
            "pipeline": SPEC.name, "epoch": 4, "members": [{"name": "m", "model": DIGEST, "version": 3}],
            "views": {"airport-weather": OWNED.view_version("airport-weather"), "route-arrivals": "older"},
            "features": [], "spec": DIGEST, "policy": DIGEST, "at_us": 5, "reason": {"kind": "gate"},
        }  # fmt: skip
        base, other = f"/v1/pipelines/{SPEC.name}", "/v1/pipelines/other"
        self.answers: dict[str, Any] = {
            "serving /v1/status": {"pipelines": {SPEC.name: {}, "other": {}}},
            "features /v1/status": {"views": running, "refused": {}},
            "ingestion /v1/status": {"sources": {"weather": source, "arrivals": source, "departures": source}},
            "ingestion /v1/quarantine": {"windows": [WINDOW]},
            f"ingestion /v1/quarantine/{WINDOW['id']}": WINDOW,
            f"ingestion /v1/quarantine/{WINDOW['id']}/release": WINDOW | {"released": True, "detail": "fine"},
            f"registry {base}": self.stored(OWNED),
            f"registry {other}": self.stored(OWNED.model_copy(update={"name": "other"})),
            f"registry {base}/champion": release,
        }  # fmt: skip

    @staticmethod
    def stored(spec: PipelineSpec) -> dict[str, Any]:
        return {"pipeline": spec.name, "revision": 1, "digest": spec.digest(), "frozen": False, "epoch": 4,
                "spec": spec.model_dump(mode="json")}  # fmt: skip

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            self.posted.append(json.loads(request.content))
        found = self.answers.get(f"{request.url.host.removesuffix('.test')} {request.url.path}")
        return httpx.Response(404, json={"title": "nothing"}) if found is None else httpx.Response(200, json=found)


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> Services:
    made = Services()
    known = Endpoints({name: f"http://{name}.test" for name in SERVICES})

    def client(_home: Path | None, *, patience_s: float) -> Client:
        return Client(endpoints=known, patience_s=patience_s, transport=httpx.MockTransport(made))

    monkeypatch.setattr("tidemill.client.clients.Client", client)
    return made


def run(*arguments: str) -> Result:
    return CliRunner().invoke(build(), arguments)


def test_views_stand_with_how_they_are_and_who_uses_them(services: Services) -> None:
    del services
    found = {each["name"]: each for each in json.loads(run("features", "list", "--json").output)}
    assert set(found) == set(SPEC.views)
    weather = found["airport-weather"]
    assert weather["consumers"] == [SPEC.name, f"{SPEC.name} epoch 4", "other"]
    assert (weather["owner"], weather["description"]) == ("met office", "what the weather is")
    assert (weather["watermark_us"], weather["behind_s"]) == (5_000_000, 4.0)
    assert (weather["lag"], weather["rows"], weather["state_bytes"], weather["quarantined"]) == (1, 6, 200, 1)
    assert weather["features"] == SPEC.views["airport-weather"].feature_names("airport-weather")
    routes = found["route-arrivals"]
    assert (routes["watermark_us"], routes["behind_s"], routes["lag"]) == (None, None, 5 + 10)
    assert routes["consumers"] == [SPEC.name, "other"], "the release uses another version"
    assert (routes["quarantined"], routes["windows"]) == (None, {"3h": "3h", "24h": "1d", "7d": "7d"})
    assert found["aircraft-arrivals"]["rows"] is None, "another version runs"


def test_the_catalogue_in_tables(services: Services) -> None:
    del services
    listed = " ".join(run("features", "list").output.split())
    assert "met office" in listed
    assert "1 quarantined" in listed
    assert "does not run" in listed
    shown = run("features", "show", "airport-weather").output
    assert "airport (origin)" in shown
    assert "airport-weather.temp_last" in shown
    assert f"{SPEC.name} epoch 4" in shown
    missing = run("features", "show", "nothing")
    assert isinstance(missing.exception, TidemillError)
    assert str(missing.exception) == "there is no view nothing"


def test_an_owner_is_no_part_of_a_views_version() -> None:
    assert OWNED.view_version("airport-weather") == SPEC.view_version("airport-weather")


def test_quarantined_windows_are_listed_shown_and_released(services: Services) -> None:
    assert json.loads(run("quarantine", "list", "--json").output) == [WINDOW]
    listed = run("quarantine", "list", "weather", "--all").output
    assert "40 to 100" in listed
    assert str(WINDOW["id"]) in listed
    shown = run("quarantine", "show", str(WINDOW["id"])).output
    assert "40 to 97, 99 to 100" in shown
    assert "2013-01-01T11:00:00Z to 2013-01-01T12:00:00Z" in shown
    told = run("quarantine", "release", str(WINDOW["id"]), "--detail", "fine").output
    assert f"{WINDOW['id']} is released: 60 events of weather" in told
    assert services.posted == [{"detail": "fine"}]
    services.answers["ingestion /v1/quarantine"] = {"windows": []}
    assert "nothing is quarantined" in run("quarantine", "list").output
