import importlib.util
from pathlib import Path

import pytest
from grimp import ImportGraph

from tidemill_testkit.checks import declared, requirements, sizes
from tidemill_testkit.checks.only import OnlyContract
from tidemill_testkit.checks.workspace import Package, distribution


def _contract(**options: object) -> OnlyContract:
    return OnlyContract("test", {}, {"modules": ["tidemill_*.domain"], **options})


def _graph(importer: str, imported: str) -> ImportGraph:
    graph = ImportGraph()
    for name in (importer, imported):
        graph.add_module(name)
    graph.add_import(importer=importer, imported=imported)
    return graph


@pytest.mark.parametrize(
    ("importer", "imported", "kept"),
    [
        ("tidemill_a.domain", "dataclasses", True),
        ("tidemill_a.domain", "time", False),
        ("tidemill_a.domain", "asyncpg", False),
        ("tidemill_a.domain.deep", "numpy", True),
        ("tidemill_a.domain", "tidemill_a.domain.deep", True),
        ("tidemill_a.domain", "tidemill_a.store", False),
        ("tidemill_a.domain", "tidemill_b.domain", False),
        ("tidemill_a.store", "asyncpg", True),  # not bound by this contract
        ("tidemill_c.domain", "asyncpg", True),  # excepted
    ],
)
def test_a_module_may_import_only_what_its_contract_lists(importer: str, imported: str, kept: bool) -> None:
    contract = _contract(allowed=["numpy"], unwanted=["time"], but_not=["tidemill_c"])
    assert contract.check(_graph(importer, imported), verbose=False).kept is kept


def test_a_long_function_is_named_and_a_baseline_lets_it_be(tmp_path: Path) -> None:
    folder = tmp_path / "libs"
    folder.mkdir()
    (folder / "a.py").write_text("def long():\n" + "    x = 1\n" * 60)
    said = sizes.complaints(sizes.lengths(tmp_path), {})
    assert said == ["libs/a.py::long: 61 lines; split it"]
    assert sizes.complaints(sizes.lengths(tmp_path), {"libs/a.py::long": 61}) == []


def test_a_baseline_only_shrinks(tmp_path: Path) -> None:
    assert sizes.complaints(sizes.lengths(tmp_path), {"libs/a.py": 400}) == [
        "libs/a.py: shrank to 0 lines; lower its baseline of 400"
    ]


def test_no_baseline_allows_five_hundred_lines(tmp_path: Path) -> None:
    folder = tmp_path / "libs"
    folder.mkdir()
    (folder / "a.py").write_text("x = 1\n" * 501)
    assert sizes.complaints(sizes.lengths(tmp_path), {"libs/a.py": 501}) == [
        "libs/a.py: 501 lines, above 500, which no baseline allows"
    ]


def test_an_undeclared_import_and_an_idle_declaration_are_named(tmp_path: Path) -> None:
    package = Package(name="tidemill-x", folder=tmp_path, module="tidemill_x", dependencies=("rich>=1",))
    (tmp_path / "tidemill_x").mkdir()
    (tmp_path / "tidemill_x" / "a.py").write_text(
        "import json\nfrom yaml import safe_load\nimport tidemill_x\n"
        "try:\n    import optional\nexcept ImportError:\n    pass\n"
    )
    said = list(declared.complaints(package, {"yaml": ["PyYAML"], "rich": ["rich"]}))
    assert [line.rpartition("/")[2] for line in said] == [
        "a.py imports yaml, which its pyproject.toml does not declare",
        "tidemill-x: declares rich, which nothing in it imports",
    ]


def test_a_name_is_compared_as_the_index_does() -> None:
    assert distribution("Foo_Bar[extra]>=1; python_version<'4'") == "foo-bar"


def test_the_lock_pins_all_that_the_packages_declare() -> None:
    root = Path(__file__).parents[3]
    for lock, groups in (("requirements.lock", ()), ("requirements-dev.lock", ("dev",))):
        locked = {line.partition("==")[0] for line in (root / lock).read_text().splitlines() if "==" in line}
        wanted = {distribution(line) for line in requirements.requirements(root, groups)}
        assert wanted <= locked, lock


def test_the_locks_agree_and_name_no_index() -> None:
    root = Path(__file__).parents[3]
    base, dev = ((root / name).read_text() for name in ("requirements.lock", "requirements-dev.lock"))
    pins = [{line for line in text.splitlines() if "==" in line} for text in (base, dev)]
    assert pins[0] <= pins[1]
    assert "://" not in base + dev


def test_every_check_can_be_run_by_name() -> None:
    for name in ("sizes", "declared", "requirements"):
        assert importlib.util.find_spec(f"tidemill_testkit.checks.{name}") is not None
