"""Questions asked while something starts: is it ready, and if not, why not?"""

import http.client
from urllib.parse import urlsplit

_REASON_BYTES = 2000


def answers(url: str, timeout_s: float = 0.5) -> bool:
    """True if a GET of `url` is answered with 200 in time."""
    return ask(url, timeout_s)[0]


def ask(url: str, timeout_s: float = 0.5) -> tuple[bool, str]:
    """Whether a GET of `url` is answered with 200 in time, and the beginning of what was answered instead."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=timeout_s)
    try:
        connection.request("GET", parts.path)
        answer = connection.getresponse()
        said = answer.read(_REASON_BYTES).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return False, f"{type(error).__name__}: {error}"
    finally:
        connection.close()
    return answer.status == http.HTTPStatus.OK, said
