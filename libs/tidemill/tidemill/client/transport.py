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

from tidemill.client.errors import DeadlineError, RefusedError, TidemillError, UnreachableError, refused
from tidemill_contracts.topics import PREFIX

__all__ = ["AsyncTransport", "Endpoints", "RefusedError", "TidemillError", "Transport", "UnreachableError"]

QUOTA = 429
RETRIED = frozenset({502, 503, 504, QUOTA})
DEADLINE = "tidemill-deadline-ms"
SERVICES = ("ingestion", "features", "registry", "trainer", "monitoring", "serving")
JSON, BINARY = "application/json", "application/octet-stream"
ARROW = "application/vnd.apache.arrow.stream"
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
    """The attempts at one request: how long to wait before the next, and when there is none.

    Sent again, unchanged and so with the same ids, is what got no answer (a connection that failed, 502, 503, 504) and
    what a quota refused for now (429). Within a deadline each attempt says how much of it is left.
    """

    service: str
    url: str
    patience_s: float
    deadline_ms: int | None = None
    made: int = 0
    last: str = ""
    _started_s: float = field(default_factory=time.monotonic)

    def sent(self, headers: Mapping[str, str]) -> dict[str, Any]:
        """The headers of an attempt and, within a deadline, how long to wait for it; raises DeadlineError after it."""
        if self.deadline_ms is None:
            return {"headers": dict(headers)}
        left_s = self._left_s()
        if left_s <= 0:
            raise self._late()
        return {"headers": {**headers, DEADLINE: str(max(1, int(left_s * 1000)))}, "timeout": left_s}

    def failed(self, reason: httpx.TransportError | httpx.Response) -> float:
        """Seconds to wait before the next attempt; raises when patience has run out, or would before it."""
        pause: float = min(0.02 * 2 ** min(self.made, 10), 0.5)
        if isinstance(reason, httpx.Response):
            self.last = f"{reason.status_code} from {self.url}: {reason.text[:200]}"
            if reason.status_code == QUOTA:
                pause = max(pause, _seconds(reason.headers.get("retry-after")))
        else:
            self.last = f"{type(reason).__name__} at {self.url}"
        if self._left_s() < pause:
            if isinstance(reason, httpx.Response) and reason.status_code == QUOTA:
                read_answer(reason)  # it says more than that nobody answered
            raise self._late()
        self.made += 1
        return pause

    def _left_s(self) -> float:
        bound_s = self.patience_s if self.deadline_ms is None else min(self.patience_s, self.deadline_ms / 1000)
        return bound_s - (time.monotonic() - self._started_s)

    def _late(self) -> UnreachableError:
        if self.deadline_ms is not None and self.deadline_ms / 1000 <= self.patience_s:
            return DeadlineError(f"{self.service} did not answer within {self.deadline_ms} ms: {self.last}")
        return UnreachableError(f"{self.service} did not answer within {self.patience_s:.0f} s: {self.last}")


def _seconds(text: str | None) -> float:
    """RFC 9110 allows a date too, which our services do not send."""
    return float(text) if text is not None and text.isascii() and text.isdigit() else 0.0


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
        deadline_ms: int | None = None,
    ) -> Any:  # noqa: ANN401 - the JSON of the answer
        """The answer's JSON; raises RefusedError for a final refusal and UnreachableError when patience runs out."""
        url, content = self.endpoints.url(service) + path, _content(body)
        attempts = _Attempts(service, url, self.patience_s, deadline_ms)
        while True:
            reason: httpx.TransportError | httpx.Response
            try:
                sent = attempts.sent({**_kind(body), **(headers or {})})
                reason = await self._client.request(method, url, content=content, params=params, **sent)
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

    def call(  # noqa: PLR0913 - the parts of a request
        self,
        service: str,
        method: str,
        path: str,
        *,
        body: object = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        deadline_ms: int | None = None,
    ) -> Any:  # noqa: ANN401 - the JSON of the answer
        """The answer's JSON; raises RefusedError for a final refusal and UnreachableError when patience runs out."""
        url, content = self.endpoints.url(service) + path, _content(body)
        attempts = _Attempts(service, url, self.patience_s, deadline_ms)
        while True:
            reason: httpx.TransportError | httpx.Response
            try:
                sent = attempts.sent({**_kind(body), **(headers or {})})
                reason = self._client.request(method, url, content=content, params=params, **sent)
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
    """The JSON of a successful answer, or the bytes of a table; raises RefusedError for any other."""
    if answer.is_success:
        if answer.headers.get("content-type") == ARROW:
            return answer.content
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
