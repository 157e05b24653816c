"""Reads prediction requests: one instance or many, each with an optional id and time, all checked as declared."""

import re
from collections.abc import Generator, Mapping
from typing import Any, NamedTuple

from tidemill_contracts.pipeline import RequestSpec
from tidemill_engine.entities import EntityKey
from tidemill_serving.domain.body import Fault, RefusedError
from tidemill_serving.domain.compiled import LONGEST_ID, Inputs
from tidemill_serving.domain.extras import Extra, read_inline
from tidemill_serving.domain.fields import TIME_PROBLEM, FieldChecks, read_time
from tidemill_serving.domain.plan import text_key

MAXIMUM_INSTANCES = 1000
PART = 16
"""Instances that are read without a break."""
_INSTANCE = frozenset({"id", "time", "inputs", "features"})
_HEADER_ID = re.compile(r'^(?:"([\x21\x23-\x5b\x5d-\x7e]{1,256})"|([\x21\x23-\x7e]{1,256}))$')


class Ask(NamedTuple):
    """One checked instance: inputs as they were sent and as expressions take them, join key, event time (None: now).

    `raw` is what is logged: it lacks the fields that the pipeline file redacts. `extra`: what it asks for beside an
    answer.
    """

    id: str | None
    raw: Mapping[str, Any]
    typed: Mapping[str, Any]
    key: str
    time_us: int | None
    extra: Extra | None = None


class Reader:
    """Reads the bodies of requests to one pipeline."""

    def __init__(self, spec: RequestSpec) -> None:
        self._checks, self._compiled = FieldChecks(spec.fields), Inputs(spec)
        self._key = EntityKey([spec.key], spec.fields)
        self._text = text_key([spec.key], spec.fields)
        self._key_name, self._time_name = spec.key, spec.time
        self._redacted = frozenset(spec.redact)

    def quickly(self, raw: bytes) -> Ask | None:
        """The one instance of a body in its usual form; None where `read` must look at it."""
        found = self._compiled.read(raw)
        if found is None:
            return None
        identity, sent, typed, time_us = found
        key = self._key(sent) if self._text is None else sent.get(self._text) or None
        if self._time_name is not None and typed[self._time_name] is not None:
            time_us = typed[self._time_name]
        return None if key is None else Ask(identity, self._logged(sent), typed, key, time_us)

    def _logged(self, sent: dict[str, Any]) -> dict[str, Any]:
        """Without what must not be logged: behind this place nobody has the text of it."""
        if not self._redacted:
            return sent
        return {name: value for name, value in sent.items() if name not in self._redacted}

    def read(self, document: object, header_id: str | None = None) -> tuple[list[Ask], bool]:
        """The instances, and whether it was a list of them; raises RefusedError with 422 that names every fault."""
        if not isinstance(document, dict):
            raise _refused([Fault("", "type", "the body must be an object")])
        if "instances" in document:
            return self._many(document, header_id), True
        ask, faults = self._one(document, "")
        if header_id is not None and ask is not None:
            if ask.id not in {None, header_id}:
                faults.append(Fault("id", "conflict", "the body's id is not the one in Idempotency-Key"))
            ask = ask._replace(id=header_id)
        if faults or ask is None:
            raise _refused(faults)
        return [ask], False

    def in_parts(self, document: object) -> Generator[None, None, tuple[list[Ask], bool]]:
        """As `read`, some instances at a time, for who must let others go on between."""
        if not isinstance(document, dict) or "instances" not in document:
            return self.read(document)
        asks, faults = list[Ask](), list[Fault]()
        for index, instance in enumerate(self._listed(document, None)):
            if index % PART == PART - 1:
                yield
            self._take(instance, index, asks, faults)
        return _unless(faults, asks), True

    def _many(self, document: dict[str, Any], header_id: str | None) -> list[Ask]:
        asks, faults = list[Ask](), list[Fault]()
        for index, instance in enumerate(self._listed(document, header_id)):
            self._take(instance, index, asks, faults)
        return _unless(faults, asks)

    def _take(self, instance: object, index: int, asks: list[Ask], faults: list[Fault]) -> None:
        ask, found = self._one(instance, f"instances.{index}.")
        faults += found
        if ask is not None:
            asks.append(ask)

    @staticmethod
    def _listed(document: dict[str, Any], header_id: str | None) -> list[Any]:
        instances = document["instances"]
        if len(document) > 1:
            raise _refused([Fault("", "unknown", "beside instances nothing else may stand")])
        if header_id is not None:
            raise _refused([Fault("", "conflict", "Idempotency-Key is for one instance: give each its own id")])
        if not isinstance(instances, list) or not 1 <= len(instances) <= MAXIMUM_INSTANCES:
            raise _refused([Fault("instances", "length", f"must be a list of 1 to {MAXIMUM_INSTANCES} instances")])
        return instances

    def _one(self, instance: object, place: str) -> tuple[Ask | None, list[Fault]]:
        if not isinstance(instance, dict):
            return None, [Fault(place.rstrip("."), "type", "an instance must be an object")]
        faults = []
        if not _INSTANCE.issuperset(instance):
            faults.append(
                Fault(place.rstrip("."), "unknown", "an instance has inputs, id, time and features, and nothing else")
            )
        identity, time = instance.get("id"), instance.get("time")
        if identity is not None and not (isinstance(identity, str) and 0 < len(identity) <= LONGEST_ID):
            faults.append(Fault(f"{place}id", "type", f"must be text of 1 to {LONGEST_ID} characters"))
        time_us = _time(time, f"{place}time", faults)
        extra = read_inline(instance.get("features"), f"{place}features", faults)
        inputs = instance.get("inputs")
        faults += self._checks.faults(inputs, f"{place}inputs")
        if faults or not isinstance(inputs, dict):
            return None, faults
        key = self._key(inputs)
        if key is None:
            return None, [Fault(f"{place}inputs.{self._key_name}", "required", "the join key must not be empty")]
        typed = self._checks.typed(inputs)
        if self._time_name is not None and typed[self._time_name] is not None:
            time_us = typed[self._time_name]
        return Ask(identity, self._logged(inputs), typed, key, time_us, extra), []


def _time(value: object, place: str, faults: list[Fault]) -> int | None:
    if value is None:
        return None
    time_us = read_time(value) if isinstance(value, str) else None
    if time_us is None:
        faults.append(Fault(place, *TIME_PROBLEM))
    return time_us


def read_header_id(value: str | None) -> str | None:
    """The id in an Idempotency-Key header, quoted as its draft has it or bare; raises RefusedError otherwise."""
    if value is None:
        return None
    match = _HEADER_ID.match(value)
    if match is None:
        raise _refused([Fault("Idempotency-Key", "type", f"must be 1 to {LONGEST_ID} printable characters")])
    return match[1] or match[2]


def _unless(faults: list[Fault], asks: list[Ask]) -> list[Ask]:
    if faults:
        raise _refused(faults)
    return asks


def _refused(faults: list[Fault]) -> RefusedError:
    return RefusedError(422, "the request breaks the pipeline's declaration", "", tuple(faults[:32]))
