"""Files that are whole or not there: links, devices, modes, kills. Text, JSON and YAML as they are read."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ex2.base import files
from ex2.base.errors import UserError
from ex2.base.files import (
    check_writable,
    json_lines,
    json_object,
    read_yaml,
    temporary_beside,
    text_lines,
    write_atomically,
)


def test_a_link_stays_and_its_target_is_written(tmp_path: Path) -> None:
    target, link = tmp_path / "data" / "scores.jsonl", tmp_path / "link.jsonl"
    target.parent.mkdir()
    target.write_bytes(b"old")
    link.symlink_to(target)
    write_atomically(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert [path.name for path in target.parent.iterdir()] == ["scores.jsonl"]


def test_a_link_to_nowhere_makes_its_target(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "new" / "file")
    write_atomically(tmp_path / "link", b"abc")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "new" / "file").read_bytes() == b"abc"


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_a_file_keeps_its_mode(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "private"
    path.write_bytes(b"old")
    path.chmod(mode)
    write_atomically(path, b"new")
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("kind", ["pipe", "folder", "link to a pipe"])
def test_no_file_takes_the_place_of_something_else(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out"
    if kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to(tmp_path / "pipe")
    for action in (lambda: write_atomically(path, b"abc"), lambda: check_writable(path, "--out")):
        with pytest.raises(UserError, match=r"is a (folder|device or pipe): name a file\."):
            action()
    assert kind == "folder" or stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_device_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "replace")  # lest a mistake makes a file of the machine's device
    with pytest.raises(UserError, match="^/dev/null is a device or pipe: name a file"):
        write_atomically("/dev/null", b"abc")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_what_cannot_be_written_is_seen_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    check_writable(tmp_path / "new" / "deep" / "file", "--out")
    assert not (tmp_path / "new").exists()
    with pytest.raises(UserError, match=r"--out .*/file/out lies below .*/file, which is a file"):
        check_writable(tmp_path / "file" / "out", "--out")
    with pytest.raises(UserError, match=r"^--out .* cannot be written \(File name too long\): name another file\.$"):
        check_writable(tmp_path / ("x" * 300), "--out")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match=r"--out .*: the folder .* takes no files \(read-only, or not yours\)"):
        check_writable(tmp_path / "out", "--out")


def test_a_name_may_be_as_long_as_names_can_be(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)
    write_atomically(path, b"abc")
    assert path.read_bytes() == b"abc"


def dead_process() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_temporary_files_of_the_dead_go_at_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, parents = temporary_beside(tmp_path / "x"), temporary_beside(tmp_path / "x")
    ended = dead_process()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", os.getppid)  # a process that is alive
        parents = temporary_beside(tmp_path / "x")
        patch.setattr(os, "getpid", lambda: ended)
        dead, folder = temporary_beside(tmp_path / "x"), temporary_beside(tmp_path / "y")
        patch.setattr(files, "_HOST", "elsewhere")  # where its process may be alive
        far = temporary_beside(tmp_path / "x")
    for path in (own, parents, dead, far):
        path.touch()
    folder.mkdir()
    (folder / "weights").touch()
    write_atomically(tmp_path / "new", b"")
    assert set(tmp_path.iterdir()) == {tmp_path / "new", own, parents, far}


# ---------------------------------------------------------------- reading


def test_text_is_read_without_byte_order_marks_and_broken_at_line_ends_only(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_bytes("\ufeffone\u2028still one\r\n\ufefftwo\x85\x0bstill two\rthree\n".encode())
    assert text_lines(path, "file") == ["one\u2028still one", "two\x85\x0bstill two", "three"]
    path.write_bytes("one".encode("utf-16"))
    with pytest.raises(UserError, match=r"^--names is UTF-16 text .*; save the file as UTF-8\.$"):
        text_lines(path, "--names")
    path.write_bytes("one".encode("utf-16-le"))
    with pytest.raises(UserError, match=r"^--names is UTF-16 text; save the file as UTF-8\.$"):
        text_lines(path, "--names")
    with pytest.raises(UserError, match=r"^--names cannot be read \(No such file or directory\)\.$"):
        text_lines(tmp_path / "none", "--names")


def test_json_lines_keep_their_numbers_and_lose_their_marks(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes('\ufeff{"a": "x\u2028y"}\r\n\n\ufeff{"a": 2}'.encode())
    assert [(number, json_object(line, ["a"], "a row")) for number, line in json_lines(path)] == [
        (1, {"a": "x\u2028y"}),
        (3, {"a": 2}),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", r"broken JSON \(Expecting property name.*\); every line must be one whole JSON object"),
        (b"[" * 50_000, r"broken JSON \(nested too deeply\)"),
        (b'{"a": ' * 50_000, r"broken JSON \(nested too deeply\)"),
        (b'{"a": ' + b"1" * 400 + b"}", r"the number 1{20}\.\.\. has 400 digits"),
        (b'{"a": ' + b"1" * 5000 + b"}", r"has 5000 digits"),
        (b'{"a": 1e400}', r"the number 1e400 is too large"),
        (b'{"a": NaN}', r"NaN is no JSON number"),
        (b'{"a": "\\ud800"}', r"half a character"),
        (b'{"\\uDC00": 1}', r"half a character"),
        (b'{"a": "\xff"}', r"^not UTF-8 text \(invalid start byte at byte 7\); save the file as UTF-8"),
        (b"[1]", r"expected a JSON object, found list"),
        (b"{}", r"missing a; a row needs a"),
    ],
)
def test_json_that_would_be_tripped_over_later_is_refused(line: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        json_object(line, ["a"], "a row")


def test_whole_emoji_written_as_halves_are_one_character() -> None:
    assert json_object(b'{"a": "\\ud83d\\ude00"}', ["a"], "a row") == {"a": "\U0001f600"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "line 1: a is there twice"),
        ("a: &x [1]\nb: *x", r"line 2: write the value of \*x out"),
        ("a: " + "[" * 3000, "is no valid YAML: it is nested too deeply"),
        ("a: " + "1" * 5000, "is no valid YAML"),
        ("[a, b]: 1", "is no valid YAML|must hold option: value lines"),
        ("? {a: 1}\n: 2", "is no valid YAML"),
        ("2: 1", "must hold option: value lines"),
        ("- a", "must hold option: value lines"),
        ("", "must hold option: value lines"),
        ("a: 1\n\ttab: 2", "is no valid YAML"),
        ("a: !!python/object/apply:os.system [ls]", "is no valid YAML"),
        ("a: 2024-99-99", "is no valid YAML"),
        ("a: " + "x" * 2**21, "characters are no list of options"),
    ],
)
def test_yaml_that_is_no_list_of_options(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_yaml(path, "--config config.yaml")
    assert len(str(caught.value)) < 2000
    assert str(caught.value).startswith("--config config.yaml ")
