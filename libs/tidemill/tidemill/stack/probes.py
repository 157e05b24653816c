"""Questions with a yes or no for an answer, asked while something starts."""

import http.client
from urllib.parse import urlsplit


def answers(url: str, timeout_s: float = 0.5) -> bool:
    """True if a GET of `url` is answered with 200 in time."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=timeout_s)
    try:
        connection.request("GET", parts.path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
