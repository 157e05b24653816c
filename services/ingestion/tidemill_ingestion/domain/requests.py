"""What a producer sends over HTTP: one event or many, plain or as CloudEvents, all of it valid or none taken."""

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import unquote

import msgspec

from tidemill_contracts.events import Timer
from tidemill_ingestion.domain.fields import Issue, instant, issue_of, plain_text, shown
from tidemill_ingestion.domain.source import Context, Event, Source
from tidemill_ingestion.domain.strict_json import BadJsonError, loads

MAXIMUM_ISSUES = 100
JSON = "application/json"
NDJSON = "application/x-ndjson"
CLOUDEVENT = "application/cloudevents+json"
CLOUDEVENTS = "application/cloudevents-batch+json"
as_json = msgspec.json.Encoder().encode
"""What an answer says, as JSON."""
_PLAIN = frozenset({"id", "time", "data"})
_ATTRIBUTE = re.compile(r"[a-z0-9]{1,40}", re.ASCII)
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)
_MAXIMUM_ATTRIBUTE = 512


class MediaTypeError(ValueError):
    """The content type is none that events come in."""


class InvalidEventsError(ValueError):
    """At least one event is not valid, so none is taken."""

    def __init__(self, issues: Sequence[Issue]) -> None:
        super().__init__(f"{len(issues)} problems")
        self.issues = tuple(issues[:MAXIMUM_ISSUES])


@dataclass(frozen=True, slots=True)
class Posted:
    """The events of one request in its order; `single` when the answer is one object rather than a list."""

    events: list[Event]
    single: bool


@dataclass(frozen=True, slots=True)
class Parcel:
    """One request as it came in: media type without parameters, headers in lower case, the limit of a batch."""

    media_type: str
    headers: Mapping[str, str]
    body: bytes
    maximum: int


def read_request(source: Source, parcel: Parcel) -> Posted:
    """The events in a request body; raises InvalidEventsError naming every item that is wrong, or MediaTypeError."""
    plain = source.context()
    if "ce-specversion" in parcel.headers:
        return _one(partial(_binary, source), parcel)
    if parcel.media_type == CLOUDEVENT:
        return _one(lambda body, _, issues: _structured(source, _json(body), "", issues), parcel)
    if parcel.media_type == CLOUDEVENTS:
        items = _json(parcel.body)
        if not isinstance(items, list):
            raise InvalidEventsError([Issue("", "type", "a batch must be an array")])
        return _many(partial(_structured, source), items, parcel.maximum)
    if parcel.media_type == NDJSON:
        lines = [line for line in parcel.body.split(b"\n") if line.strip()]
        return _many(partial(_line, source, plain), lines, parcel.maximum)
    if parcel.media_type != JSON:
        raise MediaTypeError(f"{JSON}, {NDJSON}, {CLOUDEVENT}, {CLOUDEVENTS}")
    return _quick(source, plain, parcel) or _careful(source, plain, parcel)


def _quick(source: Source, plain: Context, parcel: Parcel) -> Posted | None:
    """A request that is certainly valid, for a third of the cost; None for one that has to be read with care."""
    read = source.quick.read(parcel.body)
    if read is None or len(read[0]) > parcel.maximum:
        return None
    events = [event for item, body in read[0] if (event := source.quick_event(item, body, plain)) is not None]
    if len(events) < len(read[0]) or len({event.id: event.digest for event in events}) < len(events):
        return None  # also one that names an id twice: perhaps with two bodies
    return Posted(events, single=read[1])


def _careful(source: Source, plain: Context, parcel: Parcel) -> Posted:
    value = _json(parcel.body)
    if isinstance(value, list):
        return _many(partial(_item, source, plain), value, parcel.maximum)
    return _one(lambda _body, _headers, issues: _item(source, plain, value, "", issues), parcel)


def _one(read: Callable[[bytes, Mapping[str, str], list[Issue]], Event | None], parcel: Parcel) -> Posted:
    issues: list[Issue] = []
    event = read(parcel.body, parcel.headers, issues)
    if event is None:
        raise InvalidEventsError(issues)
    return Posted([event], single=True)


def _many(read: Callable[[Any, str, list[Issue]], Event | None], items: Sequence[Any], maximum: int) -> Posted:
    if len(items) > maximum:
        raise InvalidEventsError([Issue("", "size", f"a batch holds at most {maximum} events")])
    issues: list[Issue] = []
    events: list[Event] = []
    seen: dict[str, bytes] = {}
    for index, item in enumerate(items):
        event = read(item, f"{index}.", issues)
        if event is not None:
            events.append(event)
            if seen.setdefault(event.id, event.digest) != event.digest:
                issues.append(conflict(f"{index}.id"))
        if len(issues) >= MAXIMUM_ISSUES:
            break
    if issues:
        raise InvalidEventsError(issues)
    return Posted(events, single=False)


def conflict(field: str) -> Issue:
    """The issue of an id that already stands for another event."""
    return Issue(field, "conflict", "is already the id of an event with another key, time or data")


def _json(body: bytes) -> Any:  # noqa: ANN401 - whatever the document holds
    try:
        return loads(body)
    except BadJsonError as error:
        raise InvalidEventsError([Issue("", error.rule, f"the body {error}")]) from None


def _line(source: Source, plain: Context, line: bytes, path: str, issues: list[Issue]) -> Event | None:
    try:
        value = loads(line)
    except BadJsonError as error:
        issues.append(Issue(path.rstrip("."), error.rule, str(error)))
        return None
    return _item(source, plain, value, path, issues)


def _item(source: Source, plain: Context, item: Any, path: str, issues: list[Issue]) -> Event | None:  # noqa: ANN401
    if not isinstance(item, dict):
        issues.append(Issue(path.rstrip("."), "type", "an event must be an object with id, time and data"))
        return None
    if not _PLAIN.issuperset(item):
        issues.extend(
            Issue(f"{path}{shown(name)}", "unknown", "an event has id, time and data") for name in item.keys() - _PLAIN
        )
        return None
    before = len(issues)
    time_us = _time(item.get("time"), path, issues)
    event = source.event(item.get("id"), time_us, item.get("data"), plain, path, issues)
    return event if len(issues) == before else None


def _structured(source: Source, item: Any, path: str, issues: list[Issue]) -> Event | None:  # noqa: ANN401
    """The JSON format, https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md."""
    if not isinstance(item, dict):
        issues.append(Issue(path.rstrip("."), "type", "a CloudEvent must be an object"))
        return None
    before = len(issues)
    attributes = {name: value for name, value in item.items() if name not in {"data", "data_base64"}}
    data = item.get("data")
    if "data_base64" in item:
        data = _base64(item, path, issues)
    kind = attributes.pop("datacontenttype", None)
    if kind is not None and not _is_json(kind):
        issues.append(Issue(f"{path}datacontenttype", "media_type", f"must be {JSON}"))
    context = _context(attributes, path, issues)
    time_us = _time(item.get("time"), path, issues)
    if len(issues) > before:
        return None
    return source.event(item.get("id"), time_us, data, context, path, issues)


def _binary(source: Source, body: bytes, headers: Mapping[str, str], issues: list[Issue]) -> Event | None:
    """The HTTP binding, https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md."""
    kind = headers.get("content-type")
    if kind is not None and not _is_json(kind):
        raise MediaTypeError(JSON)
    attributes: dict[str, Any] = {}
    for name, value in headers.items():
        if name.startswith("ce-"):
            try:
                attributes[name[3:]] = unquote(value, errors="strict")
            except UnicodeDecodeError:
                issues.append(Issue(shown(name[3:]), "characters", "must be percent-encoded UTF-8"))
    context = _context(attributes, "", issues)
    time_us = _time(attributes.get("time"), "", issues)
    if issues:
        return None
    return source.event(attributes.get("id"), time_us, _json(body), context, "", issues)


def _context(attributes: Mapping[str, Any], path: str, issues: list[Issue]) -> Context:
    if attributes.get("specversion") != "1.0":
        issues.append(Issue(f"{path}specversion", "value", "must be 1.0"))
    for name, value in attributes.items():
        if not _ATTRIBUTE.fullmatch(name):
            issues.append(Issue(f"{path}{shown(name)}", "unknown", "is not a CloudEvents attribute's name"))
        elif name != "id" and value is not None and not isinstance(value, bool | int):
            _text(value, f"{path}{name}", issues)
    issues.extend(
        Issue(f"{path}{name}", "required", "is required and a string")
        for name in ("type", "source")
        if not attributes.get(name) or not isinstance(attributes[name], str)
    )
    if str(attributes.get("type")).startswith(Timer.TYPE.rsplit(".", 1)[0]):
        issues.append(Issue(f"{path}type", "reserved", "is the platform's own; POST the source's progress instead"))
    own = attributes.get("traceparent")
    return Context(
        str(attributes.get("type")), str(attributes.get("source")), _optional(attributes, "subject"),
        _optional(attributes, "causationid"), _optional(attributes, "correlationid"),
        own if isinstance(own, str) and _TRACEPARENT.fullmatch(own) else None,
    )  # fmt: skip


def _text(value: object, field: str, issues: list[Issue]) -> None:
    try:
        text = plain_text(value)
    except ValueError as error:
        issues.append(issue_of(field, error))
        return
    if len(text) > _MAXIMUM_ATTRIBUTE:
        issues.append(Issue(field, "length", f"must have at most {_MAXIMUM_ATTRIBUTE} characters"))


def _optional(attributes: Mapping[str, Any], name: str) -> str | None:
    value = attributes.get(name)
    return value if isinstance(value, str) and value else None


def _time(value: object, path: str, issues: list[Issue]) -> int | None:
    if value is None:
        return None
    try:
        return instant(value)
    except ValueError as error:
        issues.append(issue_of(f"{path}time", error))
        return None


def _base64(item: Mapping[str, Any], path: str, issues: list[Issue]) -> Any:  # noqa: ANN401 - whatever the document holds
    try:
        if "data" in item:
            raise BadJsonError("value", "must not stand beside data")
        return loads(base64.b64decode(item["data_base64"], validate=True))
    except BadJsonError as error:
        issues.append(Issue(f"{path}data_base64", error.rule, str(error)))
    except (binascii.Error, TypeError, ValueError):
        issues.append(Issue(f"{path}data_base64", "base64", "must be base64"))
    return None


def _is_json(media_type: object) -> bool:
    kind = media_type.partition(";")[0].strip().lower() if isinstance(media_type, str) else ""
    return kind == JSON or (kind.startswith("application/") and kind.endswith("+json"))
