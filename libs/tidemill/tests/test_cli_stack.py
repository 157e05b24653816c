import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from typer.testing import CliRunner, Result

from tidemill.cli import main
from tidemill.cli.follow import follow, last_lines
from tidemill.cli.main import build
from tidemill.cli.stack import WORKERS
from tidemill.stack import Service
from tidemill.stack.files import Plan

SERVER = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
print("a line [not markup]", flush=True)
print("workers:", os.environ.get("TIDEMILL_SERVING_WORKERS"), flush=True)
http.server.HTTPServer((os.environ["TIDEMILL_HOST"], int(os.environ["TIDEMILL_PORT"])), Handler).serve_forever()
"""


def run(*arguments: str | Path, answer: str | None = None) -> Result:
    return CliRunner().invoke(build(), [str(each) for each in arguments], input=answer)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home in which `up` starts two services in miniature and no servers."""
    monkeypatch.setenv("TIDEMILL_KAFKA", "kafka.example:9092")
    monkeypatch.setenv("TIDEMILL_POSTGRES", "postgresql://postgres.example/db")
    services = tuple(Service(name=name, command=(sys.executable, "-S", "-c", SERVER)) for name in ("one", "two"))
    monkeypatch.setattr(Plan, "default", classmethod(lambda _cls: Plan(services=services)))
    with TemporaryDirectory(prefix="tm-") as folder:
        yield Path(folder) / "home"
        run("down", "--home", Path(folder) / "home")


def test_the_life_of_a_stack(home: Path) -> None:
    assert run("up", "--detach", "--home", home).exit_code == 0
    status = json.loads(run("status", "--json", "--home", home).stdout)
    assert status["running"]
    assert status["kafka"] == "kafka.example:9092"
    assert {name: each["state"] for name, each in status["services"].items()} == {"one": "ready", "two": "ready"}
    assert status["services"]["one"]["url"] in run("status", "--home", home).stdout
    assert "a line [not markup]" in run("logs", "one", "--home", home).stdout
    assert "two        | a line" in run("logs", "--home", home).stdout
    assert "stopped" in run("down", "--home", home).stdout
    assert json.loads(run("status", "--json", "--home", home).stdout)["running"] is False
    assert run("reset", "--yes", "--home", home).exit_code == 0
    assert not home.exists()


def test_the_number_of_workers_reaches_the_services(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKERS, "1")  # also so that what the command sets is gone after the test
    assert run("up", "--detach", "--workers", "3", "--home", home).exit_code == 0
    assert "workers: 3" in run("logs", "one", "--home", home).stdout
    refused = run("up", "--workers", "65", "--home", home)
    assert refused.exit_code == 2
    assert "--workers" in refused.stderr


def test_a_second_up_says_who_is_there(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("up", "--detach", "--home", home)
    monkeypatch.setattr(sys, "argv", ["tidemill", "up", "--home", str(home)])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert f"error: {home} is already in use by process " in said
    assert "Traceback" not in said


def test_reset_asks_first_and_takes_no_for_an_answer(home: Path) -> None:
    run("up", "--detach", "--home", home)
    assert run("reset", "--home", home, answer="n\n").exit_code == 1
    assert json.loads(run("status", "--json", "--home", home).stdout)["running"]


def test_reset_deletes_only_what_tidemill_made(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    refused = run("reset", "--yes", "--home", tmp_path)
    assert "was not made by tidemill" in str(refused.exception)
    assert (tmp_path / "thesis.txt").exists()


def test_down_without_a_stack_is_no_error(tmp_path: Path) -> None:
    assert run("down", "--home", tmp_path / "none").exit_code == 0


def test_logs_of_an_unknown_process_name_those_there_are(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "kafka.log").touch()
    assert "no log of kafak" in str(run("logs", "kafak", "--home", tmp_path).exception)
    assert "there are: kafka" in str(run("logs", "kafak", "--home", tmp_path).exception)


@pytest.mark.parametrize("command", ["up", "status", "logs", "down", "reset"])
def test_every_command_explains_itself_with_an_example(command: str) -> None:
    assert "Example: tidemill " in run(command, "--help").stdout


def test_the_version_is_told() -> None:
    assert run("--version").stdout.startswith("tidemill ")


def test_following_gives_whole_lines_across_a_rotation(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("old\n")
    steps = iter(["one\ntw", "o\n", None, "after\n"])

    def wait() -> None:
        step = next(steps)
        if step is None:
            os.truncate(log, 0)
        else:
            with log.open("a") as file:
                file.write(step)

    seen = follow([log], wait=wait)
    assert [next(seen) for _ in range(3)] == [("a", "one"), ("a", "two"), ("a", "after")]


def test_the_last_lines_of_a_log(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("1\n2\n3\n")
    assert last_lines(tmp_path / "a.log", 2) == ["2", "3"]
