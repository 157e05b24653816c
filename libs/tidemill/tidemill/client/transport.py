"""How a client reaches the services: addresses, and requests that are sent again, unchanged, until answered."""

import asyncio
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tidemill.client.errors import RefusedError, TidemillError, UnreachableError, refused
from tidemill_contracts.topics import PREFIX

__all__ = ["AsyncTransport", "Endpoints", "RefusedError", "TidemillError", "Transport", "UnreachableError"]

RETRIED = frozenset({502, 503, 504})
SERVICES = ("ingestion", "features", "registry", "trainer", "monitoring", "serving")
JSON, BINARY = "application/json", "application/octet-stream"
_TIMEOUT_S = 20.0
_CONNECTIONS = 64


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Base address of each service, and where Kafka and the artifacts are for what reads them directly."""

    urls: Mapping[str, str]
    kafka: str | None = None
    artifacts: str | None = None
    prefix: str = PREFIX
    """The first part of every topic's name."""

    @classmethod
    def find(cls, home: Path | None = None) -> "Endpoints":
        """Addresses from TIDEMILL_URL_<SERVICE>, TIDEMILL_KAFKA and TIDEMILL_ARTIFACTS, else of the stack under `home`.

        The prefix of topics is TIDEMILL_PREFIX, as for the services.

        Raises:
            TidemillError: neither names any service.
        """
        document = json.loads((home / "endpoints.json").read_text()) if _runs(home) and home is not None else {}
        urls = {name: entry["url"] for name, entry in document.get("services", {}).items() if entry.get("url")}
        for name in SERVICES:
            value = os.environ.get(f"TIDEMILL_URL_{name.upper()}")
            if value:
                urls[name] = value.rstrip("/")
        if not urls:
            where = f" in {home}" if home is not None else ""
            raise TidemillError(
                f"no running stack found{where}: start one with `tidemill up`, or set TIDEMILL_URL_SERVING and the like"
            )
        return cls(
            urls,
            kafka=os.environ.get("TIDEMILL_KAFKA") or document.get("kafka"),
            artifacts=os.environ.get("TIDEMILL_ARTIFACTS") or document.get("artifacts"),
            prefix=os.environ.get("TIDEMILL_PREFIX") or PREFIX,
        )

    def url(self, service: str) -> str:
        """Base address of a service; raises TidemillError when it is not known."""
        try:
            return self.urls[service]
        except KeyError:
            raise TidemillError(f"the address of {service} is not known: set TIDEMILL_URL_{service.upper()}") from None

    def bootstrap(self) -> str:
        """Kafka's address; raises TidemillError when it is not known."""
        if not self.kafka:
            raise TidemillError("this reads topics, and Kafka's address is not known: set TIDEMILL_KAFKA")
        return self.kafka

    def store(self) -> str:
        """Where the artifacts are; raises TidemillError when that is not known."""
        if not self.artifacts:
            raise TidemillError("this reads the archive, and its place is not known: set TIDEMILL_ARTIFACTS")
        return self.artifacts


@dataclass(slots=True)
class _Attempts:
    """The attempts at one request: how long to wait before the next, and when there is none."""

    service: str
    url: str
    patience_s: float
    made: int = 0
    last: str = ""
    _started_s: float = field(default_factory=time.monotonic)

    def failed(self, reason: httpx.TransportError | httpx.Response) -> float:
        """Seconds to wait before the next attempt; raises UnreachableError when patience has run out."""
        if isinstance(reason, httpx.Response):
            self.last = f"{reason.status_code} from {self.url}: {reason.text[:200]}"
        else:
            self.last = f"{type(reason).__name__} at {self.url}"
        pause: float = min(0.02 * 2 ** min(self.made, 10), 0.5)
        if time.monotonic() - self._started_s + pause > self.patience_s:
            raise UnreachableError(f"{self.service} did not answer within {self.patience_s:.0f} s: {self.last}")
        self.made += 1
        return pause


@dataclass(slots=True)
class AsyncTransport:
    """Sends requests over pooled connections; what failed on the way is sent again, unchanged, for `patience_s`."""

    endpoints: Endpoints
    api_key: str | None = None
    patience_s: float = 30.0
    inner: httpx.AsyncBaseTransport | None = None
    retries: int = 0
    _client: httpx.AsyncClient = field(init=False)

    def __post_init__(self) -> None:
        self._client = httpx.AsyncClient(
            headers=_headers(self.api_key), timeout=_TIMEOUT_S, limits=_limits(), trust_env=False, transport=self.inner
        )

    async def call(  # noqa: PLR0913 - the parts of a request
        self,
        service: str,
        method: str,
        path: str,
        *,
        body: object = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:  # noqa: ANN401 - the JSON of the answer
        """The answer's JSON; raises RefusedError for a final refusal and UnreachableError when patience runs out."""
        url, content = self.endpoints.url(service) + path, _content(body)
        attempts = _Attempts(service, url, self.patience_s)
        while True:
            reason: httpx.TransportError | httpx.Response
            try:
                sent = {**_kind(body), **(headers or {})}
                reason = await self._client.request(method, url, content=content, headers=sent, params=params)
            except httpx.TransportError as error:
                reason = error
            else:
                if reason.status_code not in RETRIED:
                    return read_answer(reason)
            pause = attempts.failed(reason)
            self.retries += 1
            await asyncio.sleep(pause)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


@dataclass(slots=True)
class Transport:
    """`AsyncTransport` for callers that do not await."""

    endpoints: Endpoints
    api_key: str | None = None
    patience_s: float = 30.0
    inner: httpx.BaseTransport | None = None
    retries: int = 0
    _client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self._client = httpx.Client(
            headers=_headers(self.api_key), timeout=_TIMEOUT_S, limits=_limits(), trust_env=False, transport=self.inner
        )

    def call(
        self, service: str, method: str, path: str, *, body: object = None, params: Mapping[str, Any] | None = None
    ) -> Any:  # noqa: ANN401 - the JSON of the answer
        """The answer's JSON; raises RefusedError for a final refusal and UnreachableError when patience runs out."""
        url, content = self.endpoints.url(service) + path, _content(body)
        attempts = _Attempts(service, url, self.patience_s)
        while True:
            reason: httpx.TransportError | httpx.Response
            try:
                reason = self._client.request(method, url, content=content, headers=_kind(body), params=params)
            except httpx.TransportError as error:
                reason = error
            else:
                if reason.status_code not in RETRIED:
                    return read_answer(reason)
            pause = attempts.failed(reason)
            self.retries += 1
            time.sleep(pause)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def read_answer(answer: httpx.Response) -> Any:  # noqa: ANN401 - the JSON of the answer
    """The JSON of a successful answer; raises RefusedError for any other."""
    if answer.is_success:
        return answer.json() if answer.content else None
    try:
        problem = answer.json()
    except ValueError:
        problem = {"title": answer.reason_phrase}
    raise refused(answer.status_code, problem if isinstance(problem, dict) else {"title": str(problem)})


def _runs(home: Path | None) -> bool:
    """Whether a supervisor holds the home: the addresses that a stopped one left behind lead nowhere."""
    from tidemill.stack import Home  # noqa: PLC0415 - not needed where the environment has the addresses
    from tidemill.stack.lock import holder  # noqa: PLC0415 - see above

    return home is not None and (home / "endpoints.json").exists() and holder(Home.at(home)) is not None


def _headers(api_key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def _limits() -> httpx.Limits:
    return httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS)


def _content(body: object) -> bytes | None:
    if isinstance(body, bytes):
        return body
    return None if body is None else json.dumps(body, separators=(",", ":"), allow_nan=False).encode()


def _kind(body: object) -> dict[str, str]:
    return {} if body is None else {"content-type": BINARY if isinstance(body, bytes) else JSON}
