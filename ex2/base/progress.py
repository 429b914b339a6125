"""Progress bars: one that moves on a terminal; elsewhere a line a minute and one at the end, for logs that people read."""

from __future__ import annotations

import sys
from typing import IO, Any

from tqdm import tqdm

_SECONDS = 60.0  # between two lines of a log
_LINE = "{desc}: {n_fmt} of {total_fmt} {unit}s, {elapsed} gone, {remaining} left{postfix}"


def progress_bar(total: int, desc: str, unit: str, *, file: IO[str] | None = None, **options: Any) -> tqdm[Any]:
    """A tqdm bar for `total` of `unit` (singular); `options` are tqdm's own.

    Where `file` (None: standard error) is no terminal, each state of the bar is a line of its own, at most one a minute; what
    takes less leaves only its last line. Call `set_postfix` with ``refresh=False``: it would write a line each time.
    """
    file = sys.stderr if file is None else file
    if not file.isatty():
        lines: dict[str, Any] = {
            "file": _Lines(file),
            "mininterval": _SECONDS,
            "miniters": 1,
            "delay": 1e-3,
            "bar_format": _LINE,
        }
        return _Log(total=total, desc=desc, unit=unit, **(lines | options))
    return tqdm(total=total, desc=desc, unit=unit, file=file, **options)


class _Log(tqdm):
    """A bar that leaves its last line even if it has shown nothing before."""

    def close(self) -> None:
        self.delay = 0.0  # for which tqdm would have kept silent
        super().close()


class _Lines:
    """Takes what tqdm paints over itself, and writes it as lines, none of them twice in a row."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._last = ""

    def write(self, text: str) -> None:
        line = text.strip("\r\n ")
        if line and line != self._last:
            self._file.write(f"{line}\n")
            self._last = line

    def flush(self) -> None:
        self._file.flush()
