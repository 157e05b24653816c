"""Runs in Feast's own environment: steps from standard input, done with Feast's SDK, answers to standard output.

The first line says what there is: {folder, online_store, auth, project, entities, views, services}; each further line
is a step. A step that raises is answered with the exception's class and text.
"""

import json
import logging
import os
import sys
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

os.environ["FEAST_USAGE"] = "False"
warnings.simplefilter("ignore")

import pandas as pd  # noqa: E402 - after the warnings it gives are silenced
from fastapi.testclient import TestClient  # noqa: E402
from feast import (  # noqa: E402
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    PushSource,
    RepoConfig,
    ValueType,
)
from feast.feature_server import get_app  # noqa: E402
from feast.protos.feast.types.EntityKey_pb2 import EntityKey  # noqa: E402
from feast.protos.feast.types.Value_pb2 import Value  # noqa: E402
from feast.types import Float64, String  # noqa: E402

TYPES = {"float": Float64, "string": String}
Json = dict[str, Any]


def open_store(what: Json) -> FeatureStore:
    """A repository with these definitions; registry and offline store are files of its own."""
    folder = Path(what["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    config = RepoConfig(
        project=what.get("project", "test"), provider="local", registry=str(folder / "registry.db"),
        online_store=what["online_store"], auth=what.get("auth"), entity_key_serialization_version=3, repo_path=folder,
    )  # fmt: skip
    store = FeatureStore(config=config)
    store.apply(list(_definitions(what, folder)))
    return store


def _definitions(what: Json, folder: Path) -> list[Any]:
    entities = {name: Entity(name=name, join_keys=[name], value_type=ValueType.STRING) for name in what["entities"]}
    views = {}
    for name, view in what["views"].items():
        file = FileSource(name=f"{name}_file", path=str(folder / f"{name}.parquet"), timestamp_field="event_timestamp")
        columns = {**dict.fromkeys(view["keys"], "string"), **view["fields"]}
        pd.DataFrame({column: [] for column in [*columns, "event_timestamp"]}).to_parquet(folder / f"{name}.parquet")
        views[name] = FeatureView(
            name=name, entities=[entities[key] for key in view["keys"]], ttl=timedelta(days=view.get("ttl_days", 0)),
            schema=[Field(name=column, dtype=TYPES[kind]) for column, kind in columns.items()],
            source=PushSource(name=view["push"], batch_source=file) if "push" in view else file,
        )  # fmt: skip
    services = [FeatureService(name=name, features=[views[v] for v in of]) for name, of in what["services"].items()]
    return [*entities.values(), *views.values(), *services]


class Driver:
    """The steps."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._client: TestClient | None = None

    def online(self, step: Json) -> Any:  # noqa: ANN401 - JSON
        """`get_online_features` of the SDK."""
        service = step.get("service")
        features = step["features"] if service is None else self._store.get_feature_service(service)
        answer = self._store.get_online_features(
            features=features, entity_rows=step["rows"], full_feature_names=step.get("full", False)
        )
        names = list(answer.proto.metadata.feature_names.val)
        statuses = {
            name: [int(s) for s in each.statuses] for name, each in zip(names, answer.proto.results, strict=True)
        }
        return {"values": answer.to_dict(), "statuses": statuses}

    def read(self, step: Json) -> Any:  # noqa: ANN401 - JSON
        """The online store's own `online_read`, as older SDKs ask."""
        view = self._store.get_feature_view(step["view"])
        provider = self._store._get_provider()
        keys = [EntityKey(join_keys=[step["key"]], entity_values=[Value(string_val=v)]) for v in step["values"]]
        rows = provider.online_read(self._store.config, view, keys, step["features"])
        return [[at and at.isoformat(), values and {n: _plain(v) for n, v in values.items()}] for at, values in rows]

    def push(self, step: Json) -> None:
        """`push` of the SDK."""
        self._store.push(step["source"], _frame(step["df"]))

    def write(self, step: Json) -> None:
        """`write_to_online_store` of the SDK."""
        self._store.write_to_online_store(step["view"], _frame(step["df"]))

    def serve(self, step: Json) -> Any:  # noqa: ANN401 - JSON
        """A request to Feast's own feature server."""
        if self._client is None:
            self._client = TestClient(get_app(self._store), raise_server_exceptions=False)
        answer = self._client.post(step["path"], json=step["body"])
        return {"status": answer.status_code, "body": answer.json() if answer.content else None}


def _plain(value: Value) -> float | None:
    return value.double_val if value.WhichOneof("val") else None


def _frame(df: Json) -> pd.DataFrame:
    frame = pd.DataFrame(df)
    frame["event_timestamp"] = pd.to_datetime(frame["event_timestamp"], utc=True)
    return frame


def main() -> None:
    """Until standard input ends."""
    logging.disable(logging.CRITICAL)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what Feast prints does not belong into the answers
    driver = Driver(open_store(json.loads(sys.stdin.readline())))
    out.write("{}\n")
    out.flush()
    for line in sys.stdin:
        step = json.loads(line)
        do = getattr(driver, step["do"])
        try:
            answer = {"answer": do(step)}
        except Exception as error:  # noqa: BLE001 - whatever the SDK raises is the answer
            answer = {"error": type(error).__name__, "message": str(error)}
        out.write(json.dumps(answer) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
