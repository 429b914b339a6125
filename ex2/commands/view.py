"""`ex2 view`: a page of a run while it runs, on this machine only."""

from __future__ import annotations

import argparse
import re
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from ex2.base.errors import UserError, one_line
from ex2.base.progress import announce
from ex2.base.shown import printable

if TYPE_CHECKING:
    from ex2.run.view import RunView

_HERE = "127.0.0.1"
_TABLE = re.compile(r"/analysis/tables/[a-z_]+\.(csv|parquet)")
_TYPES = {".html": "text/html; charset=utf-8", ".csv": "text/csv; charset=utf-8"}


def add(commands: Any) -> None:
    """Describe the command to the parser."""
    parser = commands.add_parser(
        "view",
        help="look at a run while it runs: texts, rewards, monitors and options on a local page",
        description="Serve a page about the run or study in RUN: what the policy says, rollout by rollout, with its rewards,\n"
        "the learning curve, monitors and options. It renews itself and answers to this machine only. Ctrl-C ends it.",
        epilog="Example: ex2 view runs/quickstart",
    )
    parser.add_argument("folder", type=Path, metavar="RUN", help="folder of a run or study")
    parser.add_argument("--port", type=int, default=8747, metavar="N", help="0: any that is free; default: 8747")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    """Serve until Ctrl-C."""
    with server(arguments.folder, arguments.port) as serving:
        announce(f"http://{_HERE}:{serving.server_port} shows {arguments.folder}; Ctrl-C ends it.")
        serving.serve_forever()


def server(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server of the pages about the run in `folder`, on this machine alone; it serves once it is told to.

    Raises:
        UserError: The folder holds no run, or the port is taken.
    """
    from ex2.run.view import RunView

    view = RunView(folder)
    try:
        return ThreadingHTTPServer((_HERE, port), partial(_Pages, view, Lock()))
    except OSError as error:
        raise UserError(f"--port {port} cannot be used ({error.strerror}): name another one, or 0.") from error


class _Pages(BaseHTTPRequestHandler):
    """Answers with the page, its state and the study's report with its tables; there are no other addresses."""

    def __init__(self, view: RunView, lock: Lock, *arguments: Any) -> None:
        self.view = view
        self.lock = lock  # the view remembers what it has read
        super().__init__(*arguments)

    def do_GET(self) -> None:
        here = {f"{host}:{self.server.server_port}" for host in (_HERE, "localhost")}  # type: ignore[attr-defined]
        if self.headers.get("Host") not in here:  # a page elsewhere whose name leads here
            self.send_error(403)
            return
        address = urlsplit(self.path)
        asked = parse_qs(address.query).get("rollout", [""])[0]
        if address.path in ("/", "/state"):
            try:
                with self.lock:
                    text = (
                        self.view.page()
                        if address.path == "/"
                        else self.view.state(int(asked) if re.fullmatch(r"[0-9]{1,9}", asked) else None)
                    )
            except (UserError, OSError) as error:  # a damaged file, or one that a new run has just taken away
                self.send_error(500, explain=printable(one_line(error)))
                return
            self._answer(text.encode(), _TYPES[".html"])
        elif address.path == "/analysis/report.html" or _TABLE.fullmatch(address.path):
            self._answer_file(self.view.folder / address.path[1:])
        else:
            self.send_error(404)

    def _answer_file(self, path: Path) -> None:
        if path.is_file() and not path.is_symlink():
            self._answer(path.read_bytes(), _TYPES.get(path.suffix, "application/octet-stream"))
        else:
            self.send_error(404)

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing: one request every few seconds is no news."""
