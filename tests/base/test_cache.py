"""Where banks and converted models are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from ex2.base.cache import cache_folder
from ex2.base.errors import UserError


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EX2_CACHE", str(tmp_path / "env"))
    assert cache_folder("mine") == Path("mine")
    assert cache_folder() == tmp_path / "env"
    monkeypatch.delenv("EX2_CACHE")
    assert cache_folder() == Path("~/.cache/ex2").expanduser()


def test_where_there_is_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under a user id of nobody's."""

    def nobody(*_: object) -> None:
        raise KeyError("no such user")

    monkeypatch.delenv("EX2_CACHE", raising=False)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", nobody)
    with pytest.raises(
        UserError, match=r"^There is no home folder to cache in: name a folder \(--cache_dir DIR, or EX2_CACHE"
    ):
        cache_folder()
    with pytest.raises(UserError, match=r"^~/x: there is no such home folder: write the path out"):
        cache_folder("~/x")
    assert cache_folder("/x") == Path("/x")
