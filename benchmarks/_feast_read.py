"""Runs in Feast's own environment: its remote client against our service and against `feast serve`, in turns.

Standard input holds {folder, ours, port, views: {name: {keys, features}}, rows, asked: [view...], rounds}; standard
output gets {name of a question: {ours | theirs: seconds of each request}}. The data of `feast serve` is what ours
answered, read back and compared before anything is measured.
"""

import json
import os
import random
import subprocess
import sys
import time
import urllib.request
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")

import pandas as pd  # noqa: E402 - after the warnings it gives are silenced
import yaml  # noqa: E402
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType  # noqa: E402
from feast.types import Float64, String  # noqa: E402

Json = dict[str, Any]
WARM_UP = 50
AT = datetime(2013, 1, 1, tzinfo=UTC)


def plain(name: str) -> str:
    """A view's name for Feast's sqlite store, which takes no `-`."""
    return name.replace("-", "_")


def repository(folder: Path, online: Json, views: Json) -> FeatureStore:
    """A store with the views, registered in a file of its own."""
    folder.mkdir(parents=True)
    settings = {"project": "bench", "provider": "local", "registry": str(folder / "registry.db"),
                "online_store": online, "entity_key_serialization_version": 3}  # fmt: skip
    (folder / "feature_store.yaml").write_text(yaml.safe_dump(settings))
    store = FeatureStore(config=RepoConfig(**settings, repo_path=folder))
    keys = sorted({key for view in views.values() for key in view["keys"]})
    entities = {key: Entity(name=key, join_keys=[key], value_type=ValueType.STRING) for key in keys}
    made = []
    for name, view in views.items():
        source = folder / f"{name}.parquet"
        pd.DataFrame({column: [] for column in [*view["keys"], *view["features"], "at"]}).to_parquet(source)
        schema = [Field(name=key, dtype=String) for key in view["keys"]]
        schema += [Field(name=feature, dtype=Float64) for feature in view["features"]]
        made.append(FeatureView(
            name=name, entities=[entities[key] for key in view["keys"]], schema=schema,
            source=FileSource(name=f"{name}_file", path=str(source), timestamp_field="at"),
        ))  # fmt: skip
    store.apply([*entities.values(), *made])
    return store


def ask(store: FeatureStore, view: str, wanted: Json, rows: list[Json]) -> Json:
    """Features of a view for rows, as a dictionary of columns."""
    features = [f"{view}:{name}" for name in wanted["features"]]
    answer: Json = store.get_online_features(features=features, entity_rows=rows).to_dict()
    return answer


def keyed(view: Json, rows: list[Json]) -> list[Json]:
    """The rows' keys of one view, each once."""
    return [dict(pairs) for pairs in dict.fromkeys(tuple((key, row[key]) for key in view["keys"]) for row in rows)]


def fill(ours: FeatureStore, theirs: FeatureStore, what: Json) -> None:
    """Everything that ours answers, written to Feast's own store."""
    for name, view in what["views"].items():
        found = pd.DataFrame(ask(ours, name, view, keyed(view, what["rows"])))
        found["at"] = AT
        theirs.write_to_online_store(plain(name), found)


def wait(url: str, server: "subprocess.Popen[bytes]") -> None:
    """Until the server answers."""
    end = time.monotonic() + 180
    while server.poll() is None and time.monotonic() < end:
        try:
            urllib.request.urlopen(url, timeout=2).read()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise RuntimeError("feast serve does not answer")


def measure(what: Json, stores: dict[str, FeatureStore]) -> Json:
    """Seconds of every request, the two servers in turns; which of them goes first is drawn."""
    chance, found = random.Random(7), {}
    for name in what["asked"]:
        view = what["views"][name]
        rows, times = keyed(view, what["rows"]), {"ours": list[float](), "theirs": list[float]()}
        for number in range(WARM_UP + what["rounds"]):
            row = [rows[number % len(rows)]]
            for who in chance.sample(sorted(stores), 2):
                asked = name if who == "ours" else plain(name)
                started = time.perf_counter()
                ask(stores[who], asked, view, row)
                if number >= WARM_UP:
                    times[who].append(time.perf_counter() - started)
        found[name] = times
    return found


def compare(what: Json, stores: dict[str, FeatureStore]) -> None:
    """The same values from both."""
    for name, view in what["views"].items():
        rows = keyed(view, what["rows"])
        mine, other = ask(stores["ours"], name, view, rows), ask(stores["theirs"], plain(name), view, rows)
        if mine != other or None in mine[view["features"][0]]:
            raise RuntimeError(f"{name}: the two servers do not hold the same data")


def main() -> None:
    """One run."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what Feast prints does not belong into the answer
    what = json.loads(sys.stdin.read())
    folder, port = Path(what["folder"]), what["port"]
    named = {plain(name): view for name, view in what["views"].items()}
    local = repository(folder / "local", {"type": "sqlite", "path": str(folder / "online.db")}, named)
    ours = repository(folder / "ours", {"type": "remote", "path": what["ours"]}, what["views"])
    there = {"type": "remote", "path": f"http://127.0.0.1:{port}"}
    theirs = repository(folder / "theirs", there, named)
    fill(ours, local, what)
    feast = [str(Path(sys.executable).with_name("feast")), "-c", str(folder / "local")]
    # Its workers end after a thousand requests unless told otherwise, and start again in the middle of the measurement.
    server = subprocess.Popen([*feast, "serve", "-p", str(port), "--no-access-log", "--max-requests", "0"])
    try:
        wait(f"http://127.0.0.1:{port}/health", server)
        stores = {"ours": ours, "theirs": theirs}
        compare(what, stores)
        out.write(json.dumps(measure(what, stores)))
        out.flush()
    finally:
        server.terminate()
        server.wait(20)


if __name__ == "__main__":
    main()
