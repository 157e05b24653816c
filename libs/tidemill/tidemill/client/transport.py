"""How a client reaches the services: addresses, retries with the same request, errors a caller can act on."""

import asyncio
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tidemill.client.errors import RefusedError, TidemillError, UnreachableError

__all__ = ["AsyncTransport", "Endpoints", "RefusedError", "TidemillError", "UnreachableError", "read_answer"]

RETRIED = frozenset({502, 503, 504})
SERVICES = ("ingestion", "features", "registry", "trainer", "monitoring", "serving")


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Base address of each service; read from TIDEMILL_URL_<SERVICE>, else from the home's endpoints.json."""

    urls: Mapping[str, str]

    @classmethod
    def find(cls, home: Path | None = None) -> "Endpoints":
        """Addresses from the environment over those of a stack under `home`; raises TidemillError without any."""
        urls: dict[str, str] = {}
        if home is not None and (home / "endpoints.json").exists():
            document = json.loads((home / "endpoints.json").read_text())
            urls = {name: entry["url"] for name, entry in document.get("services", {}).items() if entry.get("url")}
        for name in SERVICES:
            value = os.environ.get(f"TIDEMILL_URL_{name.upper()}")
            if value:
                urls[name] = value.rstrip("/")
        if not urls:
            msg = "no running stack found: start one with `tidemill up`, or set TIDEMILL_URL_SERVING and the like"
            raise TidemillError(msg)
        return cls(urls)

    def url(self, service: str) -> str:
        """Base address of a service; raises TidemillError when it is not known."""
        try:
            return self.urls[service]
        except KeyError:
            msg = f"the address of {service} is not known: set TIDEMILL_URL_{service.upper()}"
            raise TidemillError(msg) from None


@dataclass(slots=True)
class AsyncTransport:
    """Sends requests over pooled connections; what failed on the way is sent again, unchanged, for `patience_s`."""

    endpoints: Endpoints
    api_key: str | None = None
    patience_s: float = 30.0
    _client: httpx.AsyncClient = field(init=False)
    retries: int = 0

    def __post_init__(self) -> None:
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
        self._client = httpx.AsyncClient(headers=headers, timeout=httpx.Timeout(20.0), limits=limits, trust_env=False)

    async def call(
        self, service: str, method: str, path: str, *, body: object = None, params: Mapping[str, Any] | None = None
    ) -> Any:  # noqa: ANN401 - the JSON of the answer
        """The answer's JSON; raises RefusedError for a final refusal and UnreachableError when patience runs out."""
        url = self.endpoints.url(service) + path
        content = None if body is None else json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
        headers = {"content-type": "application/json"} if content is not None else {}
        deadline, pause = time.monotonic() + self.patience_s, 0.02
        while True:
            try:
                answer = await self._client.request(method, url, content=content, headers=headers, params=params)
            except httpx.TransportError as error:
                last = f"{type(error).__name__} at {url}"
            else:
                if answer.status_code not in RETRIED:
                    return read_answer(answer)
                last = f"{answer.status_code} from {url}: {answer.text[:200]}"
            if time.monotonic() + pause > deadline:
                msg = f"{service} did not answer within {self.patience_s:.0f} s: {last}"
                raise UnreachableError(msg)
            self.retries += 1
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.5)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def read_answer(answer: httpx.Response) -> Any:  # noqa: ANN401 - the JSON of the answer
    """The JSON of a successful answer; raises RefusedError for any other."""
    if answer.is_success:
        return answer.json() if answer.content else None
    try:
        problem = answer.json()
    except ValueError:
        problem = {"title": answer.reason_phrase}
    raise RefusedError(answer.status_code, problem if isinstance(problem, dict) else {"title": str(problem)})
