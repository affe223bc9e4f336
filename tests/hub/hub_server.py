"""A Hub on loopback that the genuine clients accept: `python hub_server.py --root DIR --port-file FILE [--port N]`."""

import argparse
import json
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

sys.path.insert(0, str(Path(__file__).parents[1]))
from hub import descriptions, transfers
from hub.repositories import Refusal, Repositories, Repository, check_repository_id, write_atomically

# Each may write what is under its own name.
USERS = {f"hf_{name}": name for name in ("owner", "reader", "uoft-cs", "fancyzhx")}
CHUNK_BYTES = 64 * 1024


class Faults:
    """What was ordered to go wrong, and what was asked of this server since the last reset."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.bytes_to_live: int | None = None
        self.failing: list[dict[str, Any]] = []
        self.requests: list[list[Any]] = []  # method, path, bytes of the body that travelled, status

    def order(self, control: dict[str, Any]) -> None:
        if control.get("reset"):
            self.reset()
        if "die_after_bytes" in control:
            self.bytes_to_live = control["die_after_bytes"]
        if "fail" in control:
            self.failing.append({"times": 1, "status": 503, **control["fail"]})

    def check(self, method: str, path: str) -> None:
        """Raise if this request was ordered to fail."""
        for fault in self.failing:
            if fault["times"] > 0 and fault["path_contains"] in path and fault.get("method", method) == method:
                fault["times"] -= 1
                raise Refusal(fault["status"], "Ordered to fail")

    def received(self, size: int) -> int:
        """Die when as many bytes of LFS files have come as were ordered; return how many may be read at once."""
        if self.bytes_to_live is None:
            return CHUNK_BYTES
        self.bytes_to_live -= size
        if self.bytes_to_live <= 0:
            os._exit(1)
        return min(CHUNK_BYTES, self.bytes_to_live)


class HubServer(ThreadingHTTPServer):
    """The repositories and the faults that all connections share."""

    daemon_threads = True

    def __init__(self, port: int, root: Path) -> None:
        super().__init__(("127.0.0.1", port), Connection)
        self.repositories = Repositories(root)
        self.faults = Faults()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report what is wrong with this server, not that a client went away."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Connection(BaseHTTPRequestHandler):
    """One connection. The routes at the end of this file name the function that answers a request."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = CHUNK_BYTES
    server: HubServer

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: tests read the requests from /_control."""

    def handle_request(self) -> None:
        url = urlsplit(self.path)
        self.query = parse_qs(url.query, keep_blank_values=True)
        self.unread = True
        self.record: list[Any] = [self.command, unquote(url.path), 0, 0]
        if url.path != "/_control":
            self.server.faults.requests.append(self.record)
        try:
            if url.path != "/_control":
                self.server.faults.check(self.command, url.path)
            for methods, pattern, answer in ROUTES:
                match = pattern.fullmatch(url.path)
                if match and self.command in methods.split():
                    self.authenticate()
                    answer(self, **{name: unquote(value or "") for name, value in match.groupdict().items()})
                    return
            raise Refusal(404, f"This Hub has no {self.command} {url.path}")
        except Refusal as refusal:
            self.refuse(refusal)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request

    # Reading and answering

    def body_chunks(self, step: Callable[[int], int] = lambda size: CHUNK_BYTES) -> Iterator[bytes]:
        """Yield the body as it comes; `step` is told what came and says how much to read next."""
        self.unread = False
        chunked = self.headers.get("Transfer-Encoding", "").lower() == "chunked"
        remaining = 0 if chunked else int(self.headers.get("Content-Length") or 0)
        limit = step(0)
        while True:
            if chunked and not remaining:
                remaining = int(self.rfile.readline().split(b";")[0], 16)
                if not remaining:
                    self.rfile.readline()
                    return
            elif not remaining:
                return
            piece = self.rfile.read(min(remaining, limit))
            if not piece:
                raise ConnectionError("the client went away")
            remaining -= len(piece)
            if chunked and not remaining:
                self.rfile.readline()
            self.record[2] += len(piece)
            limit = step(len(piece))
            yield piece

    def body(self) -> bytes:
        return b"".join(self.body_chunks())

    def json_body(self) -> Any:
        return json.loads(self.body() or b"{}")

    def start(self, status: int, size: int, content_type: str, **headers: str) -> None:
        if self.unread:
            for _ in self.body_chunks():  # or the next request on this connection would begin inside this one
                pass
        self.record[3] = status
        self.send_response(status)
        for name, value in {"Content-Type": content_type, "Content-Length": str(size), **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def send(self, value: Any, status: int = 200, **headers: str) -> None:
        self.send_text(json.dumps(value, default=str), status, "application/json", **headers)

    def send_text(self, text: str, status: int = 200, content_type: str = "text/plain", **headers: str) -> None:
        content = text.encode()
        self.start(status, len(content), f"{content_type}; charset=utf-8", **headers)
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, refusal: Refusal) -> None:
        message = re.sub(r"[^\x20-\x7e]", " ", refusal.message)[:500]
        code = {"X-Error-Code": refusal.code} if refusal.code else {}
        self.send(
            {"error": refusal.message}, refusal.status, **code, **{"X-Error-Message": message}, **refusal.headers
        )

    # Who may do what

    def authenticate(self) -> None:
        given = self.headers.get("Authorization")
        self.user = USERS.get(given.removeprefix("Bearer ")) if given else None
        if given and self.user is None:
            raise Refusal(401, "Invalid credentials in Authorization header")

    def readable(self, kind: str, id: str) -> Repository:
        found = self.server.repositories.find(kind or "models", id)
        if found and not (found.private and id.split("/")[0] != self.user):
            return found
        # A 401 without this code means a missing repository to the clients too, but over https alone.
        raise Refusal(404 if self.user else 401, "Repository not found", "RepoNotFound")

    def writable(self, kind: str, id: str) -> Repository:
        found = self.readable(kind, id)
        self.check_namespace(id.split("/")[0])
        return found

    def check_namespace(self, owner: str) -> None:
        if self.user is None:
            raise Refusal(401, "Invalid username or password.")
        if self.user != owner:
            raise Refusal(403, f"You don't have the rights to write under the namespace {owner!r}")

    def url(self, kind: str, id: str) -> str:
        """Return the address of a repository's page."""
        return f"http://{self.headers['Host']}/{'datasets/' if kind == 'datasets' else ''}{id}"


def control(connection: Connection) -> None:
    """Order faults, tell what was asked."""
    faults = connection.server.faults
    if connection.command == "POST":
        faults.order(connection.json_body())
    counts = Counter(f"{method} {path}" for method, path, *_ in faults.requests)
    connection.send({"requests": faults.requests, "counts": counts})


def whoami(connection: Connection) -> None:
    if connection.user is None:
        raise Refusal(401, "Invalid username or password.")
    token = {"displayName": "tests", "role": "write", "createdAt": "2026-01-01T00:00:00.000Z"}
    user = {"type": "user", "id": connection.user, "name": connection.user, "fullname": connection.user}
    auth = {"type": "access_token", "accessToken": token}
    connection.send({**user, "email": "user@localhost", "isPro": False, "orgs": [], "auth": auth})


def create_or_delete(connection: Connection, action: str) -> None:
    wanted = connection.json_body()
    kind, owner = f"{wanted.get('type') or 'model'}s", wanted.get("organization") or connection.user
    repo_id = f"{owner}/{wanted.get('name')}"
    if kind not in ("models", "datasets"):
        raise Refusal(400, f"This Hub holds models and datasets, not {kind}")
    repositories = connection.server.repositories
    with repositories.lock:
        if action == "create":
            check_repository_id(repo_id)
            connection.check_namespace(str(owner))
            if repositories.find(kind, repo_id):
                known = {"error": "You already created this repo", "url": connection.url(kind, repo_id)}
                connection.send(known, 409)
                return
            repositories.create(kind, repo_id, is_private(wanted))
        else:
            repositories.delete(connection.writable(kind, repo_id))
    connection.send({"url": connection.url(kind, repo_id), "name": repo_id})


def settings(connection: Connection, kind: str, id: str) -> None:
    wanted = connection.json_body()
    with connection.server.repositories.lock:
        repository = connection.writable(kind, id)
        repository.state["private"] = is_private(wanted)
        repository.save()
    connection.send({"private": repository.private})


def is_private(wanted: dict[str, Any]) -> bool:
    return wanted.get("visibility") == "private" or bool(wanted.get("private"))


API, ID, REV, PATH = "/api/(?P<kind>models|datasets)", "(?P<id>[^/]+(?:/[^/]+)?)", "(?P<rev>[^/]+)", "(?P<path>.+)"
GIT = f"(?:/(?P<kind>datasets))?/{ID}"
ROUTES = [
    (methods, re.compile(pattern), answer)
    for methods, pattern, answer in (
        ("GET POST", "/_control", control),
        ("GET", "/api/whoami-v2", whoami),
        ("POST", "/api/validate-yaml", transfers.validate_card),
        ("POST", "/api/repos/(?P<action>create)", create_or_delete),
        ("DELETE", "/api/repos/(?P<action>delete)", create_or_delete),
        ("PUT", f"{API}/{ID}/settings", settings),
        ("GET", API, descriptions.list_repositories),
        ("GET", f"{API}/{ID}", descriptions.describe),
        ("GET", f"{API}/{ID}/revision/{REV}", descriptions.describe),
        ("GET", f"{API}/{ID}/tree/{REV}(?:/{PATH})?", descriptions.list_tree),
        ("POST", f"{API}/{ID}/paths-info/{REV}", descriptions.describe_paths),
        ("GET", f"{API}/{ID}/refs", descriptions.list_references),
        ("GET", f"{API}/{ID}/commits/{REV}", descriptions.list_commits),
        ("POST DELETE", f"{API}/{ID}/branch/{REV}", descriptions.change_branch),
        ("POST DELETE", f"{API}/{ID}/tag/{REV}", descriptions.change_tag),
        ("POST", f"{API}/{ID}/preupload/{REV}", transfers.choose_upload_modes),
        ("POST", f"{API}/{ID}/commit/{REV}", transfers.commit),
        ("POST", rf"{GIT}\.git/info/lfs/objects/batch", transfers.lfs_batch),
        ("PUT", f"/_lfs/(?P<kind>models|datasets)/{ID}/(?P<sha256>[0-9a-f]{{64}})", transfers.lfs_upload),
        ("POST", f"/_lfs/(?P<kind>models|datasets)/{ID}/(?P<sha256>[0-9a-f]{{64}})/verify", transfers.lfs_verify),
        ("GET HEAD", f"{GIT}/resolve/{REV}/{PATH}", transfers.download),
        ("GET HEAD", f"(?!/api/){GIT}", descriptions.page),
    )
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder of the repositories, kept between runs")
    parser.add_argument("--port-file", type=Path, required=True, help="file to write the port to, once it is open")
    parser.add_argument("--port", type=int, default=0, help="port to open; a free one if not given")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end with the process that started this one")
    arguments = parser.parse_args()
    server = HubServer(arguments.port, arguments.root)
    write_atomically(arguments.port_file, str(server.server_port).encode())
    if arguments.until_stdin_closes:
        threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    main()
