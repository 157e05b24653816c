"""Events of models that no pipeline trains: imported as they are, switched on and off, and what they answered."""

from typing import Any, ClassVar
from uuid import UUID

from pydantic import Field

from tidemill_contracts.base import Contract, Digest, Micros, Name
from tidemill_contracts.events.meta import Event
from tidemill_contracts.topics import Family


class ModelImported(Event):
    """An ONNX model got a name and a version; compacted by both, so a late service knows all of them at once."""

    TYPE: ClassVar[str] = "tidemill.model-imported.v1"
    FAMILY: ClassVar[Family | None] = "models"
    model: Name
    version: int = Field(ge=1)
    digest: Digest
    size: int = Field(ge=1, description="bytes")


class ModelSwitched(Event):
    """Somebody asked serving to load or to unload an imported model, all versions of it; compacted by its name."""

    TYPE: ClassVar[str] = "tidemill.model-switched.v1"
    FAMILY: ClassVar[Family | None] = "models"
    model: Name
    loaded: bool
    switch_id: UUID


class LoggedTensor(Contract):
    """A tensor of an answer. `data` in row-major order, null for what is not finite.

    Where it is too large or no text `data` is None, and `digest`, of its raw bytes, stands for it.
    """

    name: str
    datatype: str
    shape: list[int]
    data: list[Any] | None = None
    digest: Digest | None = None


class ModelAnswered(Event):
    """An answer of an imported model, logged before it left."""

    TYPE: ClassVar[str] = "tidemill.model-answered.v1"
    FAMILY: ClassVar[Family | None] = "inferences"
    inference_id: UUID
    request_id: str | None = Field(default=None, description="the client's own id, which may come again")
    model: Name
    version: int = Field(ge=1)
    digest: Digest
    at_us: Micros
    inputs: list[LoggedTensor]
    outputs: list[LoggedTensor]
    degraded: bool = False
    trace_id: str | None = None
