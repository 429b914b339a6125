"""What every case is held to, and how one is run: in this process, which is a hundred times cheaper than in its own."""

from __future__ import annotations

import io
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

_PROGRESS = re.compile(r"\d+%\||\d+it \[|^\S+( \S+)*: \d+ of ")  # a command may have begun to work

LONGEST = 2000
"""Characters of an error line: what a terminal shows at one glance and a log can hold."""


class Reached(BaseException):
    """A command got as far as the work itself: its options were taken."""


@dataclass(frozen=True)
class Case:
    """One thing to try.

    Attributes:
        kind: Row of the table.
        name: What is tried.
        act: Tries it; given a folder of its own, it makes what it needs there.
        names: The error line must hold one of these: the option or the file that is wrong.
        ends: How it may end: `refused` (one line, status 2), `well` (status 0, or the work was reached), or either.
        stops: Whether it is a training run, which a full disk stops at work: one line, and status 1.
    """

    kind: str
    name: str
    act: Callable[[Path], object]
    names: Sequence[str] = ()
    ends: str = "either"
    stops: bool = False


@dataclass
class End:
    """How a case ended."""

    status: int | None  # None: by an exception, or the work was reached
    error: str = ""  # traceback
    lines: list[str] = field(default_factory=list)  # of standard error

    def complaint(self, case: Case) -> str | None:
        """What is wrong with it; None where the promise was kept."""
        if self.error:
            return self.error
        if self.status in (None, 0):
            return "was taken" if case.ends == "refused" else None
        if self.status != 2 and not (case.stops and self.status == 1):
            return f"status {self.status}"
        if case.ends == "well":
            return f"was refused: {self.lines}"
        if len(self.lines) != 1 or not self.lines[0].startswith("error: "):
            return f"{len(self.lines)} lines of error: {self.lines[:5]}"
        (line,) = self.lines
        if len(line) > LONGEST:
            return f"a line of {len(line)} characters"
        if any(ord(c) < 32 for c in line):
            return f"control characters: {line!r}"
        if case.names and not any(name.lower() in line.lower() for name in case.names):
            return f"names none of {list(case.names)}: {line}"
        return None


def run(case: Case, folder: Path) -> End:
    """Try a case in a folder."""
    out, err = io.StringIO(), io.StringIO()
    end = End(None)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            case.act(folder)
        end.status = 0
    except SystemExit as stop:
        end.status = stop.code if isinstance(stop.code, int) else 1 if stop.code else 0
    except Reached:
        pass
    except BaseException:
        end.error = traceback.format_exc(limit=-4)
    rows = err.getvalue().replace("\r", "\n").split("\n")
    end.lines = [row for row in rows if row.strip() and not _PROGRESS.search(row)]
    return end


@contextmanager
def stopped_at_the_work() -> Iterator[None]:
    """Let commands raise `Reached` where they would load weights: options are to be checked before."""
    with ExitStack() as stack:
        for name in (
            "ex2.vlm.specs._load", "ex2.policy.source.load_policy", "ex2.run.training.run", "ex2.run.dry_run.describe",
            "ex2.scoring.bank.build_bank", "ex2.commands.view.ThreadingHTTPServer", "ex2.analysis.judges.load.load_judge",
            "ex2.export.demo.require_gradio",
        ):  # fmt: skip
            stack.enter_context(patch(name, _reached))
        yield


@contextmanager
def served() -> Iterator[None]:
    """Let `ex2 demo` do without gradio, and raise `Reached` where it would serve its page."""
    gradio = SimpleNamespace(__version__="6.31.0")
    with patch("ex2.export.demo.require_gradio", lambda: gradio), patch("ex2.export.demo.launch", _reached):
        yield


def _reached(*_: Any, **__: Any) -> None:
    raise Reached
