"""Where image banks, class vectors and converted models are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

from ex2.base.errors import UserError
from ex2.base.files import from_home


def cache_folder(cache_dir: str | None = None) -> Path:
    """Folder for banks and converted models: `cache_dir`, else $EX2_CACHE, else ~/.cache/ex2."""
    given = cache_dir or os.environ.get("EX2_CACHE")
    try:
        return from_home(given or "~/.cache/ex2")
    except UserError:
        if given:
            raise
        raise UserError("There is no home folder to cache in: name a folder (--cache_dir DIR, or EX2_CACHE).") from None
