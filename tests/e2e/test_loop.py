"""The loop on a slice of real flights, on a real Kafka and Postgres: once undisturbed, once with everything killed."""

import asyncio
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tidemill.demo.report import render
from tidemill.demo.run import VICTIMS, Demo, Options
from tidemill_contracts.pipeline import load_pipeline

ROOT = Path(__file__).parents[2]
DAYS, PARTITIONS = 34, 2
pytestmark = [pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Outcome:
    """A finished demo: its report, as it was written."""

    report: dict[str, Any]
    page: str


def run_demo(folder: Path, *, kill: bool) -> Outcome:
    """The demo in its own home, from nothing to the report, on two partitions."""
    text = (ROOT / "pipelines" / "flight-delay.yaml").read_text()
    (folder / "pipeline.yaml").write_text(re.sub(r"(?m)^partitions: 1\b", "partitions: 2", text))
    assert load_pipeline(folder / "pipeline.yaml").partitions == PARTITIONS
    options = Options(folder / "pipeline.yaml", folder / "out", folder / "home", days=DAYS, kill=kill)
    demo = Demo(options)
    report = asyncio.run(demo.run())
    path = demo.finish(report)
    return Outcome(json.loads(path.read_text()), render(report))


@contextmanager
def own_folder() -> Iterator[Path]:
    """A folder outside pytest's: every pytest that starts closes its parents to others, and Postgres has an account."""
    folder = Path(tempfile.mkdtemp(prefix="tm-loop-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def undisturbed() -> Outcome:
    """One run that nobody disturbs."""
    with own_folder() as folder:
        return run_demo(folder, kill=False)


def test_every_count_adds_up(undisturbed: Outcome) -> None:
    """What came in is applied, answered, joined and decided, each thing once."""
    assert undisturbed.report["ledger_broken"] == []
    ledger = undisturbed.report["ledger"]
    assert ledger["events"]["accepted"] > 50_000
    assert ledger["predictions"]["in_topic"] > 1_000
    assert ledger["labels"]["joined"] > 1_000
    assert ledger["releases"]["epochs"] >= 1


def test_the_first_model_is_better_than_the_base_rate(undisturbed: Outcome) -> None:
    """The gate let it pass, and the labels of the days after agree."""
    loop = undisturbed.report["quality"]["loop"]
    assert loop["n"] > 1_000
    assert loop["auc"] > 0.6


def test_the_report_stands_alone(undisturbed: Outcome) -> None:
    """A page without scripts, other files or third parties."""
    assert "<svg" in undisturbed.page
    assert "http" not in undisturbed.page.replace("http-equiv", "")
    assert undisturbed.report["decisions_digest"][:8] in undisturbed.page


def test_killing_everything_once_changes_no_count_and_no_decision(undisturbed: Outcome) -> None:
    """SIGKILL of each service, the broker and Postgres at random moments: the same ledger, the same digest."""
    with own_folder() as folder:
        disturbed = run_demo(folder, kill=True).report
    assert sorted(kill["victim"] for kill in disturbed["kills"]) == sorted(VICTIMS)
    assert disturbed["ledger_broken"] == []
    assert disturbed["decisions_digest"] == undisturbed.report["decisions_digest"]
    assert disturbed["ledger"] == undisturbed.report["ledger"]
