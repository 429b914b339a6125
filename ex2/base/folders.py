"""Output folders of several files: free or of the same kind, one process at a time, and "unfinished" while they are written.

Each file is written atomically, but a process may be killed between two of them. A mark says so from the first to the last: what
is left is refused by readers and taken up by the command that writes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ex2.base.errors import UserError
from ex2.base.files import is_temporary, sweep, write_atomically
from ex2.base.locks import LOCK, alone_in

UNFINISHED = ".ex2-unfinished"
"""Name of the mark; it holds what the folder will hold."""


@contextmanager
def output_folder(folder: Path, marker: str, content: str, option: str = "--out") -> Iterator[None]:
    """Keep a folder for this process, once it has been seen to be free.

    Args:
        folder: Output folder.
        marker: File that tells a folder of the same kind, which may be written again.
        content: What that is, such as "analysis".
        option: What the user calls the folder.

    Raises:
        UserError: It is a file, holds something else, cannot be made, or another process writes it.
    """
    check_free(folder, marker, content, option)
    with alone_in(folder, option):
        check_free(folder, marker, content, option)  # as the process before has left it
        sweep(folder)
        yield


def check_free(folder: Path, marker: str, content: str, option: str = "--out") -> None:
    """Raise UserError where `folder` is a file, or holds other things than `content`; nothing is made."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{option} {folder} is a file: name a folder.")
    if not folder.is_dir() or (folder / marker).is_file() or unfinished(folder) == content:
        return
    if not is_empty(folder):
        raise UserError(f"{option} {folder} is not empty and holds no {content}: name another folder.")


def is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing but a lock and temporary files."""
    return all(path.name == LOCK or is_temporary(path) for path in folder.iterdir())


@contextmanager
def being_written(folder: Path, content: str) -> Iterator[None]:
    """Mark a folder as unfinished; the mark goes at the end, and stays after an error or a kill."""
    write_atomically(folder / UNFINISHED, content.encode())
    yield
    (folder / UNFINISHED).unlink()


def unfinished(folder: Path) -> str | None:
    """What a folder would hold if it had been finished; None where it is, or holds nothing of EX2's."""
    mark = folder / UNFINISHED
    return mark.read_text(encoding="utf-8", errors="replace") if mark.is_file() else None
