"""Answers as REST has them: JSON, and after it the bytes of the outputs that were asked for so. Pure."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from tidemill_serving.domain.body import RefusedError
from tidemill_serving.domain.protocol.datatypes import Tensor, to_items, to_raw
from tidemill_serving.domain.protocol.reading import Call, Wanted

_encode = msgspec.json.Encoder().encode


class Outcome(NamedTuple):
    """What a model answered: `id` is the request's or else the answer's, `identity` the answer's in the log."""

    model: str
    version: str
    id: str
    identity: str
    outputs: Sequence[Tensor]


def chosen(names: Sequence[str], wanted: Sequence[Wanted] | None) -> list[str]:
    """The outputs to be given, in the order they were asked for; raises RefusedError 400 for an unknown one."""
    if wanted is None:
        return list(names)
    for output in wanted:
        if output.name not in names:
            raise RefusedError(400, "outputs", f"the model has no such output; it has {', '.join(names)}")
    return [output.name for output in wanted]


class Rendering:
    """Makes the body of one answer; then `json_length` is how much of it is JSON, None: all."""

    def __init__(self, call: Call) -> None:
        self._binary = {output.name: output.binary for output in call.outputs or ()}
        self._for_all = call.binary
        self.json_length: int | None = None

    def __call__(self, outcome: Outcome) -> bytes:
        """The body; raises RefusedError where JSON has no way to write an element."""
        tails, outputs = [], []
        for tensor in outcome.outputs:
            said: dict[str, Any] = {
                "name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.values.shape),
            }  # fmt: skip
            binary = self._binary.get(tensor.name)
            if self._for_all if binary is None else binary:
                tails.append(to_raw(tensor))
                said["parameters"] = {"binary_data_size": len(tails[-1])}
            else:
                said["data"] = to_items(tensor)
            outputs.append(said)
        head = _encode({
            "model_name": outcome.model, "model_version": outcome.version, "id": outcome.id,
            "parameters": {"inference_id": outcome.identity}, "outputs": outputs,
        })  # fmt: skip
        if tails:
            self.json_length = len(head)
        return b"".join((head, *tails))
