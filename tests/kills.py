"""Kills before a chosen file operation or at a chosen moment, in a forked process: quick, as nothing is imported again."""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

_OPERATIONS = (
    "os.open",
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.link",
    "os.truncate",
    "shutil.rmtree",
    "open",
)


def killed_before(operation: int, action: Callable[[], object], within: str) -> bool:
    """Run `action` in a child that dies before its nth operation that changes something below the folder `within`.

    Returns:
        Whether it died there; False: it ended by itself before.
    """
    seen = 0

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event not in _OPERATIONS or not any(within in str(part) for part in arguments[:2]):
            return
        if event in ("open", "os.open") and not _writes(arguments):
            return
        seen += 1
        if seen == operation:
            os._exit(9)

    status = ended(started(action, lambda: sys.addaudithook(watch)))
    assert status in (0, 9), f"the command failed with status {status}"
    return status == 9


def killed_after(seconds: float, action: Callable[[], object]) -> bool:
    """Run `action` in a child that is killed when it has computed for so many seconds, wherever it is: in a library too.

    Returns:
        Whether it was killed; False: it ended by itself before.
    """
    child = started(action)
    process = psutil.Process(child)
    with suppress(psutil.Error):
        while process.status() != psutil.STATUS_ZOMBIE and sum(process.cpu_times()[:2]) < seconds:
            time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    status = ended(child)
    assert status in (0, -signal.SIGKILL), f"the command failed with status {status}"
    return status != 0


def killed_once_written(file: Path, size: int, action: Callable[[], object]) -> None:
    """Run `action` in a child that is killed as soon as it has written so many bytes of a file."""
    child = started(action)
    try:
        deadline = time.monotonic() + 120
        while not file.exists() or file.stat().st_size < size:
            assert psutil.Process(child).status() != psutil.STATUS_ZOMBIE, "it finished before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        os.kill(child, signal.SIGKILL)
        ended(child)


def started(action: Callable[[], object], prepare: Callable[[], object] = lambda: None) -> int:
    """Run `action` in a child without output, once it has run `prepare`; its process id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of later Pythons, where libraries have started threads
        child = os.fork()
    if child == 0:
        status = 1
        try:
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), 1)
                os.dup2(nowhere.fileno(), 2)
            prepare()
            action()
            status = 0
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
        finally:
            os._exit(status)
    return child


def ended(child: int) -> int:
    """The exit status of a child, once it has ended; minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _writes(arguments: tuple[object, ...]) -> bool:
    flags = arguments[2]
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
