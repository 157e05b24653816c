"""Which version an imported model gets, and whether it is one that can be served. Pure."""

from collections.abc import Mapping

from tidemill_engine.onnx import ModelInfo

MOST_VERSIONS = 1000
SERVABLE = frozenset(range(1, 14))
"""ONNX element types that the Open Inference Protocol has a datatype for: FLOAT to UINT64, with STRING, without
complex numbers.
"""


class ImportRefusedError(Exception):
    """The model cannot have that name or version; the text says why."""


def check(info: ModelInfo) -> None:
    """Raise ImportRefusedError for inputs and outputs that no request could name or fill."""
    for kind, ports in (("input", info.inputs), ("output", info.outputs)):
        names = [port.name for port in ports]
        if len(set(names)) != len(names) or "" in names:
            raise ImportRefusedError(f"an {kind} has no name of its own")
        for port in ports:
            if port.element not in SERVABLE:
                raise ImportRefusedError(f"{kind} {port.name[:64]} is of a type that cannot be served")


def choose_version(known: Mapping[int, str], digest: str, wanted: int | None) -> tuple[int, bool]:
    """(version, whether it is new) of a model's bytes, given the digests of its versions so far.

    The same bytes keep the version that they have; raises ImportRefusedError where another one is asked for.
    """
    for version, held in known.items():
        if held == digest:
            if wanted not in {None, version}:
                raise ImportRefusedError(f"these bytes are version {version} already")
            return version, False
    if wanted is not None and wanted in known:
        raise ImportRefusedError(f"version {wanted} is another model; versions never change")
    if len(known) >= MOST_VERSIONS:
        raise ImportRefusedError(f"a model has at most {MOST_VERSIONS} versions")
    return wanted or max(known, default=0) + 1, True
