"""`drift`, `lineage`, `audit verify` and `ledger`: what happened, why, and that all of it is accounted for."""

import json
from typing import Annotated

import typer
from rich.markup import escape
from rich.tree import Tree

from tidemill.cli.connect import PipelineArgument, connected, instant
from tidemill.cli.output import HomeOption, JsonOption, console, emit, plain, say, table


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (drift, lineage, ledger):
        app.command(rich_help_panel="Evidence")(command)
    audit = typer.Typer(help="The chain of decisions.", no_args_is_help=True)
    audit.callback()(_audit)
    audit.command("verify")(verify)
    app.add_typer(audit, name="audit", rich_help_panel="Evidence")


def drift(pipeline: PipelineArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List alarms with their evidence, newest first.

    Example: [bold]tidemill drift flight-delay[/bold]
    """
    with connected(home) as client:
        found = client.drifts(pipeline)
    if as_json:
        emit([{"event_id": each.event_id, **json.loads(each.drift.model_dump_json())} for each in found])
        return
    shown = table("at (event time)", "kind", "subject", "before", "after", "p", "detector", "event")
    for each in found:
        one = each.drift
        figures = (_number(one.before), _number(one.after), "" if one.p_value is None else f"{one.p_value:.1e}")
        shown.add_row(*plain(instant(one.at_us), one.kind, one.subject, *figures, one.detector, each.event_id))
    console.print(shown)


def lineage(
    prediction_id: Annotated[str, typer.Argument(help="As the answer named it.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show where a prediction came from: down to source events, up to the run of its model and that run's cause.

    Example: [bold]tidemill lineage 2c7d1a3e-8f1b-5f55-9c1d-0a4b6f0e7a11[/bold]
    """
    with connected(home) as client:
        found = client.lineage(prediction_id)
    if as_json:
        emit(found.to_json())
        return
    first, *steps = found.steps
    branches = [Tree(_line(first.what, first.which), guide_style="dim")]
    for step in steps:
        del branches[max(step.depth, 1) :]
        branches.append(branches[-1].add(_line(step.what, step.which)))
    console.print(branches[0], soft_wrap=True)


def verify(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Check the hash chain over all decisions; exit code 1 if a link does not fit.

    Example: [bold]tidemill audit verify[/bold]
    """
    with connected(home) as client:
        found = client.audit_verify()
    if as_json:
        emit(found.model_dump())
    elif found.ok:
        say(f"[green]the chain holds[/]: {found.links} links, head {found.head[:12]}")
    else:
        say(f"[red]the chain is broken[/] at link {found.broken_at}: {found.reason}")
    if not found.ok:
        raise typer.Exit(1)


def ledger(pipeline: PipelineArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Count what came in and what became of it, from rows and topics; exit code 1 if the counts do not add up.

    Wait until the stream has come to rest: what is on its way is counted on one side only.

    Example: [bold]tidemill ledger flight-delay[/bold]
    """
    import asyncio  # noqa: PLC0415 - only this command of the group reads topics itself

    from tidemill.client.transport import AsyncTransport  # noqa: PLC0415 - see above
    from tidemill.ledger.counts import Ledger, read_ledger  # noqa: PLC0415 - see above
    from tidemill_contracts.pipeline import PipelineSpec  # noqa: PLC0415 - see above

    with connected(home) as client:
        spec = PipelineSpec.of(client.pipeline(pipeline).spec)
        mine = client.transport

    async def read() -> Ledger:
        transport = AsyncTransport(mine.endpoints, mine.api_key, mine.patience_s)
        try:
            return await read_ledger(transport, mine.endpoints.bootstrap(), spec, prefix=mine.endpoints.prefix)
        finally:
            await transport.close()

    found = asyncio.run(read())
    if as_json:
        emit({"balanced": found.balanced, "broken": found.broken, "counts": found.counts})
    else:
        shown = table("", "count", "")
        for part, counts in found.counts.items():
            for index, (name, count) in enumerate(counts.items()):
                shown.add_row(*plain("" if index else part, f"{count:,}", name.replace("_", " ")))
        console.print(shown)
        for line in found.broken:
            say(f"[red]{line}[/]")
        if found.balanced:
            say("[green]every count adds up[/]")
    if found.broken:
        raise typer.Exit(1)


def _audit() -> None:
    """Decisions are kept in a chain of hashes."""


def _line(what: str, which: str) -> str:
    return f"[bold]{what}[/bold]  {escape(which)}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
