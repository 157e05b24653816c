"""AsyncAPI 3.0 of every topic and event: who publishes which message where, for tools that speak the standard."""

from typing import Any

from pydantic.json_schema import models_json_schema

from tidemill_contracts.events import EVENTS, Event
from tidemill_contracts.topics import CONTROL, VERSION

_HEADERS = {
    "type": "object",
    "required": ["ce_specversion", "ce_id", "ce_type", "ce_source", "ce_time", "content-type"],
    "properties": {
        "ce_specversion": {"type": "string", "const": "1.0"},
        "ce_id": {"type": "string", "description": "unique within ce_source; derived from the cause for decisions"},
        "ce_type": {"type": "string"},
        "ce_source": {"type": "string"},
        "ce_time": {"type": "string", "format": "date-time"},
        "ce_subject": {"type": "string"},
        "ce_causationid": {"type": "string", "description": "id of the event that caused this one"},
        "ce_correlationid": {"type": "string", "description": "id that all events of one chain share"},
        "content-type": {"type": "string", "const": "application/json"},
        "traceparent": {"type": "string", "description": "W3C trace context"},
        "tm_origin": {"type": "string", "description": "partition:offset:ordinal of the input this record came from"},
        "tm_seq": {"type": "string", "description": "dense number of the record within its topic partition"},
    },
}
_NAMED = {
    "raw": "what producers send, unchecked: CloudEvents whose data is the source's own",
    "events": "validated events of a source, each id once",
    "late": "events behind the watermark",
    "future": "events dated too far after their arrival",
    "repartition": "rows of views keyed by another field than their source's, in the features service's own format",
    "features": "one vector per entity, compacted, and the partition's watermark",
    "requests": "requests for predictions that nobody waits for; answered among the predictions",
    "predictions": "every answer, once, before it left; read committed: answers to requests are in transactions",
    "outcomes": "each label joined to its prediction, in one order",
}
_OF = {"raw": "source", "events": "source", "late": "source", "future": "source", "repartition": "source",
       "features": "view", "requests": "pipeline", "predictions": "pipeline", "outcomes": "pipeline"}  # fmt: skip


def asyncapi() -> dict[str, Any]:
    """The document. Payloads of sources are described by their pipeline file, so their channels carry `SourceEvent`."""
    models = [(event, "serialization") for _, event in sorted(EVENTS.items())]
    _, schemas = models_json_schema(models, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    messages = {event.__name__: _message(event) for _, event in sorted(EVENTS.items())}
    messages["SourceEvent"] = {
        "name": "SourceEvent",
        "title": "An event of a declared source",
        "contentType": "application/json",
        "headers": {"$ref": "#/components/schemas/CloudEventHeaders"},
        "payload": {"type": "object", "description": "fields as the pipeline file declares them for the source"},
    }
    channels = _channels()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Tidemill",
            "version": VERSION.removeprefix("v") + ".0.0",
            "description": "Topics carry CloudEvents 1.0 in Kafka's binary content mode.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": {
            f"{verb}{name[0].upper()}{name[1:]}": {"action": verb, "channel": {"$ref": f"#/channels/{name}"}}
            for name in channels
            for verb in ("send", "receive")
        },
        "components": {
            "messages": messages,
            "schemas": {"CloudEventHeaders": _HEADERS, **dict(sorted(schemas["$defs"].items()))},
        },
    }


def _message(event: type[Event]) -> dict[str, Any]:
    return {
        "name": event.TYPE,
        "title": event.__name__,
        "summary": (event.__doc__ or "").strip().split("\n")[0],
        "contentType": "application/json",
        "headers": {"$ref": "#/components/schemas/CloudEventHeaders"},
        "payload": {"$ref": f"#/components/schemas/{event.__name__}"},
    }


def _channels() -> dict[str, Any]:
    channels: dict[str, Any] = {}
    for family, about in _NAMED.items():
        names = [event.__name__ for _, event in sorted(EVENTS.items()) if family == event.FAMILY]
        if family in {"raw", "events", "late", "future", "repartition"}:
            names = ["SourceEvent", "Timer"]
        if family == "predictions":
            names.append("Timer")
        channels[family] = {
            "address": f"{{prefix}}.{family}.{{{_OF[family]}}}.{VERSION}",
            "description": about,
            "parameters": {
                "prefix": {"default": "tidemill"},
                _OF[family]: {"description": f"name of the {_OF[family]}"},
            },
            "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
        }
    for family in CONTROL:
        names = [event.__name__ for _, event in sorted(EVENTS.items()) if family == event.FAMILY]
        channels[family] = {
            "address": f"{{prefix}}.{family}.{VERSION}",
            "parameters": {"prefix": {"default": "tidemill"}},
            "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
        }
    return channels
