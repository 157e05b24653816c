"""Reads a pipeline file; every problem names its line, its field and the rule."""

import json
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from tidemill_contracts.pipeline.spec import PipelineSpec

MAXIMUM_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a pipeline file: where (dotted field, line from 1) and which rule."""

    field: str
    line: int
    rule: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.field or 'file'}: {self.rule}"


class PipelineError(ValueError):
    """The pipeline file is not valid."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys, which YAML forbids and PyYAML lets the last one win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 - PyYAML's
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value} stands twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# YAML 1.1 reads 1e-05 as text; JSON and YAML 1.2 read a number, and so do people.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def load_pipeline(path: Path) -> PipelineSpec:
    """The pipeline in a file; raises PipelineError for a bad one and OSError for an unreadable one."""
    return parse_pipeline(path.read_bytes())


def parse_pipeline(raw: bytes) -> PipelineSpec:
    """The pipeline in YAML (or JSON) bytes; raises PipelineError."""
    if len(raw) > MAXIMUM_BYTES:
        raise PipelineError([Problem("", 1, f"the file is larger than {MAXIMUM_BYTES} bytes")])
    try:
        text = raw.decode("utf-8")
        root = yaml.compose(text, Loader=_Loader)
        document = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
        data = json.dumps(document, allow_nan=False, default=_iso)
    except UnicodeDecodeError:
        raise PipelineError([Problem("", 1, "the file is not UTF-8")]) from None
    except (TypeError, ValueError) as error:
        raise PipelineError([Problem("", 1, str(error))]) from None
    except RecursionError:
        raise PipelineError([Problem("", 1, "the file is nested too deeply")]) from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise PipelineError([Problem("", line, error.problem or "not valid YAML")]) from None
    except yaml.YAMLError as error:
        raise PipelineError([Problem("", 1, str(error))]) from None
    try:
        return PipelineSpec.model_validate_json(data)
    except ValidationError as error:
        raise PipelineError(
            [_problem(item, root) for item in error.errors(include_url=False, include_input=False)]
        ) from None


def _iso(value: object) -> str:
    if isinstance(value, date):
        return value.isoformat()
    msg = f"{type(value).__name__} is not allowed here"
    raise TypeError(msg)


def _problem(item: Any, root: yaml.Node | None) -> Problem:  # noqa: ANN401 - pydantic's ErrorDetails is not importable at run time
    location = [part for part in item["loc"] if not (isinstance(part, str) and part in {"float", "integer"})]
    line, known = _line(root, location)
    rule = str(item["msg"]).removeprefix("Value error, ")
    return Problem(".".join(str(part) for part in known), line, rule)


def _line(root: yaml.Node | None, location: Sequence[str | int]) -> tuple[int, list[str | int]]:
    """Line of the deepest node on the location's path, and the path without what only pydantic knows (union tags)."""
    node, line, known = root, 1, list[str | int]()
    for index, part in enumerate(location):
        child = _child(node, part)
        if child is None:
            if index == len(location) - 1:
                known.append(part)
            continue
        node, line = child
        known.append(part)
    return line, known


def _child(node: yaml.Node | None, part: str | int) -> tuple[yaml.Node, int] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return value, key.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part].start_mark.line + 1
    return None
