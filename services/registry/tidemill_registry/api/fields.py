"""Parts of a request as values; each raises HttpProblem 422 that names what is wrong."""

from uuid import UUID

from tidemill_contracts import parse_time
from tidemill_runtime.http import FieldError, HttpProblem


def event_time(text: str) -> int:
    """The microseconds of `at`, an RFC 3339 text."""
    try:
        return parse_time(text)
    except ValueError as error:
        raise invalid("at", "time", str(error)) from None


def identifier(text: str) -> UUID:
    """An id of the path."""
    try:
        return UUID(text)
    except ValueError:
        raise HttpProblem(422, "an id is a UUID") from None


def invalid(field: str, rule: str, message: str) -> HttpProblem:
    """The problem of one field."""
    return HttpProblem(422, "a field is not valid", errors=[FieldError(field=field, rule=rule, message=message)])
