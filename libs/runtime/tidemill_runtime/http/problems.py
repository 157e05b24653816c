"""RFC 9457 problem details: what went wrong, for people and programs, without a word of the input."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails
from starlette.responses import Response

MAX_ERRORS = 32
MAX_PART = 64
MEDIA_TYPE = "application/problem+json"


class FieldError(BaseModel):
    """One rule that one field of a body breaks."""

    model_config = ConfigDict(frozen=True)

    field: str = Field(description="path of the field, parts joined by dots; empty for the whole body")
    rule: str
    message: str


class Problem(BaseModel):
    """The body of every answer with a status of 400 and above."""

    model_config = ConfigDict(frozen=True)

    type: str = "about:blank"
    title: str
    status: int
    detail: str = ""
    trace_id: str | None = None
    errors: list[FieldError] = Field(default_factory=list)


class HttpProblem(Exception):  # noqa: N818 - it is an answer, not a fault of ours
    """Raised by an endpoint to answer with a problem. `detail` must not repeat what the client sent."""

    def __init__(
        self,
        status: int,
        detail: str = "",
        *,
        type_: str = "about:blank",
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{status} {detail}")
        self.status, self.detail, self.type = status, detail, type_
        self.errors, self.headers = list(errors), dict(headers or {})

    def response(self, trace_id: str | None = None) -> Response:
        """The answer, with the trace id that finds its log lines."""
        problem = Problem(
            type=self.type, title=HTTPStatus(self.status).phrase, status=self.status, detail=self.detail,
            trace_id=trace_id, errors=self.errors,
        )  # fmt: skip
        unsaid = {name for name in ("detail", "trace_id", "errors") if not getattr(problem, name)}
        body = problem.model_dump_json(exclude=unsaid)
        return Response(body, self.status, headers=self.headers, media_type=MEDIA_TYPE)


def from_validation(error: ValidationError) -> HttpProblem:
    """400 for text that is not JSON, else 422 with the first 32 rules broken; the input is in neither."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    if any(detail["type"] == "json_invalid" for detail in details):
        return HttpProblem(400, "the body is not valid JSON")
    return HttpProblem(422, "the request breaks its schema", errors=[_field_error(d) for d in details[:MAX_ERRORS]])


def _field_error(detail: ErrorDetails) -> FieldError:
    # A field nobody declared is named by the client: long names are cut.
    path = ".".join(str(part)[:MAX_PART] for part in detail["loc"])
    return FieldError(field=path, rule=detail["type"], message=detail["msg"])
