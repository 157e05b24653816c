"""The written contracts, made from the code: `python -m tidemill_runtime.schemas [--check]` in the repository's root.

Writes `schemas/`: a JSON Schema per event and of the pipeline file, AsyncAPI, an OpenAPI document per service, the
names of metrics and spans. `--check` fails when a file differs from the code, or when a new reader would not understand
what a writer of the last commit's event or pipeline file wrote.
"""

import argparse
import asyncio
import importlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from prometheus_client import REGISTRY

from tidemill_contracts.events import EVENTS
from tidemill_contracts.pipeline import PipelineSpec
from tidemill_runtime import telemetry
from tidemill_runtime.asyncapi import asyncapi
from tidemill_runtime.compat import incompatibilities
from tidemill_runtime.health import Health
from tidemill_runtime.http import Route
from tidemill_runtime.openapi import openapi
from tidemill_runtime.probes import probe_routes
from tidemill_runtime.service import Service

SERVICES = ("features", "ingestion", "monitoring", "registry", "serving", "trainer")
MEASURED = ("tidemill_runtime.stream", "tidemill_runtime.service", "tidemill_runtime.rpc.watching")
DRAFT = "https://json-schema.org/draft/2020-12/schema"


def documents() -> dict[str, str]:
    """File name under `schemas/` to its text; the same code gives the same bytes."""
    found = {f"events/{type_}.json": _json(event_schema(type_)) for type_ in sorted(EVENTS)}
    pipeline = PipelineSpec.model_json_schema()
    found["pipeline.schema.json"] = _json({"$schema": DRAFT, "title": "Tidemill pipeline", **pipeline})
    found["asyncapi.yaml"] = _yaml(asyncapi())
    for service in SERVICES:
        routes = service_routes(service)
        if routes:
            everything = [*routes, *probe_routes("", routes, Health())]
            found[f"openapi/{service}.yaml"] = _yaml(openapi(f"Tidemill {service}", everything))
    found["telemetry.yaml"] = _yaml(telemetry_names())
    return found


def event_schema(type_: str) -> dict[str, Any]:
    """The JSON Schema of an event's body, as its writer sends it."""
    return {"$schema": DRAFT, "$id": type_, **EVENTS[type_].model_json_schema(mode="serialization")}


def service_routes(name: str) -> Sequence[Route]:
    """The route table of a service, from its composition root on settings that reach nothing; else empty."""
    if find_spec(f"tidemill_{name}") is None or find_spec(f"tidemill_{name}.app") is None:
        return ()
    create = importlib.import_module(f"tidemill_{name}.app").create
    settings_class = importlib.import_module(f"tidemill_{name}.settings").Settings

    async def build(folder: str) -> Service:
        nowhere = {"kafka": "127.0.0.1:1", "postgres": "postgresql:///nowhere", "artifacts": folder, "state": folder}
        service: Service = create(settings_class(**nowhere), Health())
        return service

    with TemporaryDirectory() as folder:
        return asyncio.run(build(folder)).routes


def telemetry_names() -> dict[str, Any]:
    """Metrics that the installed services register, and the spans that the runtime makes."""
    for name in MEASURED:
        importlib.import_module(name)
    metrics = {}
    for collector in list(REGISTRY._collector_to_names):  # noqa: SLF001 - the public view leaves out label names
        for family in collector.describe() if hasattr(collector, "describe") else ():
            if family.name.startswith("tidemill_"):
                labels = list(getattr(collector, "_labelnames", ()))
                metrics[family.name] = {"type": family.type, "help": family.documentation, "labels": labels}
    return {"metrics": dict(sorted(metrics.items())), "spans": telemetry.SPANS}


def differences(root: Path, wanted: Mapping[str, str]) -> list[str]:
    """Files that are missing, stale, or not made by this program."""
    known = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.suffix in {".json", ".yaml"}}
    stale = [name for name, text in wanted.items() if name in known and (root / name).read_text("utf-8") != text]
    return sorted(
        [f"schemas/{name} differs from the code: run `make schemas`" for name in stale]
        + [f"schemas/{name} is missing: run `make schemas`" for name in wanted if name not in known]
        + [f"schemas/{name} belongs to nothing: delete it" for name in known - set(wanted)]
    )


def breaks(committed: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """Where the contracts in `wanted` do not take what those in `committed` allowed; only events and pipeline files."""
    found = []
    for name, text in sorted(committed.items()):
        if not name.endswith(".json"):
            continue
        if name not in wanted:
            found.append(f"schemas/{name}: this contract is gone, and its records are not")
            continue
        found += [f"schemas/{name}: {what}" for what in incompatibilities(json.loads(text), json.loads(wanted[name]))]
    return found


def committed_documents(root: Path) -> dict[str, str]:
    """The files as of the last commit; empty without a repository or before the first."""
    git = ["git", "-C", str(root.parent)]
    listed = subprocess.run(  # noqa: S603 - a fixed command
        [*git, "ls-tree", "-r", "--name-only", "HEAD", "--", f"{root.name}/"],
        capture_output=True,
        text=True,
        check=False,
    )
    names = listed.stdout.splitlines() if listed.returncode == 0 else []
    return {
        name.removeprefix(f"{root.name}/"): subprocess.run(  # noqa: S603 - a fixed command
            [*git, "show", f"HEAD:./{name}"], capture_output=True, text=True, check=True
        ).stdout
        for name in names
    }


def write(root: Path, wanted: Mapping[str, str]) -> None:
    """Make the folder hold exactly these files."""
    for path in root.rglob("*"):
        if path.suffix in {".json", ".yaml"} and path.relative_to(root).as_posix() not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, "utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(description="Write or check the schemas of events, topics, HTTP and telemetry.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail on drift or an incompatible change")
    parser.add_argument("--root", type=Path, default=Path("schemas"))
    options = parser.parse_args(arguments)
    root, wanted = options.root.resolve(), documents()
    trouble = breaks(committed_documents(root), wanted)
    if options.check:
        trouble += differences(root, wanted)
    else:
        write(root, wanted)
    sys.stderr.writelines(f"{line}\n" for line in trouble)
    return 1 if trouble and options.check else 0


def _json(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _yaml(document: Mapping[str, Any]) -> str:
    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, _data: object) -> bool:
            return True

    return yaml.dump(document, Dumper=Plain, sort_keys=False, width=120, allow_unicode=True)


if __name__ == "__main__":
    sys.exit(main())
