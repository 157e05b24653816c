"""API keys: who may ask this service for what, and for how many rows a second. Without any key everybody may.

`TIDEMILL_API_KEY` opens everything. `TIDEMILL_API_KEYS` names a file of keys with bounds: each opens the services and
pipelines that it lists, nothing else. Only SHA-256 digests of keys are in the file and in memory.
"""

import hmac
import math
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from pydantic import Field, SecretStr, ValidationError

from tidemill_contracts.base import Contract, Digest, Name
from tidemill_runtime.errors import Configuration
from tidemill_runtime.http.problems import HttpProblem
from tidemill_runtime.http.quotas import Bucket, Quotas
from tidemill_runtime.settings import ServiceSettings

MOST_KEYS, LARGEST_FILE = 1000, 1024 * 1024


class KeySpec(Contract):
    """A key in the file: a name for logs and metrics, its digest, its bounds, and what it opens."""

    name: Name
    sha256: Digest
    rows_per_second: float = Field(gt=0, le=1e9, description="predictions, events; any other request counts as one")
    burst: int = Field(ge=1, le=10**9, description="rows that may come at once after a rest")
    services: list[str] = Field(default=["serving"], min_length=1, description="what it opens; nothing else")
    pipelines: list[Name] | None = Field(default=None, description="of predictions; null: all")


class KeysFile(Contract):
    """The file that TIDEMILL_API_KEYS names."""

    keys: list[KeySpec] = Field(min_length=1, max_length=MOST_KEYS)


class Caller(NamedTuple):
    """Who asks, as the key says; `bucket` is None for the key without bounds."""

    name: str
    pipelines: frozenset[str] | None = None
    bucket: Bucket | None = None

    def check_pipeline(self, pipeline: str) -> None:
        """Raises HttpProblem 403 for a pipeline that the key does not open."""
        if self.pipelines is not None and pipeline not in self.pipelines:
            raise HttpProblem(403, "the API key does not open this pipeline")

    def charge(self, rows: int) -> None:
        """Take so many rows from the quota; raises HttpProblem 429 that says when to come again, 413 for too many."""
        if self.bucket is None or rows <= 0:
            return
        if rows > self.bucket.burst:
            raise HttpProblem(413, f"the API key takes at most {self.bucket.burst} rows at once")
        wait_s = self.bucket.take(rows)
        if wait_s > 0:
            again = {"retry-after": str(max(1, math.ceil(wait_s)))}
            raise HttpProblem(429, "the quota of the API key is used up for now", headers=again)


ANYBODY = Caller("")


class Keys:
    """The keys of one process."""

    def __init__(self, key: SecretStr | None = None, bounded: Sequence[tuple[bytes, Caller, bool]] = ()) -> None:
        """`key` opens everything; `bounded` are digests, whose they are, and whether they open this service."""
        self._open = None if key is None else sha256(key.get_secret_value().encode()).digest()
        self._bounded = list(bounded)
        self.are_needed = self._open is not None or bool(self._bounded)

    @classmethod
    def of(cls, settings: ServiceSettings, *, root: Path | None = None) -> "Keys":
        """Read the file of the settings, once. `root`: where several workers of an instance share what was spent.

        Raises Configuration for a file that cannot be used.
        """
        bounded: list[tuple[bytes, Caller, bool]] = []
        if settings.api_keys is not None:
            specs, digest = _read(settings.api_keys)
            quotas = Quotas(len(specs), None if root is None else root / f"quotas-{digest[:16]}")
            for place, spec in enumerate(specs):
                bucket = Bucket(quotas, place, spec.rows_per_second, spec.burst)
                caller = Caller(spec.name, None if spec.pipelines is None else frozenset(spec.pipelines), bucket)
                bounded.append((bytes.fromhex(spec.sha256), caller, settings.service in spec.services))
        return cls(settings.api_key, bounded)

    def opens_all(self, headers: Mapping[str, str]) -> bool:
        """Whether these headers may do everything, without bounds."""
        try:
            return self.find(headers) is ANYBODY
        except HttpProblem:
            return False

    def find(self, headers: Mapping[str, str]) -> Caller:
        """Who sent these headers; raises HttpProblem: 401 without a key that is known, 403 for another service's.

        Every digest is compared whole, whichever it is: how long that takes says nothing.
        """
        if not self.are_needed:
            return ANYBODY
        scheme, _, token = headers.get("authorization", "").partition(" ")
        offered = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        # Header values arrive decoded as latin-1: this gives the bytes back that were sent.
        digest = sha256(offered.encode("latin-1", "replace")).digest()
        found: Caller | None = None
        is_here = True
        if self._open is not None and hmac.compare_digest(digest, self._open):
            found = ANYBODY
        for known, caller, opens in self._bounded:
            if hmac.compare_digest(digest, known):
                found, is_here = caller, opens
        if found is None or not offered:
            raise HttpProblem(401, "an API key is needed", headers={"www-authenticate": "Bearer"})
        if not is_here:
            raise HttpProblem(403, "the API key does not open this service")
        return found


def _read(path: Path) -> tuple[list[KeySpec], str]:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise Configuration(f"TIDEMILL_API_KEYS={path}: the file has more than {LARGEST_FILE} bytes")
        raw = path.read_bytes()
        specs = KeysFile.model_validate_json(raw).keys
    except OSError as error:
        raise Configuration(f"TIDEMILL_API_KEYS={path}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise Configuration(f"TIDEMILL_API_KEYS={path}: {where}: {first['msg']}") from None
    for field in ("name", "sha256"):
        values = [getattr(spec, field) for spec in specs]
        if len(set(values)) != len(values):
            raise Configuration(f"TIDEMILL_API_KEYS={path}: two keys have the same {field}")
    return specs, sha256(raw).hexdigest()


__all__ = ["ANYBODY", "Caller", "KeySpec", "Keys", "KeysFile"]
