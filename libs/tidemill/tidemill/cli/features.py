"""`features list` and `features show`: the catalogue of views."""

from typing import TYPE_CHECKING, Annotated

import typer

from tidemill.cli.connect import connected, instant
from tidemill.cli.dataset import group
from tidemill.cli.output import HomeOption, JsonOption, console, emit, plain, table

if TYPE_CHECKING:
    from tidemill.client.catalogue import FeatureView


def register(app: typer.Typer) -> None:
    """Add the commands to the group of feature views."""
    made = group(app, "features", "Feature views.")
    made.command("list")(list_views)
    made.command("show")(show)


def list_views(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List feature views: owner, freshness, lag, rows, consumers and quality.

    Example: [bold]tidemill features list[/bold]
    """
    with connected(home) as client:
        found = client.feature_views()
    if as_json:
        emit([each.model_dump() for each in found])
        return
    shown = table(
        "view", "version", "owner", "entity", "source", "features", "rows", "behind", "lag", "quality", "used by"
    )
    for each in found:
        about = (each.name, each.version[:8], each.owner, each.entity, each.source, str(len(each.features)))
        shown.add_row(*plain(*about, *_stands(each), _quality(each), ", ".join(each.consumers)))
    console.print(shown if found else "no pipeline defines a view", markup=False)


def show(
    view: Annotated[str, typer.Argument(help="The view's name.")], home: HomeOption = None, as_json: JsonOption = False
) -> None:
    """Show one view with its features, windows and consumers.

    Example: [bold]tidemill features show airport-departures[/bold]
    """
    with connected(home) as client:
        found = client.feature_view(view)
    if as_json:
        emit(found.model_dump())
        return
    rows, behind, lag = _stands(found)
    facts = {
        "view": found.name, "version": found.version, "owner": found.owner, "description": found.description,
        "pipeline": found.pipeline, "entity": f"{found.entity} ({', '.join(found.key)})", "source": found.source,
        "where": found.where or "", "windows": ", ".join(found.windows.values()),
        "watermark": instant(found.watermark_us), "behind": behind, "lag": lag, "rows": rows,
        "quality": _quality(found), "used by": ", ".join(found.consumers),
        "features": "\n                 ".join(found.features),
    }  # fmt: skip
    for key, value in facts.items():
        console.print(f"{key:<16} {value}", markup=False, highlight=False, soft_wrap=True)


def _stands(view: "FeatureView") -> tuple[str, str, str]:
    behind = "" if view.behind_s is None else f"{view.behind_s:,.0f} s"
    rows, lag = ("" if each is None else f"{each:,}" for each in (view.rows, view.lag))
    return rows or "does not run", behind, lag


def _quality(view: "FeatureView") -> str:
    if view.quarantined is None:
        return "not declared"
    return f"{view.quarantined} quarantined" if view.quarantined else "good"
