"""A Hub on this machine for tests of downloads: one repository or several, and every way of going wrong."""

import hashlib
import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

COMMIT = "c0ffee" + "0" * 34
REVISIONS = ("main", "v1", COMMIT)


class FakeHub:
    """What it holds, how it answers, what it was asked."""

    def __init__(self) -> None:
        self.repo = "someone/model"
        self.revisions: tuple[str, ...] = REVISIONS
        self.files: dict[str, bytes] = {}
        self.listed: list[dict[str, Any]] = []
        """What the listing of models says."""
        self.failure: tuple[int, dict[str, str]] | None = None
        """Status and headers of every answer."""
        self.broken: set[str] = {"HEAD", "GET"}
        """Methods that `failure` is about."""
        self.cut: int | None = None
        """Bytes of each body after which the connection is closed."""
        self.stalls = False
        """Whether the connection stays open after the cut, in silence."""
        self.sends_length = True
        self.answers: dict[str, bytes] = {}
        """Bodies other than those announced."""
        self.storage: str | None = None
        """Another server to which weights are redirected, as the Hub does with large files."""
        self.requests: list[str] = []
        self.tokens: list[str | None] = []
        self.released = threading.Event()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                fake.answer(self)

            do_GET = do_HEAD

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()

    def heal(self) -> None:
        """Be a Hub as it should be again."""
        self.failure, self.cut, self.stalls, self.sends_length, self.answers = None, None, False, True, {}

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.requests.append(f"{request.command} {request.path}")
        self.tokens.append(request.headers.get("Authorization"))
        if self.failure is not None and request.command in self.broken:
            self.send(request, *self.failure)
            return
        if urlsplit(request.path).path == "/api/models":
            asked = parse_qs(urlsplit(request.path).query)
            found = [
                model
                for model in self.listed
                if model["id"].startswith(f"{asked['author'][0]}/") and set(asked["filter"]) <= set(model["tags"])
            ]
            self.send(request, 200, {}, json.dumps(found).encode())
            return
        if request.path.startswith("/api/models/"):
            listing = {"id": self.repo, "siblings": [{"rfilename": name} for name in self.files]}
            self.send(request, 200, {}, json.dumps(listing).encode())
            return
        if request.path.startswith("/storage/"):
            self.send(request, 200, {}, self.files[request.path.rpartition("/")[2]])
            return
        match = re.fullmatch(rf"/{self.repo}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", request.path)
        if match is None:
            self.send(request, 404, {"X-Error-Code": "RepoNotFound"})
        elif match["revision"] not in self.revisions:
            self.send(request, 404, {"X-Error-Code": "RevisionNotFound"})
        elif match["file"] not in self.files:
            self.send(request, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        else:
            data = self.files[match["file"]]
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
            if self.storage is None or not match["file"].endswith(".safetensors"):
                self.send(request, 200, headers, data)
                return
            headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(data))}
            headers["Location"] = f"{self.storage}/storage/{match['file']}"
            self.send(request, 302, headers)

    def send(self, request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], data: bytes = b"") -> None:
        request.send_response(status)
        if self.sends_length or request.command == "HEAD":
            headers = {"Content-Length": str(len(data)), **headers}
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command != "GET":
            return
        data = self.answers.get(request.path.rpartition("/")[2], data)
        request.wfile.write(data[: self.cut])
        request.wfile.flush()
        if self.cut is not None:
            request.close_connection = True
            if self.stalls:
                self.released.wait(60)


def dead_endpoint() -> str:
    """A port of this machine on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def kept(cache_dir: Path) -> list[str]:
    """Files and references in a cache, but for the marks of the library."""
    names = [path.name for path in cache_dir.rglob("*") if path.is_file()]
    return [name for name in names if name not in ("CACHEDIR.TAG", ".gitignore")]
