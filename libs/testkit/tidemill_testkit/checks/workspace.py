"""The packages of the workspace, as their `pyproject.toml` files tell."""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Package:
    """One member: its distribution name, folder, import name and declared dependencies (PEP 508 strings)."""

    name: str
    folder: Path
    module: str
    dependencies: tuple[str, ...]


def packages(root: Path) -> Iterator[Package]:
    """Every package under `libs` and `services`, in the order of their folders."""
    for path in sorted([*root.glob("libs/*/pyproject.toml"), *root.glob("services/*/pyproject.toml")]):
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        yield Package(
            name=project["name"],
            folder=path.parent,
            module=project["name"].replace("-", "_"),
            dependencies=tuple(project.get("dependencies", ())),
        )


def services(root: Path) -> list[str]:
    """The services' names, which are their folders' names."""
    return [package.folder.name for package in packages(root) if package.folder.parent.name == "services"]


def distribution(requirement: str) -> str:
    """The normalised distribution name at the start of a PEP 508 requirement.

    Raises:
        ValueError: it does not start with a name.
    """
    found = _NAME.match(requirement.strip())
    if found is None:
        raise ValueError(f"not a requirement: {requirement!r}")
    return re.sub(r"[-_.]+", "-", found.group()).lower()
