"""`docker-compose.yml` and what it mounts. No engine runs here: public parsers read it, and its parts must agree."""

import json
import re
import subprocess
import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import podman_compose
import pytest
import yaml

from tidemill_testkit.checks.workspace import services

ROOT = Path(__file__).parent.parent
FILE = ROOT / "docker-compose.yml"
DASHBOARDS = sorted((ROOT / "deploy/compose/grafana/dashboards").glob("*.json"))
SECRETS = {"TIDEMILL_API_KEY": "key", "POSTGRES_PASSWORD": "word", "GRAFANA_PASSWORD": "pass"}


@cache
def project() -> dict[str, Any]:
    """The file as an engine sees it: anchors merged, variables substituted (which takes the parser seconds)."""
    read = podman_compose.rec_subs(yaml.safe_load(FILE.read_text()), SECRETS)
    assert isinstance(read, dict)
    return read


def test_it_is_valid_under_the_compose_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(FILE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", SECRETS)
def test_no_secret_has_a_default(name: str) -> None:
    used = [line.strip() for line in FILE.read_text().splitlines() if f"${{{name}" in line]
    assert used
    for line in used:
        with pytest.raises(ValueError, match=f"required variable {name} is missing"):
            podman_compose.rec_subs(line, {key: value for key, value in SECRETS.items() if key != name})


def test_every_image_is_pinned_to_a_version() -> None:
    images = {name: each["image"] for name, each in project()["services"].items()}
    pinned = re.compile(r".+:v?\d+\.\d+(\.\d+)?$")
    assert [name for name, image in images.items() if not pinned.match(image) and image != "tidemill:dev"] == []


def test_every_port_is_published_on_this_machine_only() -> None:
    ports = [port for each in project()["services"].values() for port in each.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert len({port.split(":")[1] for port in ports}) == len(ports)


@pytest.mark.parametrize("name", services(ROOT))
def test_each_service_runs_with_all_the_settings_that_it_requires(name: str) -> None:
    service = project()["services"][name]
    assert service["command"] == ["python", "-m", f"tidemill_{name}"]
    settings = {key.removeprefix("TIDEMILL_").lower() for key in service["environment"] if key.startswith("TIDEMILL_")}
    own = import_module(f"tidemill_{name}.settings").Settings
    required = {key for key, field in own.model_fields.items() if field.is_required()}
    assert required <= settings <= set(own.model_fields)
    assert f"{name}:/var/lib/tidemill/state" in service["volumes"]
    assert {name: each["condition"] for name, each in service["depends_on"].items()} == {
        "kafka": "service_healthy",
        "postgres": "service_healthy",
    }


def test_whatever_is_mounted_exists() -> None:
    read = project()
    files = [each["file"] for each in read["configs"].values()]
    mounts = [volume.split(":")[0] for each in read["services"].values() for volume in each.get("volumes", ())]
    files += [mount for mount in mounts if mount.startswith("./")]
    assert [name for name in files if not (ROOT / name).exists()] == []
    assert {mount for mount in mounts if not mount.startswith("./")} == set(read["volumes"])
    assert (ROOT / read["services"]["serving"]["build"]["dockerfile"]).exists()


def test_prometheus_reads_every_service_with_the_key() -> None:
    read = yaml.safe_load((ROOT / "deploy/compose/prometheus.yaml").read_text())
    job = next(each for each in read["scrape_configs"] if each["job_name"] == "tidemill")
    assert sorted(job["static_configs"][0]["targets"]) == [f"{name}:8080" for name in services(ROOT)]
    assert job["authorization"]["credentials_file"] == "/run/secrets/api_key"
    assert "api_key" in project()["services"]["prometheus"]["secrets"]


def test_alerts_are_read_and_watch_metrics_that_exist() -> None:
    mounted = {each["source"]: each["target"] for each in project()["services"]["prometheus"]["configs"]}
    read = yaml.safe_load((ROOT / "deploy/compose/prometheus.yaml").read_text())
    assert read["rule_files"] == [mounted["alerts"]]
    groups = yaml.safe_load((ROOT / "deploy/compose/alerts.yaml").read_text())["groups"]
    assert unknown_metrics([rule["expr"] for group in groups for rule in group["rules"]]) == []


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboards_ask_only_for_metrics_that_exist(path: Path) -> None:
    panels = json.loads(path.read_text())["panels"]
    assert unknown_metrics([target["expr"] for panel in panels for target in panel["targets"]]) == []


def unknown_metrics(expressions: list[str]) -> list[str]:
    """Metrics of ours in PromQL that no code declares."""
    source = "\n".join(each.read_text() for folder in ("libs", "services") for each in (ROOT / folder).rglob("*.py"))
    asked = {name for expression in expressions for name in re.findall(r"tidemill_[a-z_]+", expression)}
    declared = {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in asked}
    assert asked
    # Serving reads its metrics from its parts on demand: there a name is the prefix and a key of the table of families.
    known = {name: (f'"{name}"', f'"{name.removeprefix("tidemill_serving_")}"') for name in declared}
    return [name for name, forms in known.items() if not any(form in source for form in forms)]


def test_dashboards_use_the_provisioned_sources() -> None:
    read = yaml.safe_load((ROOT / "deploy/compose/grafana/datasources/datasources.yaml").read_text())
    known = {each["uid"] for each in read["datasources"]}
    boards = [json.loads(path.read_text()) for path in DASHBOARDS]
    assert {panel["datasource"]["uid"] for board in boards for panel in board["panels"]} <= known
    assert len({board["uid"] for board in boards}) == len(boards)


def test_the_image_gets_every_package_that_is_shipped() -> None:
    dockerfile = (ROOT / "deploy/docker/Dockerfile").read_text()
    shipped = [path.parent.name for path in ROOT.glob("libs/*/pyproject.toml") if path.parent.name != "testkit"]
    assert [name for name in shipped if f"libs/{name}" not in dockerfile] == []
    assert "services/*" in dockerfile
