"""Progress where there is a terminal, and where there is none."""

from __future__ import annotations

import time
from io import StringIO

import pytest

from ex2.base import progress
from ex2.base.progress import progress_bar


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def work(file: StringIO, steps: int) -> str:
    with progress_bar(steps, "sampling", "text", file=file) as bar:
        for step in range(1, steps + 1):
            time.sleep(0.002)
            bar.set_postfix({"kl": step / 4}, refresh=False)
            bar.update()
            if step == 2:
                bar.write("warning: odd", file=file)
    return file.getvalue()


def test_a_log_gets_one_line_of_what_takes_less_than_a_minute() -> None:
    lines = work(StringIO(), 4).splitlines()
    assert lines[0] == "warning: odd"
    assert lines[-1] == "sampling: 4 of 4 texts, 00:00 gone, 00:00 left, kl=1"
    assert len(lines) <= 3  # a message may leave the bar's state behind it


def test_and_else_a_line_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_SECONDS", 0.0)
    assert [line.split(" texts")[0] for line in work(StringIO(), 4).splitlines() if "warning" not in line][-3:] == [
        "sampling: 2 of 4",
        "sampling: 3 of 4",
        "sampling: 4 of 4",
    ]


def test_a_terminal_gets_a_bar() -> None:
    painted = work(Terminal(), 4)
    assert "\r" in painted
    assert "100%" in painted


def test_nothing_is_shown_where_it_is_disabled() -> None:
    file = StringIO()
    with progress_bar(2, "sampling", "text", file=file, disable=True) as bar:
        bar.update(2)
    assert file.getvalue() == ""
