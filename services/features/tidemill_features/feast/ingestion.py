"""Events to ingestion's HTTP edge: its checks, its ids, and its word that they are durable."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidemill_features.feast.errors import Broken, InvalidRequestError, NotNowError
from tidemill_features.feast.pushing import shown
from tidemill_features.settings import Settings
from tidemill_runtime.telemetry import current_traceparent

if TYPE_CHECKING:
    import httpx

TIMEOUT_S = 20.0
_ACCEPTED, _TOO_LARGE = 202, 413
_BAD = frozenset({400, 422})


class Ingestion:
    """Where events are sent."""

    def __init__(self, settings: Settings, *, transport: "httpx.AsyncBaseTransport | None" = None) -> None:
        self._url, self._endpoints = settings.ingestion_url, settings.endpoints
        key = settings.api_key
        self._headers = {} if key is None else {"authorization": f"Bearer {key.get_secret_value()}"}
        self._transport = transport
        self._client: httpx.AsyncClient | None = None

    async def send(self, source: str, events: Sequence[Mapping[str, Any]]) -> None:
        """Return when all are durable; raises InvalidRequestError with its reasons, or NotNowError. All or none."""
        import httpx  # noqa: PLC0415 - a tenth of a second of every start, for what few services ever do

        trace = current_traceparent()
        headers = self._headers | ({} if trace is None else {"traceparent": trace})
        try:
            answer = await self._connected().post(f"{self._where()}/v1/events/{source}", json=events, headers=headers)
        except httpx.HTTPError as error:
            raise NotNowError(f"ingestion cannot be reached: {type(error).__name__}") from None
        if answer.status_code == _ACCEPTED:
            return
        if answer.status_code == _TOO_LARGE:
            raise InvalidRequestError([Broken("df", "size", "is too large as events: send fewer rows at once")])
        if answer.status_code in _BAD:
            raise InvalidRequestError(_reasons(answer))
        raise NotNowError(f"ingestion answers {answer.status_code}")

    async def close(self) -> None:
        """Hang up."""
        if self._client is not None:
            await self._client.aclose()

    def _connected(self) -> "httpx.AsyncClient":
        """Made at the first push: its TLS context alone costs a start of the service 30 ms and some memory."""
        import httpx  # noqa: PLC0415 - see send

        if self._client is None:
            self._client = httpx.AsyncClient(timeout=TIMEOUT_S, transport=self._transport)
        return self._client

    def _where(self) -> str:
        """Read each time: the embedded stack writes the file anew when a port changes."""
        if self._url is not None:
            return self._url.rstrip("/")
        if self._endpoints is None:
            raise NotNowError("TIDEMILL_INGESTION_URL does not say where ingestion is")
        try:
            return str(json.loads(Path(self._endpoints).read_bytes())["services"]["ingestion"]["url"])
        except (OSError, ValueError, LookupError, TypeError):
            raise NotNowError("the stack's endpoints do not name ingestion") from None


def _reasons(answer: "httpx.Response") -> list[Broken]:
    """Ingestion's problems, told of the columns that were pushed."""
    try:
        errors = answer.json()["errors"]
        found = [Broken(_column(str(e["field"])), str(e["rule"]), str(e["message"])) for e in errors]
    except (ValueError, LookupError, TypeError):
        found = []
    return found or [Broken("df", "refused", "ingestion does not take these rows as events")]


def _column(field: str) -> str:
    """`2.data.delay` is row 2 of the column `delay`; id and time come from columns of their own."""
    row, _, rest = field.partition(".")
    column = {"id": "event_id", "time": "event_timestamp"}.get(rest, rest.removeprefix("data."))
    return f"df.{shown(column)}.{row}" if row.isdigit() and column else "df"
