"""The commands and files of a page, as a reader would type them in."""

import re
from dataclasses import dataclass

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# ([\w.-]+\.\w+)\b")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: commands (`sh`), or a file that is named in its first line, `# name.ext: what it is`."""

    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The name of the file; None for commands."""
        named = _FILE.match(self.text)
        return None if self.language == "sh" or named is None else named[1]


def blocks_of(page: str, heading: str) -> list[Block]:
    """The blocks of one section, in order; raises ValueError when the page has no such heading."""
    start = page.find(f"\n## {heading}\n")
    if start < 0:
        raise ValueError(f"there is no section {heading!r}")
    end = page.find("\n## ", start + 1)
    section = page[start : end if end >= 0 else len(page)]
    return [Block(found[1], found[2]) for found in _BLOCK.finditer(section)]
