"""A hub for tests on this machine: the few addresses that huggingface_hub asks to make, list, fill and read repositories."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

Files = dict[str, bytes]


class Hub:
    """What the stand-in holds.

    Attributes:
        repositories: The files of each repository, by its id after `models/` or `datasets/`.
        private: Those that were made private.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Files] = {}
        self.private: set[str] = set()

    def revision(self, name: str) -> str:
        """A commit id, which changes with the files."""
        content = b"".join(path.encode() + data for path, data in sorted(self.repositories[name].items()))
        return hashlib.sha1(content).hexdigest()


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: Hub, *arguments: Any) -> None:
        self.hub = hub
        super().__init__(*arguments)

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self._body()
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['type']}s/{wanted['organization']}/{wanted['name']}"
            there = name in self.hub.repositories
            if not there:
                self.hub.repositories[name] = {}
                if wanted.get("visibility") == "private":
                    self.hub.private.add(name)
            self._send({"url": f"{self._here()}/{name.removeprefix('models/')}"}, 409 if there else 200)
        elif path == "/api/validate-yaml":
            self._send({"errors": [], "warnings": []})
        elif match := re.fullmatch(r"/api/(.+)/preupload/main", path):
            # All files come in the commit itself, none by LFS.
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            self._send({"files": files})
        elif match := re.fullmatch(r"/api/(.+)/commit/main", path):
            name = match[1]
            for step in map(json.loads, body.splitlines()):
                if step["key"] == "file":
                    self.hub.repositories[name][step["value"]["path"]] = base64.b64decode(step["value"]["content"])
                elif step["key"] == "deletedFile":
                    del self.hub.repositories[name][step["value"]["path"]]
            oid = self.hub.revision(name)
            self._send(
                {
                    "success": True,
                    "commitOid": oid,
                    "commitUrl": f"{self._here()}/{name.removeprefix('models/')}/commit/{oid}",
                }
            )
        else:
            self._send({"error": path}, 404)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if match := re.fullmatch(r"/(.+)/resolve/[^/]+/(.+)", path):
            name = match[1] if match[1].startswith("datasets/") else f"models/{match[1]}"
            data = self.hub.repositories.get(name, {}).get(match[2])
            if data is not None:
                self._send(
                    data,
                    headers={"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": self.hub.revision(name)},
                )
                return
        elif match := re.fullmatch(r"/api/((?:models|datasets)/[^/]+/[^/]+)(/tree/[^/]+|/revision/[^/]+)?", path):
            name, what = match[1], match[2] or ""
            if (files := self.hub.repositories.get(name)) is not None:
                sha = self.hub.revision(name)
                listed = [
                    {"type": "file", "path": p, "size": len(d), "oid": hashlib.sha1(d).hexdigest()}
                    for p, d in files.items()
                ]
                about = {"id": name.partition("/")[2], "sha": sha, "siblings": [{"rfilename": p} for p in files]}
                self._send(listed if what.startswith("/tree/") else about)
                return
        self._send(
            {"error": path}, 404, {"X-Error-Code": "RepoNotFound" if path.startswith("/api/") else "EntryNotFound"}
        )

    do_HEAD = do_GET

    def _here(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"  # type: ignore[attr-defined]

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch, cache: str) -> Iterator[Hub]:
    """A hub that huggingface_hub takes for the real one, with an empty cache of what was fetched."""
    hub = Hub()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Answers, hub)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        for name, value in {
            "ENDPOINT": endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": endpoint + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_CACHE": cache,
            "HF_HUB_DISABLE_XET": True,
        }.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        yield hub
        server.shutdown()
        thread.join()
