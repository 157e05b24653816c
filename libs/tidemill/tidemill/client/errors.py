"""What can go wrong between a client and the services, in words that a user can act on."""

from collections.abc import Mapping
from typing import Any


class TidemillError(Exception):
    """Something a user can act on; the message says what."""


class UnreachableError(TidemillError):
    """A service did not answer in time."""


class RefusedError(TidemillError):
    """A service refused a request: `status` and the RFC 9457 problem say why."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        details = [f"{item.get('field', '')}: {item.get('message', '')}" for item in problem.get("errors", [])[:5]]
        text = str(problem.get("detail") or problem.get("title") or problem.get("error") or "refused")
        super().__init__("; ".join([f"{status} {text}", *details]))
        self.status = status
        self.problem = dict(problem)
