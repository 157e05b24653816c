import tomllib
from pathlib import Path

from tidemill_testkit.checks.workspace import packages, services

ROOT = Path(__file__).parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]


def test_the_import_rules_know_every_service() -> None:
    contract = next(each for each in SETTINGS["importlinter"]["contracts"] if each["id"] == "services")
    assert contract["containers"] == [f"tidemill_{name}" for name in services(ROOT)]


def test_every_tool_knows_every_package() -> None:
    members = list(packages(ROOT))
    assert sorted(SETTINGS["importlinter"]["root_packages"]) == sorted(each.module for each in members)
    assert {str(each.folder.relative_to(ROOT)) for each in members} <= set(SETTINGS["mypy"]["mypy_path"])


def test_every_package_is_typed_and_says_what_it_is_for() -> None:
    for each in packages(ROOT):
        assert (each.folder / each.module / "py.typed").exists(), each.name
        assert (each.folder / each.module / "__init__.py").read_text().startswith('"""'), each.name
