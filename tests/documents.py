"""The code blocks of the documentation, and what their marks say about running them.

A block's first line is "```LANGUAGE WORDS"; readers see the language only. `no-test: REASON` among the words keeps a
block from being run.
"""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

FENCE = re.compile(r"^```([^\s`]*) ?([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block."""

    document: Path
    line: int
    language: str
    words: str
    text: str

    @property
    def excuse(self) -> str | None:
        """Why it is not run; None if it is."""
        _, marked, reason = self.words.partition("no-test:")
        return reason.strip() if marked else None

    @property
    def name(self) -> str:
        return f"{self.document.name}:{self.line}"


def blocks_of(document: Path) -> list[Block]:
    text = document.read_text()
    return [
        Block(document, text.count("\n", 0, match.start()) + 1, match[1], match[2], match[3])
        for match in FENCE.finditer(text)
    ]
