"""Decisions by hand about what answers beside the champion, as they are typed."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from cli_world import RELEASE, Services, run, serving


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    with serving(monkeypatch) as known:
        yield known


def test_what_answers_beside_the_champion(services: Services) -> None:
    rival = {
        "name": "challenger", "model": "b" * 64, "version": 4, "share": 0.1, "salt": "s", "by": "user",
    }  # fmt: skip
    release = RELEASE | {"challenger": rival}
    for what in ("canary", "shadow", "mix", "promote"):
        services.on("POST", f"/v1/pipelines/p/{what}", release)
    services.on("GET", "/v1/pipelines/p/champion", release)
    known = {"pipeline": "p", "revision": 1, "digest": "d", "frozen": False, "epoch": 2}
    services.on("GET", "/v1/pipelines/p", known | {"spec": {"rollout": {"steps": [0.05, 0.1, 0.5]}}})
    at = ("--at", "1970-01-01T00:00:01Z")
    assert "4 for 10%" in run("canary", "p", "4", "--share", "0.1", *at).stdout
    assert run("canary", "p", "4", "--expected-epoch", "2", *at).exit_code == 0
    assert run("shadow", "p", "5", "--remove", *at).exit_code == 0
    assert run("mix", "p", "3=0.7", "5=0.3", *at).exit_code == 0
    assert run("promote", "p", *at).exit_code == 0
    bodies = [{k: v for k, v in body.items() if k not in {"at", "detail"}} for _, body in services.asked if body]
    assert bodies == [
        {"version": 4, "share": 0.1},
        {"version": 4, "expected_epoch": 2},
        {"version": 5, "remove": True},
        {"members": [{"version": 3, "weight": 0.7}, {"version": 5, "weight": 0.3}]},
        {},
    ]
    shown = run("rollout", "p").stdout
    assert "90.0%" in shown
    assert "steps left: 50%" in shown
    assert json.loads(run("rollout", "p", "--json").stdout)["steps_left"] == [0.5]
    assert "shadow" not in shown
    for wrong in (("3",), ("3=x",), ("3=0.5", "3=0.5")):
        assert run("mix", "p", *wrong).exit_code == 2


def test_how_shadows_do_stands_beside_who_answers(services: Services) -> None:
    shadow = {"name": "v5", "model": "c" * 64, "version": 5}
    services.on("GET", "/v1/pipelines/p/champion", RELEASE | {"shadows": [shadow]})
    known = {"pipeline": "p", "revision": 1, "digest": "d", "frozen": False, "epoch": 2}
    services.on("GET", "/v1/pipelines/p", known | {"spec": {}})
    difference = {"mean": -0.0123, "standard_error": 0.01, "lower": -0.03, "upper": 0.004, "error": 0.05, "days": 4}
    figures = {
        "name": "v5", "model": "c" * 64, "against": 3, "rows": 1200, "failed": 2, "log_loss": 0.44, "brier": 0.2,
        "answers_log_loss": 0.4523, "answers_brier": 0.21, "difference": difference, "verdict": "pass", "reason": "",
    }  # fmt: skip
    young = figures | {"against": 4, "rows": 0, "log_loss": None, "difference": None, "verdict": "inconclusive"}
    services.on("GET", "/v1/pipelines/p/shadows", {"items": [figures, young]})
    shown = run("rollout", "p").stdout
    for part in ("shadow v5", "version 3", "1,200", "0.4400", "-0.0123", "-0.0300 to +0.0040 (4 days)", "pass"):
        assert part in shown
    assert json.loads(run("rollout", "p", "--json").stdout)["shadow_figures"] == [figures, young]
