"""The operations on imported models, as those in `calls`."""

from typing import Any

from tidemill.client import results as r
from tidemill.client.calls import Call, Steps, part_of


class ImportedModel(r.Result):
    """An imported model's version; `created` false: these bytes had it before."""

    model: str
    version: int
    digest: str
    size: int
    created: bool


class ServedModel(r.Result):
    """A version of a model as serving has it: `READY`, or another `state` and the `reason` for it."""

    name: str
    version: str
    state: str
    reason: str


def import_model(name: str, data: bytes, *, version: int | None = None) -> Steps[ImportedModel]:
    """Give the bytes of an ONNX model a name and a version (the next one); the same bytes keep theirs."""
    params: dict[str, Any] | None = None if version is None else {"version": version}
    answer = yield Call("registry", "POST", f"/v1/models/{part_of(name)}", data, params)
    return ImportedModel.model_validate(answer)


def served_models() -> Steps[list[ServedModel]]:
    """Every version of every model of the Open Inference Protocol that serving knows."""
    found = yield Call("serving", "POST", "/v2/repository/index", {})
    return [ServedModel(**{"version": "", "state": "", "reason": ""} | item) for item in found]
