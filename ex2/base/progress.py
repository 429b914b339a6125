"""Progress: bars that move on a terminal; elsewhere at most a line a minute, for logs that people read."""

from __future__ import annotations

import sys
import time
from typing import IO, Any

from tqdm import tqdm

from ex2.base.shown import say

_SECONDS = 60.0  # between two lines of a log, whatever bars they are of
_LINE = "{desc}: {n_fmt} of {total_fmt} {unit}s, {elapsed} gone, {remaining} left{postfix}"


def progress_bar(total: int, desc: str, unit: str, *, file: IO[str] | None = None, **options: Any) -> tqdm[Any]:
    """A tqdm bar for `total` of `unit` (singular); `options` are tqdm's own.

    Where `file` (None: standard error) is no terminal, the states of all bars together are at most one line a minute, and what
    takes less is silent. Call `set_postfix` with ``refresh=False``, as tqdm would look at the clock once more each time.
    """
    file = sys.stderr if file is None else file
    if not file.isatty():
        lines: dict[str, Any] = {"file": _Lines(file), "mininterval": 0, "miniters": 1, "delay": 1e-9, "leave": False}
        return tqdm(total=total, desc=desc, unit=unit, bar_format=_LINE, **(lines | options))
    return tqdm(total=total, desc=desc, unit=unit, file=file, **options)


def announce(phase: str) -> None:
    """Print the line with which a phase begins; the minute before the next line of a log starts anew."""
    say(phase)
    sys.stdout.flush()  # before what the phase writes to standard error
    _Lines.last = time.monotonic()


class _Lines:
    """Takes what tqdm paints over itself, and lets a line through where the log has had none for a minute."""

    last = time.monotonic()  # when the log had its last line, of whatever bar

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, text: str) -> None:
        line, now = text.strip("\r\n "), time.monotonic()
        if line and now - _Lines.last >= _SECONDS:
            self._file.write(f"{line}\n")
            _Lines.last = now

    def flush(self) -> None:
        self._file.flush()
