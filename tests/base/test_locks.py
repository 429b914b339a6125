"""One process at a time for each output."""

from __future__ import annotations

import errno
import logging
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ex2.base.errors import UserError
from ex2.base.locks import alone_at, alone_in

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def another_process(function: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds `path` until it is killed."""
    code = (
        f"import sys; from pathlib import Path; from ex2.base.locks import {function}\n"
        f"with {function}(Path({str(path)!r}), '--out'):\n    print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("function", [alone_in, alone_at])
def test_the_second_process_is_told_of_the_first_and_a_killed_one_holds_nothing(
    function: Callable[..., Iterator[None]], tmp_path: Path
) -> None:
    path = tmp_path / "new" / "out"
    with another_process(function.__name__, path) as holder:
        expected = f"^--out {path} is in use by process {holder.pid} on {platform.node()}: wait until it has ended"
        with pytest.raises(UserError, match=expected), function(path, "--out"):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with function(path, "--out"):
            pass
    assert [other for other in path.parent.rglob("*") if not other.is_dir()] == []


def test_a_new_folder_in_which_nothing_is_written_goes_again(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="^no VLM$"), alone_in(tmp_path / "out", "--out"):
        raise UserError("no VLM")
    assert list(tmp_path.iterdir()) == []


def test_a_file_and_a_link_to_it_are_one_output(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    with alone_at(tmp_path / "file", "--out"):
        with pytest.raises(UserError, match="is in use by process"), alone_at(tmp_path / "link", "--out"):
            pass
        with alone_at(tmp_path / "other", "--out"):
            pass


def test_a_folder_that_was_there_stays_and_so_does_what_was_written(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new"):
        with alone_in(tmp_path / name, "--out"):
            (tmp_path / "new").is_dir() and (tmp_path / "new" / "file").touch()
    assert list((tmp_path / "empty").iterdir()) == []
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]


def test_a_folder_below_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for function in (alone_in, alone_at):
        with (
            pytest.raises(UserError, match=r"^--out .*/file/out/x cannot be \w+ \(Not a directory\): name another"),
            function(tmp_path / "file" / "out" / "x", "--out"),
        ):
            pass
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
def test_a_folder_in_which_the_kernel_makes_no_files_is_not_called_in_use() -> None:
    message = r"^--out /proc/x cannot be written \(No such file or directory\): name another"
    with pytest.raises(UserError, match=message), alone_at(Path("/proc/x"), "--out"):
        pass


def test_folders_that_were_made_for_nothing_go_again(tmp_path: Path) -> None:
    for function in (alone_in, alone_at):
        with pytest.raises(UserError, match="^no such run$"), function(tmp_path / "rnus" / "a" / "b", "--out"):
            raise UserError("no such run")
        assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_is_written_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with caplog.at_level(logging.WARNING), alone_in(tmp_path / "out", "--out"):
        (tmp_path / "out" / "text").touch()
    assert f"--out {tmp_path / 'out'} lies on a file system without locks" in caplog.text
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["text"]
