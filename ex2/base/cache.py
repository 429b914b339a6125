"""Where image banks, class vectors and converted models are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(cache_dir: str | None = None) -> Path:
    """Folder for banks and converted models: `cache_dir`, else $EX2_CACHE, else ~/.cache/ex2."""
    return Path(cache_dir or os.environ.get("EX2_CACHE") or "~/.cache/ex2").expanduser()
