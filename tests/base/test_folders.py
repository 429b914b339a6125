"""Output folders of several files: what is free, and what a kill between two files leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from ex2.base.errors import UserError
from ex2.base.files import temporary_beside, write_atomically
from ex2.base.folders import UNFINISHED, being_written, check_free, output_folder, unfinished
from ex2.base.locks import LOCK


def write(folder: Path, *, until: int = 3) -> None:
    """Write an "analysis" of three files, `last` at the end; killed after `until` of them."""
    with output_folder(folder, "last", "analysis"), being_written(folder, "analysis"):
        for name in ("tables/a", "tables/b", "last")[:until]:
            write_atomically(folder / name, b"new")
        if until < 3:
            raise KeyboardInterrupt


@pytest.mark.parametrize("until", [0, 1, 2])
def test_what_a_kill_leaves_is_taken_up_by_its_command_and_by_no_other(tmp_path: Path, until: int) -> None:
    folder = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        write(folder, until=until)
    assert unfinished(folder) == "analysis"
    with pytest.raises(UserError, match="is not empty and holds no classification"):
        check_free(folder, "results.json", "classification")
    write(folder)
    assert unfinished(folder) is None
    assert sorted(p.name for p in folder.rglob("*") if p.is_file()) == ["a", "b", "last"]


def test_an_old_analysis_is_unfinished_while_it_is_written_again(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, until=1)
    assert (tmp_path / "last").is_file()
    assert unfinished(tmp_path) == "analysis"


def test_what_is_not_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder, words in (
        (tmp_path, "is not empty and holds no analysis"),
        (tmp_path / "file", "is a file: name a folder"),
    ):
        with pytest.raises(UserError, match=words):
            write(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_locks_and_temporary_files_do_not_fill_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / LOCK, temporary_beside(tmp_path / "x")):
        path.touch()
    check_free(tmp_path, "last", "analysis")
    (tmp_path / UNFINISHED).write_text("classification")
    with pytest.raises(UserError, match="holds no analysis"):
        check_free(tmp_path, "last", "analysis")
