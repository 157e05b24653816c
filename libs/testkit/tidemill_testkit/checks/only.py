"""An import-linter contract that lists what a module *may* import; a new dependency is a decision, not an accident.

`forbidden` can only name what is already known; the table of who may import whom is a list of what is allowed.
"""

import sys
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, cast

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output

if TYPE_CHECKING:
    from collections.abc import Sequence


class OnlyContract(Contract):
    """Modules (with their descendants) may directly import the allowed names, their own kind, and the standard library.

    Names are dotted, with shell wildcards in a part, and stand for everything below them: `tidemill_*.domain`.

    Configuration options:
        - modules:  whom the contract binds.
        - allowed:  what they may import beside the standard library and beside each other inside one package.
        - unwanted: parts of the standard library that they may not import (clocks, sockets, threads).
        - but_not:  modules below `modules` that another contract binds instead.
    """

    modules = fields.ListField(subfield=fields.StringField())
    allowed = fields.ListField(subfield=fields.StringField(), required=False)
    unwanted = fields.ListField(subfield=fields.StringField(), required=False)
    but_not = fields.ListField(subfield=fields.StringField(), required=False)

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:  # noqa: FBT001 - the base class's signature
        """Look at every direct import of the bound modules."""
        del verbose
        refused = [
            f"{module} -> {imported}"
            for module in sorted(graph.modules)
            if _below(module, self._names("modules")) and not _below(module, self._names("but_not"))
            for imported in sorted(graph.find_modules_directly_imported_by(module))
            if not self._may(module, imported)
        ]
        return ContractCheck(kept=not refused, metadata={"refused": refused})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """One line for each import that is not allowed."""
        for line in check.metadata["refused"]:
            output.print_error(f"- {line}", bold=False)
        output.new_line()

    def _may(self, module: str, imported: str) -> bool:
        root = imported.partition(".")[0]
        if root in sys.stdlib_module_names:
            return not _below(imported, self._names("unwanted"))
        own_package = module.partition(".")[0] == root
        same_kind = (name for name in self._names("modules") if _below(module, [name]) and _below(imported, [name]))
        return _below(imported, self._names("allowed")) or (own_package and any(same_kind))

    def _names(self, field: str) -> "Sequence[str]":
        return cast("Sequence[str]", getattr(self, field) or ())


def _below(module: str, patterns: "Sequence[str]") -> bool:
    """True if `module` is one that a pattern names, or lies below it."""
    parts = module.split(".")
    for pattern in patterns:
        wanted = pattern.split(".")
        if len(wanted) <= len(parts) and all(map(fnmatchcase, parts, wanted)):
            return True
    return False
