import json
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import run as run_process

import pytest

from tidemill.cli import main
from tidemill_contracts.pipeline import load_pipeline

sys.path.insert(0, str(Path(__file__).parent))

from cli_world import DIGEST, RELEASE, Services, run, serving

PIPELINE = Path(__file__).parents[3] / "pipelines" / "flight-delay.yaml"


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    with serving(monkeypatch) as known:
        yield known


def said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str | Path
) -> tuple[int, str]:
    """Exit code and standard error of the whole program, with its handling of errors."""
    monkeypatch.setattr(sys, "argv", ["tidemill", *(str(each) for each in arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0), capsys.readouterr().err


def test_a_bad_pipeline_file_is_told_line_by_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = PIPELINE.read_text().replace("join: flight", "join: nonsense", 1).replace("version: 1", "version: 2", 1)
    (tmp_path / "bad.yaml").write_text(bad)
    for command in ("apply", "plan"):
        code, error = said(monkeypatch, capsys, command, tmp_path / "bad.yaml")
        assert code == 1
        assert "line " in error
        assert "version" in error
        assert "Traceback" not in error


def test_without_a_stack_one_line_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, error = said(monkeypatch, capsys, "releases", "p", "--home", tmp_path)
    assert code == 1
    assert "tidemill up" in error
    assert "Traceback" not in error


def test_a_refusal_is_one_line(
    services: Services, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, error = said(monkeypatch, capsys, "champion", "p")
    assert (code, error.strip()) == (1, "error: 404 there is no such thing")
    assert services.asked


def test_apply(services: Services) -> None:
    services.on("PUT", "/v1/pipelines/flight-delay", {"pipeline": "flight-delay", "revision": 4, "digest": DIGEST})
    assert "revision 4" in run("apply", PIPELINE).stdout
    assert json.loads(run("apply", PIPELINE, "--json").stdout)["digest"] == DIGEST


def test_what_is_asked_to_wait_returns_when_the_services_are_done(services: Services) -> None:
    services.on("PUT", "/v1/pipelines/flight-delay", {"pipeline": "flight-delay", "revision": 4, "digest": DIGEST})
    sources = {name: {"raw_positions": {"0": 2}} for name in load_pipeline(PIPELINE).sources}
    pipelines = {"flight-delay": {"epoch": 1, "watermark_us": 1}}
    services.on("GET", "/v1/status", {"sources": sources, "pipelines": pipelines | {"p": pipelines["flight-delay"]}})
    assert "revision 4" in run("apply", PIPELINE, "--wait").stdout
    assert run("events", "send", "arrivals", "--wait", text='{"data": {}}\n{"data": {}}').exit_code == 0
    services.stands("p", load_pipeline(PIPELINE))
    services.on("POST", "/v1/pipelines/p/train", {"request_id": "r-1"}, 202)
    services.on("GET", "/v1/requests/r-1", {"request_id": "r-1", "status": "failed", "detail": "too few [rows]"})
    services.on("GET", "/v1/status", {"pipelines": {"p": {"epoch": 1, "watermark_us": 1, "outcomes": 0}}})
    failed = run("train", "p", "--wait")
    assert (failed.exit_code, "failed: too few [rows]" in failed.stdout) == (1, True)
    released = {"request_id": "r-1", "pipeline": "p", "status": "released", "epoch": 1, "version": 7}
    services.on("GET", "/v1/requests/r-1", released)
    assert "version 7 is released and answers as epoch 1" in run("train", "p", "--wait").stdout


def test_tables_on_a_pipe_are_not_cut(services: Services) -> None:
    long = "x" * 150
    services.on("GET", "/v1/pipelines/p/champion", RELEASE | {"reason": {"kind": "hand", "detail": long}})
    done = run_process(
        [sys.executable, "-c", "from tidemill.cli import main; main()", "champion", "p"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert long in done.stdout


def test_plan_shows_what_would_change(services: Services, tmp_path: Path) -> None:
    spec = load_pipeline(PIPELINE)
    new = run("plan", PIPELINE).stdout
    assert "is new" in new
    standing = {"pipeline": spec.name, "revision": 1, "digest": spec.digest(), "frozen": False, "epoch": 1,
                "spec": spec.model_dump(mode="json")}  # fmt: skip
    services.on("GET", "/v1/pipelines/flight-delay", standing)
    assert "nothing would change" in run("plan", PIPELINE).stdout
    changed = spec.model_dump(mode="json") | {"description": "[other]"}
    (tmp_path / "changed.yaml").write_text(json.dumps(changed))
    shown = run("plan", tmp_path / "changed.yaml").stdout
    assert '-> "[other]"' in shown
    assert "view" not in shown
    assert spec.digest()[:12] in shown


@pytest.mark.parametrize("text", [
    '[{"id": "a", "data": {}}, {"id": "b", "data": {}}]',
    '{"id": "a", "data": {}}\n\n{"id": "b", "data": {}}\n',
    '\n[\n{"id": "a", "data": {}},\n{"id": "b", "data": {}}\n]\n',
])  # fmt: skip
def test_events_are_read_from_arrays_and_lines(services: Services, tmp_path: Path, text: str) -> None:
    assert "2 events" in run("events", "send", "s", text=text).stdout
    (tmp_path / "events").write_text(text)
    assert json.loads(run("events", "send", "s", tmp_path / "events", "--json").stdout)["sent"] == 2
    assert services.asked == [("/v1/events/s", [{"id": "a", "data": {}}, {"id": "b", "data": {}}])] * 2


def test_an_object_over_several_lines_is_one_event(services: Services) -> None:
    assert "1 events" in run("events", "send", "s", text='{\n"id": "a",\n"data": {}}').stdout
    assert services.asked[0][1] == [{"id": "a", "data": {}}]


@pytest.mark.parametrize(("text", "complaint"), [
    ('{"id": "a"}\n{nonsense\n', "line 2 of standard input is not JSON"),
    ("[1]", "item 0 of standard input is not an object"),
    ('{"id": "a"}\n5\n', "line 2 of standard input is not an object"),
])  # fmt: skip
def test_what_is_no_event_is_named(services: Services, text: str, complaint: str) -> None:
    refused = run("events", "send", "s", text=text)
    assert refused.exit_code == 2
    assert complaint in " ".join(refused.stderr.replace("│", " ").split())
    assert not services.asked


def test_predict(services: Services, tmp_path: Path) -> None:
    answer = {"prediction_id": "id-1", "score": 0.25, "epoch": 2, "version": 3, "model": DIGEST, "revisions": {}}
    services.on("POST", "/v1/predict/p", {"predictions": [answer]})
    assert "0.2500" in run("predict", "p", "--input", '{"a": 1}').stdout
    (tmp_path / "one.json").write_text('{"a": 1}')
    assert json.loads(run("predict", "p", tmp_path / "one.json", "--json").stdout)[0]["prediction_id"] == "id-1"
    assert [body["instances"][0]["inputs"] for _, body in services.asked] == [{"a": 1}] * 2
    assert run("predict", "p").exit_code == 2
    assert run("predict", "p", "--input", "{").exit_code == 2


def test_champion_and_releases(services: Services) -> None:
    services.on("GET", "/v1/pipelines/p/champion", RELEASE)
    services.on("GET", "/v1/pipelines/p/releases", {"releases": [RELEASE]})
    for shown in (run("champion", "p", "--at", "2013-01-01T00:00:00Z"), run("releases", "p")):
        assert "1970-01-01T00:00:05Z" in shown.stdout
        assert "[why]" in shown.stdout
    assert json.loads(run("champion", "p", "--json").stdout)["epoch"] == 2
    assert services.asked[0][0].endswith("champion?at=2013-01-01T00%3A00%3A00Z")


def test_decisions_by_hand(services: Services) -> None:
    services.on("GET", "/v1/status", {"pipelines": {"p": {"watermark_us": 1_000_000, "epoch": 1, "outcomes": 5}}})
    services.on("POST", "/v1/pipelines/p/promote", RELEASE)
    services.on("POST", "/v1/pipelines/p/rollback", RELEASE)
    services.stands("p", load_pipeline(PIPELINE))
    services.on("POST", "/v1/pipelines/p/train", {"request_id": "r-1"}, 202)
    services.on("POST", "/v1/pipelines/p/freeze", {"frozen": True})
    assert run("promote", "p", "3").exit_code == 0
    assert run("rollback", "p", "--to-epoch", "1", "--at", "2013-01-01T00:00:00Z").exit_code == 0
    assert "r-1" in run("train", "p").stdout
    assert "stopped" in run("freeze", "p").stdout
    services.on("POST", "/v1/pipelines/p/freeze", {"frozen": False})
    assert "are on" in run("unfreeze", "p").stdout
    sent = {path.rpartition("/")[2]: body for path, body in services.asked if body}
    assert sent["promote"] == {"version": 3, "at": "1970-01-01T00:00:01Z", "detail": ""}
    assert sent["rollback"] == {"at": "2013-01-01T00:00:00Z", "detail": "", "to_epoch": 1}
    assert sent["freeze"] == {"frozen": False}


def test_a_broken_audit_chain_is_exit_code_1(services: Services) -> None:
    services.on("GET", "/v1/audit/verify", {"ok": False, "links": 9, "head": "h", "broken_at": 4, "reason": "changed"})
    shown = run("audit", "verify")
    assert shown.exit_code == 1
    assert "link 4: changed" in shown.stdout
    services.on("GET", "/v1/audit/verify", {"ok": True, "links": 9, "head": "h", "broken_at": None, "reason": ""})
    assert run("audit", "verify", "--json").exit_code == 0


def test_drift_shows_its_evidence(services: Services) -> None:
    drift = {"event_id": "e-1", "pipeline": "p", "kind": "concept", "subject": "paired_loss", "at_us": 0, "effect": 0.1,
             "before": 0.4, "after": 0.5, "detector": "adwin", "policy": DIGEST}  # fmt: skip
    services.on("GET", "/v1/pipelines/p/drifts", {"items": [drift]})
    assert "paired_loss" in run("drift", "p").stdout
    assert json.loads(run("drift", "p", "--json").stdout)[0]["event_id"] == "e-1"


def test_runs_show_the_gate(services: Services) -> None:
    run_id = "6f0a7f4e-6d6c-5b3a-9d43-7469646d696c"
    item = {"request_id": "r-1", "pipeline": "p", "status": "succeeded", "attempt": 1, "cause": {"kind": "drift"},
            "at_us": 0, "result": {"run_id": run_id}, "seconds": 2.5, "progress": None}  # fmt: skip
    gate = {"pipeline": "p", "version": 3, "verdict": "pass", "checks": [], "champion_epoch": 1, "run_id": run_id,
            "at_us": 0, "policy": DIGEST}  # fmt: skip
    services.on("GET", "/v1/runs", {"runs": [item, item | {"pipeline": "other", "request_id": "r-2"}]})
    services.on("GET", "/v1/pipelines/p/gates", {"items": [gate]})
    version = {"version": 3, "model": DIGEST, "manifest": DIGEST, "run_id": run_id, "at_us": 0}
    services.on("GET", "/v1/pipelines/p/versions", {"items": [version]})
    shown = run("runs", "p").stdout
    assert "pass" in shown
    assert "r-2" not in shown
    assert len(json.loads(run("runs", "p", "--json").stdout)) == 1


def test_dead_letters(services: Services) -> None:
    letter = {"topic": "t.dlq", "partition": 0, "offset": 7, "origin_topic": "t", "origin_partition": 0,
              "origin_offset": 5, "reason": "schema", "error": "[bad]", "replays": 0, "at": None,
              "bytes": 3}  # fmt: skip
    services.on("GET", "/v1/dlq", {"letters": [letter]})
    opened = {**letter, "headers": {"ce_id": "x"}, "key_base64": None, "value_base64": "YWJj"}
    services.on("GET", "/v1/dlq/t.dlq/0/7", opened)
    services.on("POST", "/v1/dlq/replay", {"replayed": [{"offset": 7}], "skipped": 1})
    assert "schema" in run("dlq", "list").stdout
    assert "abc" in run("dlq", "show", "t.dlq", "0", "7").stdout
    assert "1 put back, 1 left out" in run("dlq", "replay", "t.dlq", "--at", "0", "7").stdout
    assert services.asked[-1][1] == {"topic": "t.dlq", "limit": 100, "force": False, "partition": 0, "offset": 7}
