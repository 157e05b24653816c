"""The last releases of each pipeline, each in a file with its digest: a damaged one leaves the others as they are."""

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from tidemill_contracts.events import Released
from tidemill_contracts.pipeline import PipelineSpec
from tidemill_serving.domain.releases import KEPT, Kept, KeptRelease, Swap
from tidemill_serving.store.files import replace

_ABOUT = "pipeline.json"
_HEX = 64
T = TypeVar("T", bound=msgspec.Struct)
_log = logging.getLogger(__name__)


class _Release(msgspec.Struct):
    released: msgspec.Raw
    spec: msgspec.Raw


class _About(msgspec.Struct):
    spec: msgspec.Raw
    order: list[str]
    swaps: list[tuple[int, int | None]]


class ReleaseFiles:
    """A folder for each pipeline."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "releases"
        self._folder.mkdir(parents=True, exist_ok=True)

    def save_releases(self, kept: Kept) -> None:
        """Remember a pipeline's releases, newest first, and the pipeline files they were made for."""
        folder = self._folder / kept.spec.name
        folder.mkdir(exist_ok=True)
        names = [_name(item.released) for item in kept.releases]
        for name, item in zip(names, kept.releases, strict=True):
            if not (folder / name).exists():
                _write(folder / name, _Release(_raw(item.released), _raw(item.spec)))
        about = _About(_raw(kept.spec), names, [(swap.epoch, swap.at_watermark_us) for swap in kept.swaps])
        _write(folder / _ABOUT, about)
        for file in folder.iterdir():
            if file.name not in {*names, _ABOUT}:
                file.unlink(missing_ok=True)

    def load_releases(self) -> list[Kept]:
        """What is known of every pipeline; a damaged file is left out, with an error in the log."""
        found = []
        for folder in sorted(path for path in self._folder.iterdir() if path.is_dir()):
            about = _read(folder / _ABOUT, _About)
            releases = [item for file in _files(folder) if (item := _kept(file)) is not None]
            if about is not None:
                places = {name: place for place, name in enumerate(about.order)}
                releases.sort(key=lambda item: places.get(_name(item.released), len(places)))
                spec = PipelineSpec.model_validate_json(bytes(about.spec))
                found.append(Kept(spec, releases[:KEPT], [Swap(*swap) for swap in about.swaps]))
            elif releases:
                found.append(Kept(releases[0].spec, releases[:KEPT], []))
        return found

    def forget_releases(self, pipeline: str) -> None:
        """The pipeline is no more."""
        folder = self._folder / pipeline
        for file in folder.iterdir() if folder.is_dir() else ():
            file.unlink(missing_ok=True)
        folder.rmdir()


def _name(released: Released) -> str:
    return f"{released.epoch:012}-{released.sequence:06}.json"


def _files(folder: Path) -> Iterator[Path]:
    """Of releases, highest epoch first."""
    return iter(sorted((file for file in folder.glob("*-*.json")), reverse=True))


def _kept(file: Path) -> KeptRelease | None:
    body = _read(file, _Release)
    if body is None:
        return None
    return KeptRelease(Released.read(bytes(body.released)), PipelineSpec.model_validate_json(bytes(body.spec)))


def _write(file: Path, body: msgspec.Struct) -> None:
    data = msgspec.json.encode(body)
    replace(file, hashlib.sha256(data).hexdigest().encode() + b"\n" + data)


def _read(file: Path, kind: type[T]) -> T | None:
    """What was written, None without the file or where a byte of it has changed."""
    try:
        raw = file.read_bytes()
        digest, data = raw[:_HEX], raw[_HEX + 1 :]
        if hashlib.sha256(data).hexdigest().encode() != digest or raw[_HEX : _HEX + 1] != b"\n":
            raise ValueError("its digest does not fit")
        return msgspec.json.decode(data, type=kind)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
        _log.error("%s is damaged and left out: %s", file, error)
        return None


def _raw(model: Released | PipelineSpec) -> msgspec.Raw:
    return msgspec.Raw(model.model_dump_json().encode())
