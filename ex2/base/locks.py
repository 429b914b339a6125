"""One process at a time for each output: a lock that dies with its holder, and one line that names the holder."""

from __future__ import annotations

import errno
import logging
import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ex2.base.errors import UserError

logger = logging.getLogger(__name__)

_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}

LOCK = ".ex2.lock"
"""Name of the lock within a folder."""


@contextmanager
def alone_in(folder: Path, option: str) -> Iterator[None]:
    """Keep other EX2 processes out of a folder, which is made where there is none and goes again where it stays empty.

    Args:
        folder: Output folder.
        option: What the user calls it, for the message.

    Raises:
        UserError: Another process works in it, or it cannot be made.
    """
    with _made(folder, f"{option} {folder} cannot be made"), _held(folder / LOCK, f"{option} {folder}"):
        yield


@contextmanager
def alone_at(path: Path, option: str) -> Iterator[None]:
    """Keep other EX2 processes from a file, or from a folder that is replaced as a whole.

    Raises:
        UserError: Another process writes it, or its folder takes no files.
    """
    target = Path(os.path.realpath(path))  # two links to one file are one output
    lock_file = target.with_name(f".ex2-{target.name[:60]}.lock")
    with _made(target.parent, f"{option} {path} cannot be written"), _held(lock_file, f"{option} {path}"):
        yield


@contextmanager
def _made(folder: Path, failure: str) -> Iterator[None]:
    """Make a folder where there is none; it and what was made above it go again where they stay empty."""
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]  # the innermost first
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{failure} ({error.strerror}): name another one.") from error
    try:
        yield
    finally:
        with suppress(OSError):  # folders that something was written into stay
            for parent in made:
                parent.rmdir()


@contextmanager
def _held(lock_file: Path, what: str) -> Iterator[None]:
    """Hold a lock file, which names the holder while it is held, and is taken away in the end."""
    note = f"process {os.getpid()} on {platform.node()}".encode()

    def sign(descriptor: int) -> None:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, note, 0)

    lock = FileLock(lock_file, timeout=0, on_acquired=sign)
    try:
        lock.acquire()
        locked = True
    except Timeout:
        holder = ""
        with suppress(OSError):
            holder = lock_file.read_text(encoding="utf-8", errors="replace")
        if not holder:  # filelock also waits for one where no file can be made, as within /proc
            try:
                tempfile.TemporaryFile(dir=lock_file.parent).close()
            except OSError as error:
                raise UserError(f"{what} cannot be written ({error.strerror}): name another one.") from None
        raise UserError(
            f"{what} is in use by {holder or 'another process'}: wait until it has ended, or name another one."
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise UserError(f"{what} cannot be written ({error.strerror}): name another one.") from error
        logger.warning("%s lies on a file system without locks: two processes at once would not notice.", what)
        locked = False
    try:
        yield
    finally:
        # While it is held: whoever has opened it by now sees that the file is gone, and starts over.
        lock_file.unlink(missing_ok=True)
        if locked:
            lock.release()
