"""A Hugging Face Hub on this machine for the tests: real-shaped files over real sockets, and every fault."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What is served and how it goes wrong; `asked` holds (path, Range, Authorization) of every request."""

    folder: Path
    repo: str = "me/tiny"
    address: str = ""
    faults: dict[str, str] = field(default_factory=dict)
    """File ('' for the listing) -> fault."""
    first_only: set[str] = field(default_factory=set)
    """Files whose fault passes after the first request."""
    token: str = ""
    elsewhere: str = ""
    """Where a redirect leads."""
    listed: list[str] | None = None
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    sent_bytes: int = 0

    def files(self) -> list[str]:
        found = [path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()]
        return sorted(found) if self.listed is None else self.listed

    def paths(self) -> list[str]:
        return [path for path, _, _ in self.asked]

    def fault_of(self, name: str) -> str:
        fault = self.faults.get(name, "")
        if name in self.first_only:
            self.faults.pop(name, None)
        return fault


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Within it, the hub answers at `hub.address`."""

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        hub.asked.append((path, self.headers.get("Range", ""), self.headers.get("Authorization", "")))
        self.close_connection = True
        try:
            if path == f"/api/models/{hub.repo}/revision/main" or path == f"/api/models/{hub.repo}/revision/{COMMIT}":
                self._listing()
            elif path.startswith("/cdn/"):
                self._file(path.removeprefix("/cdn/"), "")
            elif path.startswith(f"/{hub.repo}/resolve/{COMMIT}/"):
                name = path.removeprefix(f"/{hub.repo}/resolve/{COMMIT}/")
                self._file(name, hub.fault_of(name))
            elif f"/{hub.repo}/revision/" in path:
                self._refuse(404, "RevisionNotFound")
            else:
                self._refuse(401, "RepoNotFound")
        except (BrokenPipeError, ConnectionResetError):
            pass

    def _listing(self) -> None:
        content = {"sha": COMMIT, "siblings": [{"rfilename": name} for name in self.hub.files()]}
        body = json.dumps(content).encode()
        fault = self.hub.fault_of("")
        if fault and self._wrong(fault, "", body):
            return
        self._answer(200, body, {"Content-Type": "application/json"})

    def _file(self, name: str, fault: str) -> None:
        path = self.hub.folder / name
        if not path.is_file():
            self._refuse(404, "EntryNotFound")
            return
        size, wanted = path.stat().st_size, self.headers.get("Range", "")
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", wanted)
        first, last = (int(match[1]), min(int(match[2]), size - 1)) if match else (0, size - 1)
        if fault == "range ignored":
            first, last, match = 0, size - 1, None
        if match and first >= size:
            self._answer(416, b"", {"Content-Range": f"bytes */{size}"})
            return
        with path.open("rb") as file:
            file.seek(first)
            # Of a whole file only as much as could matter is put on the wire, as a client hangs up long before.
            body = file.read(last - first + 1 if match else min(size, 2**20))
        headers = {"Content-Range": f"bytes {first}-{last}/{size}"} if match else {}
        if fault and fault != "range ignored" and self._wrong(fault, name, body, headers):
            return
        self._answer(206 if match else 200, body, headers, length=last - first + 1)

    def _wrong(self, fault: str, name: str, body: bytes, headers: dict[str, str] | None = None) -> bool:
        match fault:
            case "gated":
                self._refuse(403 if self.hub.token else 401, "GatedRepo")
            case "unauthorized":
                self._refuse(401, "")
            case "limited":
                self._answer(429, b"", {"Retry-After": "37"})
            case "absent":
                self._refuse(404, "EntryNotFound")
            case "broken":
                self._answer(503, b"", {})
            case "teapot":
                self._answer(418, b"", {})
            case "slow":
                time.sleep(0.6)
            case "drip":
                self._head(206 if headers else 200, headers or {}, len(body))
                for place in range(len(body)):
                    self.wfile.write(body[place : place + 1])
                    self.wfile.flush()
                    time.sleep(0.01)
            case "truncated":
                self._answer(206 if headers else 200, body[: len(body) // 2], headers or {}, length=len(body))
            case "length too small":
                self._answer(206 if headers else 200, body, headers or {}, length=len(body) // 2)
            case "length too large":
                self._answer(206 if headers else 200, body, headers or {}, length=len(body) + 1000)
            case "another range":
                self._answer(206, body, {"Content-Range": f"bytes 7-{len(body) + 6}/{len(body) + 7}"})
            case "huge":
                self._answer(206, body, {"Content-Range": f"bytes 0-{len(body) - 1}/{10**30}"})
            case "page":
                self._answer(200, b"<html>Log in first</html>", {})
            case "other list":
                self._answer(200, b'{"sha": 7}', {})
            case "redirect":
                self._answer(302, b"moved", {"Location": f"{self.hub.elsewhere}/cdn/{name}"})
            case "redirect here":
                self._answer(307, b"moved", {"Location": f"/cdn/{name}"})
            case "redirect round":
                self._answer(302, b"", {"Location": self.path})
            case "redirect to a file":
                self._answer(302, b"", {"Location": "file:///etc/passwd"})
            case "hangs up":
                self.wfile.flush()
            case _:
                raise AssertionError(fault)
        return True

    def _refuse(self, status: int, code: str) -> None:
        self._answer(status, b"no", {"X-Error-Code": code} if code else {})

    def _answer(self, status: int, body: bytes, headers: dict[str, str], *, length: int | None = None) -> None:
        self._head(status, headers, len(body) if length is None else length)
        self.wfile.write(body)
        self.hub.sent_bytes += len(body)

    def _head(self, status: int, headers: dict[str, str], length: int) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(length), "Connection": "close", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
