"""HTML pages from templates: what is put into them is escaped, and no script runs but the page's own."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ex2.base.shown import printable


def templates(folder: Path) -> Environment:
    """The templates of a folder: every text is escaped and printable, a name that is not given is an error."""
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        finalize=lambda value: printable(value) if type(value) is str else value,  # Markup is not foreign
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def hash_of(script: str) -> str:
    """The name by which a content security policy lets this script run, and no other."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"
