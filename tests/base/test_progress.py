"""Progress where there is a terminal, and where there is none."""

from __future__ import annotations

from io import StringIO

import pytest

from ex2.base import progress
from ex2.base.progress import announce, progress_bar


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that moves a minute at a time, when it is told to."""

    def __init__(self) -> None:
        self.minutes = 0.0

    def monotonic(self) -> float:
        return 60.0 * self.minutes


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of logs, which had their last line at 0."""
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(progress._Lines, "last", 0.0)
    return clock


def work(file: StringIO, steps: int, clock: Clock | None = None, minutes: float = 0.0, desc: str = "sampling") -> str:
    with progress_bar(steps, desc, "text", file=file) as bar:
        for step in range(1, steps + 1):
            if clock is not None:
                clock.minutes += minutes
            bar.set_postfix({"kl": step / 4}, refresh=False)
            bar.update()
            if step == 2:
                bar.write("warning: odd", file=file)
    return file.getvalue()


def test_a_log_gets_nothing_of_what_takes_less_than_a_minute(clock: Clock) -> None:
    assert work(StringIO(), 4, clock, minutes=0.24) == "warning: odd\n"


def test_and_else_a_line_a_minute(clock: Clock) -> None:
    lines = work(StringIO(), 5, clock, minutes=0.5).splitlines()
    assert [line.partition(" texts")[0] for line in lines] == ["sampling: 2 of 5", "warning: odd", "sampling: 4 of 5"]
    assert lines[-1].endswith(", kl=1")


def test_all_bars_share_the_minute(clock: Clock) -> None:
    file = StringIO()
    for desc in ("first", "second", "third"):
        work(file, 1, clock, minutes=0.5, desc=desc)
    assert [line.partition(" of")[0] for line in file.getvalue().splitlines()] == ["second: 1"]


def test_the_line_of_a_phase_begins_the_minute_anew(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    clock.minutes = 0.9
    announce("[1/2] sampling")
    assert capsys.readouterr().out == "[1/2] sampling\n"
    assert work(StringIO(), 1, clock, minutes=0.9) == ""
    assert work(StringIO(), 1, clock, minutes=0.1).startswith("sampling: 1 of 1 texts")


def test_a_terminal_gets_a_bar() -> None:
    painted = work(Terminal(), 4)
    assert "\r" in painted
    assert "100%" in painted


def test_nothing_is_shown_where_it_is_disabled() -> None:
    file = StringIO()
    with progress_bar(2, "sampling", "text", file=file, disable=True) as bar:
        bar.update(2)
    assert file.getvalue() == ""
