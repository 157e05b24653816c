"""`events send`, `predict` and `dlq`: what goes in, what comes out, and what could not be processed."""

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from tidemill.cli.connect import TAKEN_S, PipelineArgument, connected, wait_for
from tidemill.cli.output import HomeOption, JsonOption, console, emit, errors, plain, say, table

if TYPE_CHECKING:
    from tidemill.bulk import Progress
    from tidemill.client.results import Accepted

BATCH = 1000
_SHOWN, _TOLD_EVERY = 10, 100
_Item = dict[str, Any]
_PROGRESS_FROM_BYTES = 1_000_000


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(rich_help_panel="Data")(predict)
    events = typer.Typer(help="Send events.", no_args_is_help=True)
    events.command("send")(send)
    events.callback()(_events)
    app.add_typer(events, name="events", rich_help_panel="Data")


def send(
    source: Annotated[str, typer.Argument(help="The source's name.")],
    file: Annotated[str, typer.Argument(help="JSON array or NDJSON; - is standard input.", metavar="[FILE|-]")] = "-",
    wait: Annotated[bool, typer.Option("--wait", help="Return once they are applied, or told why not.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send events, each {"data": {...}} with optional "id" and "time". The same id twice has one effect.

    Example: [bold]tidemill events send arrivals arrivals.ndjson[/bold]
    """
    count, newest = 0, None
    last: dict[int, Accepted] = {}
    with connected(home) as client:
        for batch in _batches(file):
            try:
                accepted = client.send_events(source, batch)
            except Exception:
                errors.print(f"{count:,} events were sent; what follows is about those after them", highlight=False)
                raise
            count, newest = count + len(batch), accepted[-1]
            last |= {place.partition: place for place in accepted}
        if wait:
            places = list(last.values())
            wait_for(lambda: client.are_applied(source, places), "the events are applied", timeout_s=TAKEN_S)
    if as_json:
        emit({"sent": count, "newest": None if newest is None else newest.model_dump()})
    else:
        say(f"{count:,} events are on the log")


def predict(  # noqa: PLR0913 - the options of a command
    pipeline: PipelineArgument,
    file: Annotated[
        Path | None, typer.Argument(help="Instances: JSON or NDJSON.", exists=True, metavar="[FILE]")
    ] = None,
    given: Annotated[str | None, typer.Option("--input", help="One instance's inputs as JSON.")] = None,
    bulk: Annotated[bool, typer.Option("--bulk", help="Over Kafka, behind those who wait for answers.")] = False,
    answers: Annotated[
        Path | None, typer.Option("--answers", help="With --bulk: where to write the answers, as NDJSON.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="With --bulk: return once all is decided.")] = True,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Predict one instance (--input) or the instances of a file, each {"inputs": {...}} with optional "id" and "time".

    With --bulk they are sent over Kafka and counted; exit code 1 if one was refused.

    Example: [bold]tidemill predict flight-delay --input '{"flight": "UA1", "origin": "EWR", ...}'[/bold]
    Example: [bold]tidemill predict flight-delay flights.ndjson --bulk --answers scores.ndjson[/bold]
    """
    if (file is None) == (given is None):
        raise typer.BadParameter("give either a FILE or --input")
    if given is not None:
        instances: Iterator[_Item] = iter([{"inputs": _parsed(given, "--input")}])
    else:
        instances = (each if "inputs" in each else {"inputs": each} for batch in _batches(str(file)) for each in batch)
    if bulk:
        _predict_bulk(pipeline, instances, answers, wait=wait, home=home, as_json=as_json)
        return
    with connected(home) as client:
        found = client.predict_many(pipeline, list(instances))
    if as_json:
        emit([answer.model_dump() for answer in found])
        return
    shown = table("score", "epoch", "version", "defaulted", "prediction")
    for answer in found:
        cells = (f"{answer.score:.4f}", str(answer.epoch), str(answer.version), str(len(answer.defaulted) or ""))
        shown.add_row(*plain(*cells, answer.prediction_id))
    console.print(shown)


def _predict_bulk(  # noqa: PLR0913 - the options of a command
    pipeline: str, instances: Iterator[_Item], answers: Path | None, *, wait: bool, home: Path | None, as_json: bool
) -> None:
    if answers is not None and not wait:
        raise typer.BadParameter("--answers needs to wait for them")
    with connected(home) as client, ExitStack() as opened:
        out = None if answers is None else opened.enter_context(answers.open("w", encoding="utf-8"))
        sink = None if out is None else (lambda answer: print(json.dumps(answer), file=out))
        outcome = client.predict_bulk(pipeline, instances, wait=wait, progress=opened.enter_context(_told()), sink=sink)
    if as_json:
        emit(outcome.model_dump())
    else:
        said = f"{outcome.sent:,} requests are on the log"
        if wait:
            said += f": {outcome.answered:,} answered, {outcome.known:,} known before, {outcome.refused:,} refused"
        say(f"{said}, in {outcome.seconds:.1f} s")
        for refusal in outcome.refusals[:_SHOWN]:
            errors.print(f"{refusal.id}: {refusal.error}", markup=False, highlight=False)
        if outcome.refused > _SHOWN:
            errors.print(f"and {outcome.refused - _SHOWN:,} more: tidemill dlq list has all of them", highlight=False)
    if outcome.refused:
        raise typer.Exit(1)


@contextmanager
def _told() -> "Iterator[Progress | None]":
    """How far a run is, where somebody watches."""
    if not errors.is_terminal:
        yield None
        return
    with errors.status("sending") as shown:
        yield lambda what, count: shown.update(f"{count:,} {what}") if count % _TOLD_EVERY == 0 else None


def _events() -> None:
    """Send events to a source."""


def _batches(file: str) -> Iterator[list[_Item]]:
    """Events of a file in batches, with a progress bar where it is large and somebody watches."""
    if file == "-":
        yield from _chunked(_items(sys.stdin.buffer, "standard input"))
        return
    path = Path(file)
    with path.open("rb") as stream:
        if path.stat().st_size < _PROGRESS_FROM_BYTES or not errors.is_terminal:
            yield from _chunked(_items(stream, file))
            return
        from rich.progress import Progress  # noqa: PLC0415 - only for what takes a while

        with Progress(console=errors, transient=True) as progress:
            task = progress.add_task(path.name, total=path.stat().st_size)
            for batch in _chunked(_items(stream, file)):
                yield batch
                progress.update(task, completed=stream.tell())


def _chunked(items: Iterator[_Item]) -> Iterator[list[_Item]]:
    batch: list[_Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _items(stream: IO[bytes], name: str) -> Iterator[_Item]:
    """Objects of a JSON array or object, or of NDJSON, which is read line by line."""
    first = b""
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        if not first and line.lstrip().startswith(b"["):
            yield from _array(line + stream.read(), name)
            return
        first = first or line
        try:
            value = json.loads(line)
        except ValueError:
            if line is first:  # an object over several lines
                yield _object(_loaded(line + stream.read(), name), name)
                return
            raise typer.BadParameter(f"line {number} of {name} is not JSON") from None
        yield _object(value, f"line {number} of {name}")


def _array(text: bytes, name: str) -> Iterator[_Item]:
    for index, value in enumerate(_loaded(text, name)):
        yield _object(value, f"item {index} of {name}")


def _loaded(text: str | bytes, name: str) -> Any:  # noqa: ANN401 - whatever the document holds
    try:
        return json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"{name} is not JSON: {error}") from None


def _object(value: object, name: str) -> _Item:
    if not isinstance(value, dict):
        raise typer.BadParameter(f"{name} is not an object")
    return value


def _parsed(text: str, name: str) -> _Item:
    return _object(_loaded(text, name), name)
