"""Runs in an environment of its own: Feast's point-in-time join with the DuckDB offline store.

`python feast_join.py FOLDER`: `features.parquet` and `rows.parquet` are joined once for each line of standard input;
each is answered with the processor seconds that it took and the rows that came out. The result goes to a file.
"""

import json
import sys
import time
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource
from feast.types import Float64
from feast.value_type import ValueType

_STORE = """
project: bench
provider: local
registry: {folder}/registry.db
offline_store: {{type: duckdb}}
online_store: {{type: sqlite, path: {folder}/online.db}}
entity_key_serialization_version: 3
"""


def store(folder: Path, features: list[str]) -> FeatureStore:
    """A feature store with one view over the file."""
    (folder / "feature_store.yaml").write_text(_STORE.format(folder=folder))
    entity = Entity(name="key", join_keys=["key"], value_type=ValueType.STRING)
    view = FeatureView(
        name="view", entities=[entity], ttl=timedelta(days=3650),
        schema=[Field(name=name, dtype=Float64) for name in features],
        source=FileSource(path=str(folder / "features.parquet"), timestamp_field="event_timestamp"),
    )  # fmt: skip
    made = FeatureStore(repo_path=str(folder))
    made.apply([entity, view])
    return made


def main() -> None:
    """Answer until standard input ends."""
    folder = Path(sys.argv[1])
    names = [n for n in pq.read_schema(folder / "features.parquet").names if n not in {"key", "event_timestamp"}]
    made = store(folder, names)
    rows = pq.read_table(folder / "rows.parquet").to_pandas()
    for _ in sys.stdin:
        begun = time.process_time()
        job = made.get_historical_features(entity_df=rows, features=[f"view:{name}" for name in names])
        table = job.to_arrow()
        seconds = time.process_time() - begun
        pq.write_table(table, folder / "feast.parquet")
        sys.stdout.write(json.dumps({"seconds": seconds, "rows": table.num_rows}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
