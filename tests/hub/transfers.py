"""How the test Hub takes files in and gives them out: upload modes, LFS, commits, cards, downloads."""

import base64
import hashlib
import json
import os
import re
import uuid
from typing import TYPE_CHECKING, Any

from hub import card_rules
from hub.repositories import Refusal, Repository, Tree, check_path

if TYPE_CHECKING:
    from hub.hub_server import Connection

CHUNK_BYTES = 256 * 1024


def validate_card(connection: "Connection") -> None:
    errors, warnings = card_rules.faults(connection.json_body()["content"])
    if connection.headers.get("Accept") == "text/plain":  # so asks `ModelCard.validate`, to show it as it comes
        connection.send_text("\n".join(errors), 400 if errors else 200)
        return
    answer = {"errors": [{"message": text} for text in errors], "warnings": [{"message": text} for text in warnings]}
    if errors:
        answer["error"] = "Invalid metadata in README.md. " + " ".join(errors)
    connection.send(answer, 400 if errors else 200)


def choose_upload_modes(connection: "Connection", kind: str, id: str, rev: str) -> None:
    """Say file by file whether it goes by LFS, and what is there already, so that clients skip what is unchanged."""
    repository = connection.writable(kind, id)
    tree = repository.tree(repository.resolve(rev))
    files = []
    for file in connection.json_body()["files"]:
        check_path(file["path"])
        entry = tree.get(file["path"], {})
        lfs = repository.is_lfs(file["path"], file["size"], base64.b64decode(file["sample"]))
        oid = entry.get("sha256" if lfs else "oid")
        mode = "lfs" if lfs else "regular"
        files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    connection.send({"files": files, "commitOid": repository.resolve(rev)})


def lfs_batch(connection: "Connection", kind: str, id: str) -> None:
    repository = connection.writable(kind, id)
    wanted = connection.json_body()
    if wanted["operation"] != "upload":
        raise Refusal(400, "This Hub gives files out by /resolve/ only")
    objects = []
    for file in wanted["objects"]:
        found: dict[str, Any] = {"oid": file["oid"], "size": file["size"]}
        if not repository.lfs_path(file["oid"]).exists():
            # As to a bucket elsewhere, the bytes go without a token: only bytes with the promised hash are taken.
            href = f"http://{connection.headers['Host']}/_lfs/{repository.kind}/{repository.id}/{file['oid']}"
            found["actions"] = {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}
        objects.append(found)
    connection.send({"transfer": "basic", "objects": objects})


def lfs_upload(connection: "Connection", kind: str, id: str, sha256: str) -> None:
    repository = connection.server.repositories.find(kind, id)
    if repository is None:
        raise Refusal(404, "Repository not found", "RepoNotFound")
    target = repository.lfs_path(sha256)
    target.parent.mkdir(exist_ok=True)
    unfinished = target.with_name(f"{uuid.uuid4().hex}.unfinished")
    digest = hashlib.sha256()
    with unfinished.open("wb") as file:
        for piece in connection.body_chunks(connection.server.faults.received):
            digest.update(piece)
            file.write(piece)
    if digest.hexdigest() != sha256:
        unfinished.unlink()
        raise Refusal(400, f"Expected bytes whose SHA-256 is {sha256}, got {digest.hexdigest()}")
    os.replace(unfinished, target)
    connection.send({})


def lfs_verify(connection: "Connection", kind: str, id: str, sha256: str) -> None:
    path = connection.writable(kind, id).lfs_path(sha256)
    if not path.exists() or path.stat().st_size != connection.json_body()["size"]:
        raise Refusal(404, f"The object {sha256} is missing or has another size")
    connection.send({})


def commit(connection: "Connection", kind: str, id: str, rev: str) -> None:
    """Take all changes or none."""
    if "create_pr" in connection.query:
        raise Refusal(400, "This Hub has no pull requests")
    operations = [json.loads(line) for line in connection.body().splitlines() if line]
    header = operations.pop(0)["value"]
    with connection.server.repositories.lock:
        repository = connection.writable(kind, id)
        if rev not in repository.branches:
            raise Refusal(404, f"Invalid rev id: {rev}", "RevisionNotFound")
        parent = repository.branches[rev]
        if header.get("parentCommit", parent) != parent:
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        tree = dict(repository.tree(parent))
        for operation in operations:
            apply(repository, tree, operation["key"], operation["value"])
        sha = repository.commit(rev, tree, header["summary"], header.get("description", ""), str(connection.user))
    url = f"{connection.url(repository.kind, id)}/commit/{sha}"
    connection.send({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})


def apply(repository: Repository, tree: Tree, key: str, value: dict[str, Any]) -> None:
    """Change a tree that nobody sees yet by one operation of a commit."""
    path = value["path"]
    check_path(path)
    if key == "file":
        content = base64.b64decode(value["content"])
        if repository.is_lfs(path, len(content), b""):
            raise Refusal(400, f"{path} must be uploaded by LFS")
        if path == "README.md" and (errors := card_rules.faults(content.decode())[0]):
            raise Refusal(400, "Invalid metadata in README.md. " + " ".join(errors))
        tree[path] = repository.add_blob(content)
    elif key == "lfsFile":
        tree[path] = repository.lfs_entry(value["oid"])
    elif key in ("deletedFile", "deletedFolder"):
        gone = [name for name in tree if name == path or name.startswith(path.rstrip("/") + "/")]
        if not gone:
            raise Refusal(404, f"A file to delete does not exist: {path}", "EntryNotFound")
        for name in gone:
            del tree[name]
    else:
        raise Refusal(400, f"Unknown operation in a commit: {key}")


def download(connection: "Connection", kind: str, id: str, rev: str, path: str) -> None:
    repository = connection.readable(kind, id)
    sha = repository.resolve(rev)
    entry = repository.entry(sha, path)
    size = entry["size"]
    headers = {"X-Repo-Commit": sha, "ETag": f'"{entry.get("sha256", entry["oid"])}"', "Accept-Ranges": "bytes"}
    if "sha256" in entry:
        headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(size)}
    first, end = 0, size
    wanted = connection.headers.get("Range")
    if wanted:
        first, end = byte_range(wanted, size)
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{size}"
    connection.start(206 if wanted else 200, end - first, "application/octet-stream", **headers)
    if connection.command == "HEAD":
        return
    with repository.open(entry) as file:
        file.seek(first)
        while first < end:
            piece = file.read(min(CHUNK_BYTES, end - first))
            first += len(piece)
            connection.record[2] += len(piece)
            connection.wfile.write(piece)


def byte_range(wanted: str, size: int) -> tuple[int, int]:
    """Return the first byte and the one after the last of a Range header."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted.strip())
    if match is None or match.groups() == ("", ""):
        raise Refusal(416, f"Cannot read the range {wanted}", **{"Content-Range": f"bytes */{size}"})
    first, last = match.groups()
    start, end = (int(first), min(int(last or size) + bool(last), size)) if first else (max(size - int(last), 0), size)
    if start >= end:
        raise Refusal(416, f"The range {wanted} lies outside {size} bytes", **{"Content-Range": f"bytes */{size}"})
    return start, end
