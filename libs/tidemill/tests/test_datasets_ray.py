"""`--engine ray`: the entities split over a cluster, the same bytes as in one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pyarrow import parquet
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))

from dataset_world import HOUR, PIPELINE, START, events, write_archive

from tidemill.cli.main import build as build_app
from tidemill_contracts import format_time
from tidemill_testkit.peers import peer

RUN = """
import sys
from tidemill.datasets import on_ray, spill
from tidemill.cli import main
spill.SHARD_EVENTS = 100
parts = []
mapped = on_ray._mapped
on_ray._mapped = lambda function, given: mapped(function, (parts.append(1) or each for each in given))
if "ray" in sys.argv:
    import ray
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=80 * 1024 * 1024)
try:
    main()
except SystemExit as end:
    assert not end.code
assert len(parts) > 2 if "ray" in sys.argv else not parts
"""


def commands(archive: str, folder: Path, engine: str) -> dict[str, list[str]]:
    """Command lines by the file that each writes."""
    shared = ["--pipeline", str(folder / "p.yaml"), "--archive", archive, "--engine", engine]
    views = ["--view", "fares", "--view", "work", "--view", "paid-here"]
    fares, rides = folder / f"{engine}-fares.parquet", folder / f"{engine}-rides.parquet"
    return {
        str(fares): ["features", "backfill", "fares", "--from", format_time(START), *shared, "--output", str(fares)],
        str(rides): ["dataset", "build", "--from-source", "rides", *views, *shared, "--output", str(rides)],
    }


def test_without_ray_it_is_said_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_bytes(PIPELINE)
    archive = write_archive(tmp_path / "artifacts", events(1, 50))
    for words in commands(archive, tmp_path, "ray").values():
        done = CliRunner().invoke(build_app(), words)
        assert done.exit_code != 0
        assert "pip install 'tidemill[ray]'" in " ".join((done.output + repr(done.exception)).split())


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_a_cluster_gives_the_bytes_of_one_process(tmp_path: Path) -> None:
    """Ray beside our own packages, a cluster of its own in a process of its own; parts of about a hundred events."""
    python = peer("ray", "ray==2.60.0")
    beside = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True,
        check=True,
    ).stdout.strip()  # fmt: skip
    (tmp_path / "p.yaml").write_bytes(PIPELINE)
    (tmp_path / "run.py").write_text(RUN, encoding="utf-8")
    archive = write_archive(tmp_path / "artifacts", events(11, 1500))
    environment = {**os.environ, "PYTHONPATH": beside, "RAY_USAGE_STATS_ENABLED": "0"}
    for engine in ("local", "ray"):
        for words in commands(archive, tmp_path, engine).values():
            done = subprocess.run(
                [sys.executable, str(tmp_path / "run.py"), *words], env=environment, capture_output=True, text=True,
                check=False, timeout=400,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-1000:]
    for name in ("fares", "rides"):
        local, ray = (tmp_path / f"{engine}-{name}.parquet" for engine in ("local", "ray"))
        assert parquet.read_metadata(local).num_rows > HOUR // HOUR
        assert ray.read_bytes() == local.read_bytes()
