"""What can go wrong between a client and the services, in words that a user can act on."""

from collections.abc import Mapping
from typing import Any


class TidemillError(Exception):
    """Something a user can act on; the message says what."""


class UnreachableError(TidemillError):
    """A service did not answer in time."""


class DeadlineError(UnreachableError):
    """There was no answer before the deadline that the caller gave. It may have been logged: ask again by its id."""


class RefusedError(TidemillError):
    """A service refused a request: `status` and the RFC 9457 problem say why. Its subclasses are kinds of refusal."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        details = [f"{item.get('field', '')}: {item.get('message', '')}" for item in problem.get("errors", [])[:5]]
        text = str(problem.get("detail") or problem.get("title") or problem.get("error") or "refused")
        super().__init__("; ".join([f"{status} {text}", *details]))
        self.status = status
        self.problem = dict(problem)


class InvalidError(RefusedError):
    """The request is wrong: `errors` names each field, its rule and what is wrong with it."""

    @property
    def errors(self) -> list[dict[str, Any]]:
        """Each with field, rule and message."""
        return list(self.problem.get("errors", []))


class UnauthorisedError(RefusedError):
    """The API key is missing or wrong."""


class NotFoundError(RefusedError):
    """There is no such thing."""


class ConflictError(RefusedError):
    """Not as things stand, such as a prediction before the first release."""


class QuotaError(RefusedError):
    """The quota of the API key is used up, for longer than the caller waits; or a request is larger than all of it."""


class UnavailableError(RefusedError):
    """The service cannot answer now, and may later."""


_KINDS: dict[int, type[RefusedError]] = {
    400: InvalidError, 401: UnauthorisedError, 403: UnauthorisedError, 404: NotFoundError, 409: ConflictError,
    413: InvalidError, 415: InvalidError, 422: InvalidError, 429: QuotaError, 502: UnavailableError,
    503: UnavailableError, 504: UnavailableError,
}  # fmt: skip


def refused(status: int, problem: Mapping[str, Any]) -> RefusedError:
    """The error of a status."""
    return _KINDS.get(status, RefusedError)(status, problem)
