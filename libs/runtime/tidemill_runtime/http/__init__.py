"""The HTTP edge: strict bodies with limits, RFC 9457 problems, API key, trace context, self-describing route tables."""

from tidemill_runtime.http.app import App, caller_of
from tidemill_runtime.http.bodies import (
    check_json,
    media_type,
    parse_adapter,
    parse_json,
    parse_model,
    read_body,
    read_model,
    read_query,
)
from tidemill_runtime.http.keys import ANYBODY, Caller, Keys
from tidemill_runtime.http.problems import FieldError, HttpProblem, Problem, from_validation
from tidemill_runtime.http.routes import Route, json_response

__all__ = [
    "ANYBODY", "App", "Caller", "FieldError", "HttpProblem", "Keys", "Problem", "Route", "caller_of",
    "check_json", "from_validation", "json_response",
    "media_type", "parse_adapter", "parse_json", "parse_model", "read_body", "read_model", "read_query",
]  # fmt: skip
