"""Foreign text (class names, descriptions, file names) where people read it: terminal, Markdown and spreadsheets."""

from __future__ import annotations

import os
import re
import shlex
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_KINDS = re.compile("(?:[a-z_-]+:)*")  # before a spec's path, which may hold colons itself
_FORMULA = ("=", "+", "-", "@")


def printable(text: str) -> str:
    """Text whose characters that move the cursor, start a terminal's commands or turn the direction stand as code points.

    Line breaks stay, and so do letters of all scripts, which have their direction without such marks.
    """
    return "".join(f"[U+{ord(c):04X}]" if _hidden(c) else c for c in text)


def _hidden(character: str) -> bool:
    return character in _TURNING or (character != "\n" and unicodedata.category(character) in ("Cc", "Cs"))


def say(text: str = "") -> None:
    """Print text that may hold foreign parts."""
    print(printable(text))


def shell_line(*words: str | os.PathLike[str]) -> str:
    """A command as a shell takes it: words with blanks or quotes are quoted."""
    return shlex.join(str(word) for word in words)


def gap() -> None:
    """Print an empty line where someone looks on; a log does without."""
    if sys.stdout.isatty():
        print()


def some_of(names: Sequence[str], most: int = 10) -> str:
    """The first names, comma-separated and each of 100 characters at most, and how many more there are."""
    shown = ", ".join(name if len(name) <= 100 else f"{name[:97]}..." for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def portable(name: str) -> str:
    """A name or spec without the path before it: `folder:/data/birds` is `folder:birds`, `runs/a` is `a` where it is a folder.

    Paths mean nothing elsewhere and may tell more than their owner would; fingerprints say what was meant. A name on disk that
    is no UTF-8 is `printable`.
    """
    name, mark, query = name.partition("?")
    if mark:
        pairs = (part.partition("=") for part in query.split("&"))
        return f"{portable(name)}?{'&'.join(f'{key}{sign}{portable(value)}' for key, sign, value in pairs)}"
    kind = _KINDS.match(name)[0]  # type: ignore[index]  # it matches nothing, too
    rest = name.removeprefix(kind)
    if not rest:
        return name
    path = Path(os.path.expanduser(rest))  # not expanduser of Path, which fails where nobody has that home
    is_path = path.is_absolute() or rest.startswith((".", "~")) or path.exists()
    # open_clip:MODEL/FILE has its path after the model.
    return f"{kind}{printable(path.resolve().name)}" if is_path else re.sub(r"/(?=[/.~]).*/", "/", name)


def listed(parts: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def markdown(text: str) -> str:
    """Text on one line and without meaning to Markdown or HTML."""
    return re.sub(r"([\\`*_\[\]|<>#~$&!])", r"\\\1", printable(" ".join(text.split())))


def to_csv(table: pd.DataFrame) -> bytes:
    """A table as CSV in UTF-8: texts are `printable`, with an apostrophe before what a spreadsheet would take for a formula."""

    def cell(value: object) -> object:
        if not isinstance(value, str):
            return value
        return f"'{printable(value)}" if value.startswith(_FORMULA) else printable(value)

    return table.map(cell).to_csv(index=False).encode()
