"""Bytes named by their SHA-256, in a directory or under an s3:// URL."""

import hashlib
import os
import re
import tempfile
from pathlib import Path
from typing import Protocol

from tidemill_runtime.errors import Configuration, Later, Never

_DIGEST = re.compile(r"[0-9a-f]{64}")


class ArtifactMissing(Later):
    """Nothing is stored under this digest (yet)."""


class ArtifactCorrupt(Never):
    """The stored bytes do not have the digest they are stored under."""


class ArtifactTooLarge(Never):
    """There is more stored under this digest than who asked can take."""


class _Store(Protocol):
    def read(self, name: str, most: int) -> bytes | None: ...
    def write(self, name: str, data: bytes) -> None: ...
    def has(self, name: str) -> bool: ...
    def remove(self, name: str) -> None: ...
    def url(self, name: str) -> str: ...


class Artifacts:
    """A content-addressed store: writing twice is harmless, reading verifies. Calls block."""

    def __init__(self, location: str | Path) -> None:
        """Use the directory or `s3://bucket/prefix` at `location`; raises Configuration for any other URL."""
        text = str(location)
        if text.startswith("s3://"):
            self._store: _Store = _Bucket(text)
        elif "://" in text:
            raise Configuration("artifacts are kept in a directory or under an s3:// URL")
        else:
            self._store = _Directory(Path(text))

    def put(self, data: bytes) -> str:
        """Store the bytes durably and return their digest."""
        digest = hashlib.sha256(data).hexdigest()
        if not self.has(digest):
            self._store.write(_name(digest), data)
        return digest

    def get(self, digest: str, *, most: int | None = None) -> bytes:
        """The bytes with this digest; raises ArtifactMissing, or ArtifactCorrupt when they were changed.

        With `most` no more than so many are read; raises ArtifactTooLarge where there are more.
        """
        data = self._store.read(_name(digest), -1 if most is None else most + 1)
        if data is None:
            raise ArtifactMissing(digest)
        if most is not None and len(data) > most:
            raise ArtifactTooLarge(f"{digest} has more than {most} bytes")
        if hashlib.sha256(data).hexdigest() != digest:
            raise ArtifactCorrupt(digest)
        return data

    def has(self, digest: str) -> bool:
        """Whether something is stored under the digest; it is verified when it is read."""
        return self._store.has(_name(digest))

    def remove(self, digest: str) -> None:
        """Delete what nobody points to any more; nothing happens where there is nothing."""
        self._store.remove(_name(digest))

    def path(self, digest: str) -> str:
        """Where the artifact is or would be: a file path or a URL."""
        return self._store.url(_name(digest))


def _name(digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise ValueError("a digest is 64 lower-case hexadecimal digits")
    return f"sha256/{digest[:2]}/{digest}"


class _Directory:
    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, name: str, most: int) -> bytes | None:
        try:
            with (self._root / name).open("rb") as file:
                return file.read(most)
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Write beside, sync, rename, sync the folder: a crash leaves the whole file or none."""
        target = self._root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=target.parent, prefix=".part-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(beside).replace(target)
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def has(self, name: str) -> bool:
        return (self._root / name).is_file()

    def remove(self, name: str) -> None:
        (self._root / name).unlink(missing_ok=True)

    def url(self, name: str) -> str:
        return str(self._root / name)


class _Bucket:
    def __init__(self, url: str) -> None:
        try:
            from pyarrow import fs  # noqa: PLC0415 - only deployments with a bucket carry it
        except ImportError as error:
            raise Configuration("artifacts under s3:// need the package pyarrow") from error
        self._missing = fs.FileType.NotFound
        self._fs, self._root = fs.FileSystem.from_uri(url)

    def read(self, name: str, most: int) -> bytes | None:
        try:
            with self._fs.open_input_stream(f"{self._root}/{name}") as stream:
                return bytes(stream.read(None if most < 0 else most))
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        with self._fs.open_output_stream(f"{self._root}/{name}") as stream:
            stream.write(data)

    def has(self, name: str) -> bool:
        return bool(self._fs.get_file_info(f"{self._root}/{name}").type != self._missing)

    def remove(self, name: str) -> None:
        if self.has(name):
            self._fs.delete_file(f"{self._root}/{name}")

    def url(self, name: str) -> str:
        return f"s3://{self._root}/{name}"
