"""Models that were imported: which there are, which of them are open, and the log record of an answer. Pure."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import msgspec

from tidemill_contracts.base import format_time
from tidemill_contracts.events import ModelAnswered
from tidemill_serving.domain.body import RefusedError
from tidemill_serving.domain.entries import Entry
from tidemill_serving.domain.protocol.datatypes import BYTES, Port, Tensor, to_raw
from tidemill_serving.domain.served import Ask

READY, LOADING, UNAVAILABLE = "READY", "LOADING", "UNAVAILABLE"
MOST_LOGGED = 20_000
"""Elements of a tensor in a log record, so that Kafka takes it; above, its digest stands there."""
MOST_LOGGED_BYTES = 200_000


class Graph(Protocol):
    """An opened model."""

    inputs: list[Port]
    outputs: list[Port]

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Raises RefusedError 400 unless these are its inputs."""

    def run(self, tensors: Mapping[str, Tensor], names: Sequence[str]) -> list[Tensor]:
        """Its outputs; raises RefusedError."""

    def hurry(self) -> None:
        """End a run that takes too long."""


@dataclass(slots=True)
class Imported:
    """A version of a model, and how it stands."""

    name: str
    version: int
    digest: str
    state: str = LOADING
    reason: str = ""
    graph: Graph | None = None


@dataclass(slots=True)
class Catalogue:
    """Every imported model by name and version; those in `unloaded` were switched off by hand."""

    models: dict[str, dict[int, Imported]] = field(default_factory=dict)
    unloaded: set[str] = field(default_factory=set)

    def add(self, name: str, version: int, digest: str) -> bool:
        """Take a version; versions never change, so one that is known stays. Whether it is new."""
        versions = self.models.setdefault(name, {})
        if version in versions:
            return False
        versions[version] = Imported(name, version, digest)
        return True

    def switch(self, name: str, *, loaded: bool) -> None:
        """Want a model open or not."""
        if loaded:
            self.unloaded.discard(name)
        else:
            self.unloaded.add(name)
        for found in self.models.get(name, {}).values():
            if not loaded:
                found.state, found.reason, found.graph = UNAVAILABLE, "unloaded", None
            elif found.graph is None:
                found.state, found.reason = LOADING, ""

    def waiting(self) -> list[Imported]:
        """Those that must be opened."""
        return [
            found
            for name, versions in self.models.items()
            if name not in self.unloaded
            for found in versions.values()
            if found.state == LOADING
        ]

    def find(self, name: str, version: str | None) -> Imported | None:
        """The open version of this text, or the highest open one."""
        ready = [found for found in self.models.get(name, {}).values() if found.state == READY]
        if version is not None:
            return next((found for found in ready if str(found.version) == version), None)
        return max(ready, key=lambda found: found.version, default=None)

    def digests(self) -> set[str]:
        """Of all versions."""
        return {found.digest for versions in self.models.values() for found in versions.values()}


class Answered(NamedTuple):
    """What an answer of an imported model was given for, and when."""

    model: Imported
    ask: Ask
    outputs: Sequence[Tensor]
    at_us: int
    degraded: bool


class _Logged(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    data: list[Any] | None = None
    digest: str | None = None


class _Record(msgspec.Struct):
    """`tidemill_contracts.events.ModelAnswered`, field by field."""

    inference_id: str
    request_id: str | None
    model: str
    version: int
    digest: str
    at_us: int
    inputs: list[_Logged]
    outputs: list[_Logged]
    degraded: bool
    trace_id: str


def entry_of(found: Answered, topic: str, source: str) -> Entry:
    """The log record of an answer."""
    model, ask = found.model, found.ask
    record = _Record(
        ask.identity, ask.call.id, model.name, model.version, model.digest, found.at_us,
        [_logged(tensor) for tensor in ask.call.tensors.values()], [_logged(tensor) for tensor in found.outputs],
        found.degraded, ask.traceparent[3:35],
    )  # fmt: skip
    value = _encode(record)
    if len(value) > MOST_LOGGED_BYTES:
        record.inputs = [_digested(tensor) for tensor in ask.call.tensors.values()]
        record.outputs = [_digested(tensor) for tensor in found.outputs]
        value = _encode(record)
    headers = [
        ("ce_specversion", b"1.0"), ("ce_id", ask.identity.encode()), ("ce_type", ModelAnswered.TYPE.encode()),
        ("ce_source", source.encode()), ("ce_time", format_time(found.at_us).encode()),
        ("ce_subject", model.name.encode()), ("content-type", b"application/json"),
        ("traceparent", ask.traceparent.encode()),
    ]  # fmt: skip
    return Entry("inference", model.name, topic, 0, model.name.encode(), value, headers, found.at_us)


def _logged(tensor: Tensor) -> _Logged:
    if tensor.values.size > MOST_LOGGED:
        return _digested(tensor)
    if tensor.datatype != BYTES:
        return _Logged(tensor.name, tensor.datatype, list(tensor.values.shape), tensor.values.ravel().tolist())
    try:
        items = [item.decode() for item in tensor.values.flat]
    except UnicodeDecodeError:
        return _digested(tensor)
    return _Logged(tensor.name, tensor.datatype, list(tensor.values.shape), items)


def _digested(tensor: Tensor) -> _Logged:
    digest = hashlib.sha256(to_raw(tensor)).hexdigest()
    return _Logged(tensor.name, tensor.datatype, list(tensor.values.shape), None, digest)


def refuse_unknown(name: str) -> RefusedError:
    """The refusal of a switch of something that is no imported model."""
    return RefusedError(404, "no such model", f"there is no imported model {name[:64]}")


_encode = msgspec.json.Encoder().encode
