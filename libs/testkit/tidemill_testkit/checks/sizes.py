"""No Python file above 300 lines, no function above 50: what is longer is split, or named in the frozen baseline.

The baseline (`sizes.json` beside this file) maps a path, or `path::function`, to the length it may keep. Entries only
shrink: one that is no longer needed, or larger than needed, is an error too. A file of 500 lines is never allowed.
"""

import ast
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

FILE_LINES, FILE_LINES_EVER, FUNCTION_LINES = 300, 500, 50
BASELINE = Path(__file__).with_name("sizes.json")
_FOLDERS = ("libs", "services", "tests", "benchmarks")


def lengths(root: Path) -> Iterator[tuple[str, int, int]]:
    """Each file and function as (name, lines, limit)."""
    for folder in _FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            name, source = path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")
            yield name, source.count("\n"), FILE_LINES
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield f"{name}::{node.name}", (node.end_lineno or node.lineno) - node.lineno + 1, FUNCTION_LINES


def complaints(found: Iterator[tuple[str, int, int]], baseline: Mapping[str, int]) -> list[str]:
    """One sentence for each rule broken; empty when all is well."""
    longest: dict[str, int] = {}
    said = []
    for name, lines, limit in found:
        if lines > limit:
            longest[name] = max(lines, longest.get(name, 0))
        if limit == FILE_LINES and lines > FILE_LINES_EVER:
            said.append(f"{name}: {lines} lines, above {FILE_LINES_EVER}, which no baseline allows")
    for name, lines in longest.items():
        if lines > baseline.get(name, 0):
            said.append(f"{name}: {lines} lines; split it")
    for name, allowed in baseline.items():
        if longest.get(name, 0) < allowed:
            said.append(f"{name}: shrank to {longest.get(name, 0)} lines; lower its baseline of {allowed}")
    return said


def main() -> int:
    """Check the tree below the current folder; 1 if anything is too long."""
    said = complaints(lengths(Path.cwd()), json.loads(BASELINE.read_text(encoding="utf-8")))
    sys.stderr.write("".join(f"{line}\n" for line in said))
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
