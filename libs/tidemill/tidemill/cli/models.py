"""`champion`, `releases`, `runs`, and decisions by hand: `train`, `promote`, `rollback`, `freeze`, `unfreeze`."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from tidemill.cli.connect import (
    TRAINED_S,
    AtOption,
    DetailOption,
    EpochOption,
    PipelineArgument,
    connected,
    instant,
    wait_for,
)
from tidemill.cli.output import HomeOption, JsonOption, console, emit, plain, say, table

if TYPE_CHECKING:
    from tidemill.client.results import TrainingOutcome
    from tidemill_contracts.events import Released

_COLUMNS = ("epoch", "version", "model", "from (event time)", "reason", "detail")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (champion, releases, runs, train, promote, rollback, freeze, unfreeze):
        app.command(rich_help_panel="Models")(command)


def champion(
    pipeline: PipelineArgument, at: AtOption = None, home: HomeOption = None, as_json: JsonOption = False
) -> None:
    """Show the release that answers, or that answered at an event time.

    Example: [bold]tidemill champion flight-delay --at 2013-03-01T00:00:00Z[/bold]
    """
    with connected(home) as client:
        show([client.champion(pipeline, at=at)], as_json=as_json, one=True)


def releases(pipeline: PipelineArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List releases by epoch.

    Example: [bold]tidemill releases flight-delay[/bold]
    """
    with connected(home) as client:
        show(client.releases(pipeline), as_json=as_json)


def runs(pipeline: PipelineArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List training runs, newest first, with what the gate said.

    Example: [bold]tidemill runs flight-delay[/bold]
    """
    with connected(home) as client:
        found = client.runs(pipeline)
        verdicts = {gate.run_id.hex: gate for gate in client.gates(pipeline)}
        numbers = {version.run_id.replace("-", ""): version.version for version in client.versions(pipeline)}
    if as_json:
        emit([run.model_dump() for run in found])
        return
    shown = table("request", "at (event time)", "cause", "status", "version", "gate", "seconds", "detail")
    for run in found:
        run_id = str((run.result or {}).get("run_id", run.request_id)).replace("-", "")
        gate = verdicts.get(run_id)
        seconds = f"{run.seconds:.1f}" if run.seconds is not None else _share(run.progress)
        cause = str(run.cause.get("kind", ""))
        version, verdict = str(numbers.get(run_id, "")), gate.verdict if gate is not None else ""
        detail = str((run.result or {}).get("error") or run.cause.get("detail", ""))
        cells = (run.request_id, instant(run.at_us), cause, run.status, version, verdict, seconds, detail)
        shown.add_row(*plain(*cells))
    console.print(shown)


def train(  # noqa: PLR0913 - the options of a command
    pipeline: PipelineArgument,
    at: AtOption = None,
    detail: DetailOption = "",
    wait: Annotated[bool, typer.Option("--wait", help="Return once it is decided; exit code 1 if no release.")] = False,
    from_archive: Annotated[
        bool | None,
        typer.Option(
            "--from-archive/--from-predictions",
            help="Learn from archived events, or from logged predictions; else the archive only where views are new.",
            show_default=False,
        ),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask for a training by hand. It learns from labelled predictions, or from the archive where there are none.

    Example: [bold]tidemill train flight-delay[/bold]
    """
    with connected(home) as client:
        request_id = client.train(pipeline, at=at, detail=detail, from_archive=from_archive)
        if wait:
            asked = f"the outcome of request {request_id}"
            outcome = wait_for(lambda: client.training_outcome(request_id), asked, timeout_s=TRAINED_S)
            _tell(outcome, as_json=as_json)
            return
    if as_json:
        emit({"request_id": request_id})
    else:
        say(f"request {request_id}; [bold]tidemill runs {pipeline}[/bold] shows what becomes of it")


def promote(  # noqa: PLR0913 - the options of a command
    pipeline: PipelineArgument,
    version: Annotated[int | None, typer.Argument(min=1, show_default="the challenger's")] = None,
    at: AtOption = None,
    expected_epoch: EpochOption = None,
    detail: DetailOption = "",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Release a version by hand: it answers all keys.

    Example: [bold]tidemill promote flight-delay 3 --detail "the gate was too strict"[/bold]
    """
    with connected(home) as client:
        made = client.promote(pipeline, version, at=at, expected_epoch=expected_epoch, detail=detail)
    show([made], as_json=as_json, one=True)


def rollback(  # noqa: PLR0913 - the options of a command
    pipeline: PipelineArgument,
    to_epoch: Annotated[int | None, typer.Option(help="Which one.", min=1, show_default="the latest other")] = None,
    at: AtOption = None,
    expected_epoch: EpochOption = None,
    detail: DetailOption = "",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Go back: from a canary to the champion alone, else to the latest release of other models, under a new epoch.

    Example: [bold]tidemill rollback flight-delay --to-epoch 2[/bold]
    """
    with connected(home) as client:
        made = client.rollback(pipeline, to_epoch=to_epoch, at=at, expected_epoch=expected_epoch, detail=detail)
    show([made], as_json=as_json, one=True)


def freeze(
    pipeline: PipelineArgument,
    off: Annotated[bool, typer.Option("--off", help="Resume.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stop automatic releases; training and judging go on.

    Example: [bold]tidemill freeze flight-delay[/bold]
    """
    with connected(home) as client:
        frozen = client.freeze(pipeline, frozen=not off)
    if as_json:
        emit({"pipeline": pipeline, "frozen": frozen})
    else:
        say(f"[bold]{pipeline}[/bold]: automatic releases are {'stopped' if frozen else 'on'}")


def unfreeze(pipeline: PipelineArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Resume automatic releases.

    Example: [bold]tidemill unfreeze flight-delay[/bold]
    """
    freeze(pipeline, off=True, home=home, as_json=as_json)


def _tell(outcome: "TrainingOutcome", *, as_json: bool) -> None:
    if as_json:
        emit(outcome.model_dump())
    elif outcome.status == "canary":
        say(f"version {outcome.version} is the challenger since epoch {outcome.epoch}: it answers a share of the keys")
    elif outcome.epoch is not None:
        say(f"version {outcome.version} is released and answers as epoch {outcome.epoch}")
    else:
        say(escape(f"{outcome.status}: {outcome.detail or 'nothing was released'}"))
    if outcome.epoch is None:
        raise typer.Exit(1)


def show(found: "list[Released]", *, as_json: bool, one: bool = False) -> None:
    """Releases as a table or as JSON; `one`: the JSON of the only one."""
    if as_json:
        documents: list[Any] = [json.loads(release.model_dump_json()) for release in found]
        emit(documents[0] if one else documents)
        return
    shown = table(*_COLUMNS)
    for release in found:
        lead, since = release.members[0], release.effective_at_us
        when = instant(release.at_us if since is None else since)
        version = "+".join(str(member.version) for member in release.members)
        if release.challenger is not None:
            version += f" | {release.challenger.version} for {release.challenger.share:.0%}"
        cells = (str(release.epoch), version, lead.model[:12], when)
        shown.add_row(*plain(*cells, release.reason.kind, release.reason.detail))
    console.print(shown)


def _share(progress: dict[str, Any] | None) -> str:
    return "" if not progress else f"{progress.get('name', '')} {progress.get('share', 0):.0%}"
