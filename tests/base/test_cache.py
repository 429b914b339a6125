"""Where banks and converted models are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from ex2.base.cache import cache_folder


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EX2_CACHE", str(tmp_path / "env"))
    assert cache_folder("mine") == Path("mine")
    assert cache_folder() == tmp_path / "env"
    monkeypatch.delenv("EX2_CACHE")
    assert cache_folder() == Path("~/.cache/ex2").expanduser()
