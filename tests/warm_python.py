"""A Python for tests that start processes: it is forked instead of started, so that it has imported the slow libraries already.

`Warm(folder).executable` takes the place of `sys.executable`. It is a small program that hands its arguments, environment,
folder, standard streams and signals to a server. That was a fresh Python once, has imported what a run needs, and forks for
each program: a process with an environment, an `__main__` and an exit status of its own, without the ten seconds that torch,
transformers and TRL take. What is about imports, their warnings or an installation needs `sys.executable`, as does what sets a
variable that libraries read when they are imported (HF_HOME, HF_HUB_OFFLINE): they have read the server's.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import gc
import json
import os
import random
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import types
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PRELOADED = (
    "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "pytest", "torch.distributed.run",
    "transformers.models.bert.modeling_bert", "transformers.models.llama.modeling_llama", "ex2.analysis.judges.local",
    "ex2.analysis.pipeline", "ex2.analysis.report", "ex2.cli", "ex2.run.training", "ex2.vlm.pictogram", "ex2.zero_shot.systems",
)  # fmt: skip

_PROGRAM = """#!{python} -SE
import array, json, os, signal, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    request = json.dumps([sys.argv, os.getcwd(), dict(os.environ)]).encode()
    streams = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))]
    server.sendmsg([len(request).to_bytes(8, "big")], streams)
    server.sendall(request)
    answers = server.makefile("r")
    child = int(answers.readline())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: os.kill(child, number))
    status = int(answers.readline())
if status < 0:
    signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


class Warm:
    """The server and its programs, `python` and `ex2`.

    Args:
        folder: An empty folder for the programs.
    """

    def __init__(self, folder: Path) -> None:
        # A socket's address is at most 107 bytes long.
        self._sockets = tempfile.TemporaryDirectory(prefix="warm")
        address = f"{self._sockets.name}/socket"
        self.executable = folder / "python"
        self.executable.write_text(_PROGRAM.format(python=sys.executable, address=address), encoding="utf-8")
        command = folder / "ex2"
        command.write_text(
            f'#!/bin/sh\nexec {self.executable} -c "from ex2.cli import main; main()" "$@"\n', encoding="utf-8"
        )
        for program in (self.executable, command):
            program.chmod(0o755)
        usual = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
        environment = usual | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.warm_python", address, str(self.executable)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
        )
        while not Path(address).exists():
            assert self._server.poll() is None, "the server of forked processes has failed"
            time.sleep(0.05)

    def close(self) -> None:
        """End the server, and what it has started."""
        self._server.communicate()
        self._sockets.cleanup()


# ---------------------------------------------------------------- the server


def serve(address: str, executable: str) -> None:
    """Import, then fork for each request, until standard input ends: with the process that started this one."""
    from ex2.launch import keep_quiet, use_cores_well

    use_cores_well()
    keep_quiet()
    for name in PRELOADED:
        __import__(name)
    warnings.resetwarnings()
    warnings.simplefilter("default")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    keep_quiet()
    gc.collect()
    gc.freeze()  # nothing of it is ever collected: a child that looks for garbage passes over it
    chosen = selectors.DefaultSelector()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{address}.new")
    listener.listen(16)
    os.rename(f"{address}.new", address)  # whoever sees it can connect
    chosen.register(listener, selectors.EVENT_READ)
    chosen.register(sys.stdin, selectors.EVENT_READ)
    running: dict[int, tuple[int, socket.socket]] = {}
    while True:
        for key, _ in chosen.select():
            if key.fileobj is sys.stdin:
                for child, _ in running.values():
                    os.kill(child, signal.SIGKILL)
                os._exit(0)
            if key.fileobj is listener:
                connection, _ = listener.accept()
                child = _start(connection, executable)
                ends = os.pidfd_open(child)
                running[ends] = (child, connection)
                chosen.register(ends, selectors.EVENT_READ)
                _tell(connection, child)
            else:
                ends = key.fd
                child, connection = running.pop(ends)
                chosen.unregister(ends)
                os.close(ends)
                _tell(connection, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
                connection.close()


def _tell(connection: socket.socket, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # the program was killed
        connection.sendall(f"{number}\n".encode())


def _start(connection: socket.socket, executable: str) -> int:
    """Fork for one request; the child's process id."""
    streams = array.array("i", [0, 0, 0])
    head, attached, *_ = connection.recvmsg(8, socket.CMSG_SPACE(streams.itemsize * 3))
    streams = array.array("i", attached[0][2])
    request = connection.makefile("rb").read(int.from_bytes(head, "big"))
    child = os.fork()
    if child == 0:
        os._exit(_run(json.loads(request), streams, executable))
    for stream in streams:
        os.close(stream)
    return child


# ---------------------------------------------------------------- a child


def _run(request: tuple[list[str], str, dict[str, str]], streams: Sequence[int], executable: str) -> int:
    """Be the process that was asked for; its exit status."""
    (_, *line), folder, environment = request
    for place, stream in enumerate(streams):
        os.dup2(stream, place)
    os.closerange(3, 1024)  # the server's own
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    unbuffered = "PYTHONUNBUFFERED" in environment or line[0] == "-u"
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 (they stay open to the end)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, errors="backslashreplace", buffering=1)  # noqa: SIM115
    sys.stdout.reconfigure(write_through=unbuffered)
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    sys.executable = executable
    sys.path[:] = [*filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)), *sys.path[1:]]
    random.seed()
    sys.modules["numpy"].random.seed()  # type: ignore[attr-defined]
    status = 1
    try:
        _execute(line)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    threading._shutdown()  # type: ignore[attr-defined]  # as at the end of every Python
    atexit._run_exitfuncs()
    for opened in (sys.stdout, sys.stderr):
        opened.flush()
    return status


def _execute(line: list[str]) -> None:
    """`-c CODE`, `-m MODULE` or a file, with its arguments."""
    line = line[line[0] == "-u" :]
    if line[0] == "-c":
        main: Any = types.ModuleType("__main__")
        sys.modules["__main__"] = main
        sys.path.insert(0, "")
        sys.argv = ["-c", *line[2:]]
        exec(compile(line[1], "<string>", "exec"), main.__dict__)
    elif line[0] == "-m":
        sys.path.insert(0, os.getcwd())
        sys.argv = line[1:]
        sys.modules.pop(line[1], None)
        runpy.run_module(line[1], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(line[0]).resolve().parent))
        sys.argv = line
        runpy.run_path(line[0], run_name="__main__")


if __name__ == "__main__":
    serve(*sys.argv[1:])
