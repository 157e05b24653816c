"""`demo`: the closed loop on real flights, from an empty directory to a report."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import uvloop
from rich.table import Table

from tidemill.cli.output import JsonOption, console, emit, say, table

if TYPE_CHECKING:
    from tidemill.demo.run import Demo

_MEASURES = ("log_loss", "brier", "auc", "pr_auc")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Demo")(demo)


def demo(  # noqa: PLR0913 - the options of a command
    days: Annotated[int, typer.Option(min=32, max=365, help="How many days of 2013, from 1 January.")] = 90,
    inject: Annotated[bool, typer.Option("--inject", help="Change the truth on 1 March: late is 0 minutes.")] = False,
    kill: Annotated[bool, typer.Option("--kill", help="SIGKILL every process once, at random moments.")] = False,
    home: Annotated[
        Path | None, typer.Option(help="Where its stack lives; emptied.", show_default="OUTPUT/home")
    ] = None,
    output: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("build/demo"),
    pipeline: Annotated[Path, typer.Option(help="The pipeline file.")] = Path("pipelines/flight-delay.yaml"),
    as_json: JsonOption = False,
) -> None:
    """Run the closed loop on the flights that left New York in 2013, and write a report.

    It brings up its own Kafka, Postgres and services, replays the flights in event time, lets the loop notice, train,
    judge and release by itself, and counts that nothing was lost and nothing was done twice. Exit code 1 if a count
    does not add up.

    Example: [bold]tidemill demo --days 90 --inject[/bold]
    """
    from tidemill.demo.report import write_html  # noqa: PLC0415 - numerical libraries, which other commands need not load
    from tidemill.demo.run import Demo, Options  # noqa: PLC0415 - see above

    options = Options(
        pipeline=pipeline, output=output, home=(home or output / "home").absolute(), days=days, inject=inject, kill=kill
    )
    run = Demo(options)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        report = runner.run(_run(run, quiet=as_json))
    place = run.finish(report)
    write_html(report, place.with_suffix(".html"))
    if as_json:
        emit(report)
    else:
        _summary(report, place, options.home)
    if report["ledger_broken"]:
        raise typer.Exit(1)


async def _run(run: "Demo", *, quiet: bool) -> dict[str, Any]:
    from tidemill.client.transport import TidemillError  # noqa: PLC0415 - see above
    from tidemill.demo.live import shown  # noqa: PLC0415 - see above
    from tidemill_contracts.pipeline import load_pipeline  # noqa: PLC0415 - see above

    name = load_pipeline(run.options.pipeline).name
    try:
        if quiet:
            return await run.run()
        async with shown(run, name, console, say):
            return await run.run()
    except ExceptionGroup as group:  # several requests are on their way at once: one of their errors says enough
        expected = group.subgroup(TidemillError)
        if expected is None:
            raise
        raise _first(expected) from None


def _first(error: Exception) -> Exception:
    return _first(error.exceptions[0]) if isinstance(error, ExceptionGroup) else error


def _summary(report: dict[str, Any], place: Path, home: Path) -> None:
    console.print(_quality(report["quality"]))
    counts = report["counts"]
    say("\n" + ", ".join(f"{counts[name]} {name}" for name in ("drifts", "runs", "releases", "swaps")))
    for line in report["ledger_broken"] or ["nothing lost, nothing twice: every count adds up"]:
        say(f"[{'red' if report['ledger_broken'] else 'green'}]{line}[/]")
    say(f"decisions  {report['decisions_digest']}")
    say(f"seconds    {', '.join(f'{name} {seconds:.0f}' for name, seconds in report['phases'].items())}")
    say(f"memory     {report['memory_mib']['total']:,.0f} MiB at most, all processes together")
    say(f"report     {place.with_suffix('.html')}")
    say(f"           {place}")
    say(f"look around: [bold]tidemill up --home {home} --detach[/bold]")


def _quality(quality: dict[str, Any]) -> Table:
    shown = table("", "n", *(f"{name.replace('_', '-')} {who}" for name in _MEASURES for who in ("loop", "frozen")))
    rows = [*quality["months"].items(), ("all", quality)]
    if "recovered" in quality:
        rows.append(("recovered", quality["recovered"]))
    for name, pair in rows:
        cells = [_number(pair[who][measure]) for measure in _MEASURES for who in ("loop", "frozen")]
        shown.add_row(name, f"{pair['loop']['n']:,}", *cells)
    return shown


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
