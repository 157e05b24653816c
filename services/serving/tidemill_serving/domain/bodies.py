"""Reads what stands around the numbers of a request of the open inference protocol in its usual form.

Whatever it refuses is read again by the edge's careful reader; what it takes means the same to both.
"""

import re
from typing import Annotated, Literal, NamedTuple

import msgspec

INPUT, OUTPUT = "features", "probability"
MAXIMUM_ROWS = 10_000
KNOWN_FORMS, LONGEST_FORM = 4096, 4096
_COLONS = 5
"""Of a request with one tensor: `inputs` and the tensor's four."""
_DATA = re.compile(rb'"data"[ \t\r\n]*:[ \t\r\n]*\[(?=[ \t\r\n]*[-0-9])')


class Unread(NamedTuple):
    """A request whose rows stand in `raw` from the bracket at `start` on; they are read with all others of the tick."""

    height: int
    width: int
    id: str | None
    raw: bytes
    start: int
    datatype: str = "FP32"


class _Tensor(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    name: Literal["features"]
    shape: tuple[Annotated[int, msgspec.Meta(ge=1, le=MAXIMUM_ROWS)], Annotated[int, msgspec.Meta(ge=1)]]
    datatype: Literal["FP32", "FP64"]
    data: tuple[()]


class _Wanted(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    name: Literal["probability"]


class _Request(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    inputs: tuple[_Tensor]
    id: str | None = None
    outputs: list[_Wanted] | None = None


class _Form(NamedTuple):
    """What a body says beside its numbers."""

    height: int
    width: int
    id: str | None
    datatype: str


class Bodies:
    """Finds the numbers of bodies. What stands around them is read once: who sends the same again means the same."""

    def __init__(self) -> None:
        self._known: dict[bytes, _Form] = {}

    def find(self, raw: bytes) -> Unread | None:
        """The rows of a usual body, not read yet; None: the careful reader shall look at it.

        An empty array stands for the array of numbers: the body is JSON of this form if what is left is, and if the
        array is what `numbers` takes. For without a backslash no string holds a quoted key and its colon.
        """
        match = _DATA.search(raw)
        if match is None:
            return None
        start = match.end() - 1
        around = raw[: start + 1] + raw[raw.find(b"]", start) :]
        form = self._known.get(around)
        if form is None:
            form = _read(around)
            if form is None:
                return None
            if form.id is None and len(around) <= LONGEST_FORM:
                if len(self._known) >= KNOWN_FORMS:
                    self._known.clear()
                self._known[around] = form
        return Unread(form.height, form.width, form.id, raw, start, form.datatype)


def _read(around: bytes) -> _Form | None:
    if b"\\" in around:
        return None
    try:
        found = _decode(around)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    colons = _COLONS
    if found.id is not None:
        colons += 1 + found.id.count(":")
    if found.outputs is not None:
        colons += 1 + len(found.outputs)
    # Every member costs one colon outside of strings: one more than these, and a key stands twice.
    (given,) = found.inputs
    return _Form(*given.shape, found.id, given.datatype) if around.count(b":") == colons else None


_decode = msgspec.json.Decoder(_Request).decode
