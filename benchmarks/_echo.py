"""The least that an ASGI server can do: answer with the request's body."""

from typing import Any


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI's own types are dictionaries
    """ASGI."""
    if scope["type"] != "http":
        return
    message = await receive()
    body = message.get("body", b"")
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
