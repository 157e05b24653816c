"""`rollout`, and what answers beside the champion: `canary`, `shadow`, `mix`."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from tidemill.cli.connect import AtOption, DetailOption, EpochOption, PipelineArgument, connected
from tidemill.cli.models import show
from tidemill.cli.output import HomeOption, JsonOption, console, emit, plain, table

if TYPE_CHECKING:
    from rich.table import Table

    from tidemill.client.results import ShadowFigures
    from tidemill_contracts.events import Released

VersionArgument = Annotated[int, typer.Argument(help="The version's number.", min=1)]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (rollout, canary, shadow, mix):
        app.command(rich_help_panel="Models")(command)


def rollout(pipeline: PipelineArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show who answers which share of the keys, who scores beside them and how well, and the steps that are left.

    A shadow's log-loss stands beside that of the answers on the same labelled rows; the difference with the bounds and
    the verdict of the pipeline's gate.

    Example: [bold]tidemill rollout flight-delay[/bold]
    """
    with connected(home) as client:
        release, known = client.champion(pipeline), client.pipeline(pipeline)
        found = client.shadow_figures(pipeline) if release.shadows else []
    steps = list((known.spec.get("rollout") or {}).get("steps", ()))
    now = 0.0 if release.challenger is None else release.challenger.share
    left = [step for step in steps if step > now]
    if as_json:
        figures = [each.model_dump() for each in found]
        emit({**json.loads(release.model_dump_json()), "steps_left": left, "shadow_figures": figures})
        return
    shown = table("what", "version", "share of keys", "weight", "model")
    for row in _rows(release):
        shown.add_row(*plain(*row))
    console.print(shown)
    if found:
        console.print(_figures(found))
    console.print(f"epoch {release.epoch}; steps left: {', '.join(f'{step:.0%}' for step in left) or 'none'}")


def canary(  # noqa: PLR0913 - the options of a command
    pipeline: PipelineArgument,
    version: VersionArgument,
    share: Annotated[
        float | None, typer.Option(help="Of the keys, above 0, at most 1.", show_default="the next of rollout.steps")
    ] = None,
    at: AtOption = None,
    expected_epoch: EpochOption = None,
    detail: DetailOption = "",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a version answer a share of the keys as the champion's challenger. A key keeps its side as the share grows.

    Example: [bold]tidemill canary flight-delay 4 --share 0.1[/bold]
    """
    with connected(home) as client:
        made = client.canary(pipeline, version, share=share, at=at, expected_epoch=expected_epoch, detail=detail)
    show([made], as_json=as_json, one=True)


def shadow(  # noqa: PLR0913 - the options of a command
    pipeline: PipelineArgument,
    version: VersionArgument,
    remove: Annotated[bool, typer.Option("--remove", help="No longer.")] = False,
    at: AtOption = None,
    expected_epoch: EpochOption = None,
    detail: DetailOption = "",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score with a version beside every answer, after it has left; its scores are only logged.

    Example: [bold]tidemill shadow flight-delay 4[/bold]
    """
    with connected(home) as client:
        made = client.shadow(pipeline, version, remove=remove, at=at, expected_epoch=expected_epoch, detail=detail)
    show([made], as_json=as_json, one=True)


def mix(  # noqa: PLR0913 - the options of a command
    pipeline: PipelineArgument,
    members: Annotated[list[str], typer.Argument(help="VERSION=WEIGHT, weights above 0, at most 1.")],
    at: AtOption = None,
    expected_epoch: EpochOption = None,
    detail: DetailOption = "",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let several versions answer together: the weighted mean of their scores. They must read the same features.

    Example: [bold]tidemill mix flight-delay 3=0.7 5=0.3[/bold]
    """
    weights = dict(map(_part, members))
    if len(weights) < len(members):
        raise typer.BadParameter("a version stands there twice")
    with connected(home) as client:
        made = client.mix(pipeline, weights, at=at, expected_epoch=expected_epoch, detail=detail)
    show([made], as_json=as_json, one=True)


def _part(text: str) -> tuple[int, float]:
    version, _, weight = text.partition("=")
    try:
        return int(version), float(weight)
    except ValueError:
        raise typer.BadParameter(f"{text} is not VERSION=WEIGHT, such as 3=0.7") from None


def _rows(release: "Released") -> list[tuple[str, str, str, str, str]]:
    challenger = release.challenger
    rest = 1.0 if challenger is None else 1.0 - challenger.share
    rows = [
        ("champion", str(member.version), f"{rest:.1%}", f"{member.weight:g}", member.model[:12])
        for member in release.members
    ]
    if challenger is not None:
        rows.append(("challenger", str(challenger.version), f"{challenger.share:.1%}", "", challenger.model[:12]))
    return rows + [(f"shadow {s.name}", str(s.version), "", "", s.model[:12]) for s in release.shadows]


def _figures(found: "list[ShadowFigures]") -> "Table":
    shown = table("shadow", "answers of", "rows", "failed", "log-loss", "answers'", "difference", "bounds", "gate")
    for each in found:
        difference, bounds = "", ""
        if each.difference is not None:
            difference = f"{each.difference.mean:+.4f}"
            low, high = each.difference.lower, each.difference.upper
            bounds = "" if low is None or high is None else f"{low:+.4f} to {high:+.4f} ({each.difference.days} days)"
        losses = ["" if loss is None else f"{loss:.4f}" for loss in (each.log_loss, each.answers_log_loss)]
        rows = (f"{each.rows:,}", f"{each.failed:,}")
        shown.add_row(*plain(each.name, f"version {each.against}", *rows, *losses, difference, bounds, each.verdict))
    return shown
