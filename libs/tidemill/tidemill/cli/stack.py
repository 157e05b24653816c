"""`up`, `status`, `logs`, `down`, `reset`: the embedded stack of one home."""

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated

import typer
from rich.live import Live
from rich.table import Table

from tidemill.cli.follow import follow, last_lines
from tidemill.cli.output import HomeOption, JsonOption, console, emit, say, table
from tidemill.stack import Endpoints, Home, LocalPostgres, NotRunningError, Stack, StackError
from tidemill.stack.files import MemoryReport
from tidemill.stack.lock import holder
from tidemill.stack.probes import answers

_STYLES = {"ready": "green", "starting": "yellow", "waiting": "dim", "backing off": "red", "stopped": "dim"}
_POLL_S = 0.2
WORKERS = "TIDEMILL_SERVING_WORKERS"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(rich_help_panel="Stack")(up)
    app.command(rich_help_panel="Stack")(status)
    app.command(rich_help_panel="Stack")(logs)
    app.command(rich_help_panel="Stack")(down)
    app.command(rich_help_panel="Stack")(reset)


def up(
    home: HomeOption = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return once everything is ready.")] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Give up after so many seconds.")] = 300,
    workers: Annotated[
        int | None, typer.Option(min=0, max=64, help="Processes that answer predictions; 0: one for each core.")
    ] = None,
) -> None:
    """Start Kafka, Postgres and the six services.

    Without --detach it stays and stops everything on Ctrl-C. TIDEMILL_KAFKA, TIDEMILL_POSTGRES and TIDEMILL_ARTIFACTS
    name servers and a place of your own to use instead of the embedded ones.

    Example: [bold]tidemill up --home ./try --detach[/bold]
    """
    if workers is not None:
        os.environ[WORKERS] = str(workers)  # the supervisor's services are told what this process is told
    stack = Stack(home)
    say(f"starting in [bold]{stack.home.root}[/bold] (the first start downloads Kafka, about 43 MB)")
    with _stop_requested() as stopping:
        seen = _start(stack, detached=detach, timeout_s=timeout)
        console.print(_overview(seen, MemoryReport()))
        if detach:
            say("running; [bold]tidemill status[/bold] shows it, [bold]tidemill down[/bold] stops it")
            return
        say("running; Ctrl-C stops it")
        try:
            while not stopping.wait(_POLL_S):
                stack.endpoints()  # raises once the supervisor is gone: somebody ran `tidemill down`
        except KeyboardInterrupt:
            pass
        except NotRunningError:
            say("stopped from elsewhere")
            return
        say("stopping")
        stack.stop()


def status(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show what runs, where, and how much memory it takes; exit code 1 if nothing runs.

    Example: [bold]tidemill status --json | jq .services.serving.url[/bold]
    """
    stack = Stack(home)
    try:
        seen = stack.endpoints()
    except NotRunningError as error:
        if as_json:
            emit({"running": False, "home": str(stack.home.root)})
            raise typer.Exit(1) from None
        raise NotRunningError(f"{error}; start it with: tidemill up") from None
    memory = stack.memory()
    if as_json:
        used = {name: use.now_mib for name, use in memory.processes.items()}
        emit({"running": True, "home": str(stack.home.root), **seen.model_dump(), "memory_mib": used})
    else:
        console.print(_overview(seen, memory))
        places = {"kafka": seen.kafka, "postgres": seen.postgres, "artifacts": seen.artifacts, "home": stack.home.root}
        say("\n" + "\n".join(f"{name:<10} {place}" for name, place in places.items()))


def logs(
    service: Annotated[str | None, typer.Argument(help="One process; all of them if left out.")] = None,
    home: HomeOption = None,
    follow_on: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more; Ctrl-C ends it.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines.")] = 50,
) -> None:
    """Print the last lines of the logs.

    Example: [bold]tidemill logs serving --follow[/bold]
    """
    place = Home.at(home)
    names = sorted(path.stem for path in place.logs.glob("*.log"))
    if service is not None and service not in names:
        known = ", ".join(names) or "none yet"
        raise StackError(f"no log of {service} in {place.root}; there are: {known}")
    chosen = [place.log(name) for name in ([service] if service else names)]
    for path in chosen:
        for line in last_lines(path, lines):
            typer.echo(line if service else f"{path.stem:<11}| {line}")
    if follow_on:
        for name, line in follow(chosen):
            typer.echo(line if service else f"{name:<11}| {line}")


def down(home: HomeOption = None) -> None:
    """Stop everything that runs in the home; its data stays.

    Example: [bold]tidemill down[/bold]
    """
    stack = Stack(home)
    if holder(stack.home) is None:
        say(f"nothing runs in {stack.home.root}")
        return
    stack.stop()
    say(f"stopped; the data stays in {stack.home.root}")


def reset(
    home: HomeOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Stop everything and delete the home: events, models, history, all of it.

    Example: [bold]tidemill reset --home ./try --yes[/bold]
    """
    stack = Stack(home)
    root = stack.home.root
    if not root.exists():
        say(f"nothing to delete: {root} does not exist")
        return
    if not stack.home.marker.exists():
        raise StackError(f"{root} was not made by tidemill; nothing was deleted")
    if not yes:
        typer.confirm(f"Delete {root} with everything in it?", abort=True)
    if holder(stack.home) is not None:
        stack.stop()
    LocalPostgres(stack.home.postgres).clear_sockets()
    shutil.rmtree(root)
    say(f"deleted {root}")


def _start(stack: Stack, *, detached: bool, timeout_s: float) -> Endpoints:
    if not console.is_terminal:
        return stack.start(detached=detached, timeout_s=timeout_s)
    with Live(console=console, transient=True) as live:

        def show(seen: Endpoints) -> None:
            live.update(_overview(seen, MemoryReport()))

        return stack.start(detached=detached, timeout_s=timeout_s, watch=show)


def _overview(seen: Endpoints, memory: MemoryReport) -> Table:
    shown = table("process", "state", "pid", "restarts", "MiB", "address")
    for name, process in seen.processes.items():
        state = process.state
        if state == "ready" and process.url and not answers(f"{process.url}/readyz"):
            state = "starting"
        used = memory.processes.get(name)
        shown.add_row(
            name,
            f"[{_STYLES[state]}]{'not ready' if state != process.state else state}[/]",
            str(process.pid or ""),
            str(process.restarts or ""),
            f"{used.now_mib:.0f}" if used else "",
            process.url or "",
        )
    return shown


@contextmanager
def _stop_requested() -> Iterator[threading.Event]:
    """An event set by SIGTERM, so that `up` stops what it started whichever way it is asked."""
    asked = threading.Event()

    def handle(_number: int, _frame: FrameType | None) -> None:
        asked.set()

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)
