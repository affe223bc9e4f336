"""What the test Hub keeps on disk: repositories with commits, branches, tags and LFS objects, safe against a kill."""

import hashlib
import json
import os
import re
import shutil
import threading
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

Entry = dict[str, Any]  # {"oid": git sha1, "size": bytes}, and "sha256" for an LFS file
Tree = dict[str, Entry]

NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?")
REFERENCE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,199}")
GIT_ATTRIBUTES = b"".join(
    f"*.{ending} filter=lfs diff=lfs merge=lfs -text\n".encode()
    for ending in ("bin", "h5", "onnx", "parquet", "pickle", "pkl", "pt", "pth", "safetensors", "zip")
)
LFS_ENDINGS = tuple("." + line.split()[0][2:] for line in GIT_ATTRIBUTES.decode().splitlines())
MAX_REGULAR_BYTES = 10 * 1024**2


class Refusal(Exception):
    """An answer other than success: its status, its message, and the code by which clients choose an exception."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, headers


def check_repository_id(repo_id: str) -> None:
    """Raise as the Hub does for names it would not create."""
    owner, _, name = repo_id.partition("/")
    if not (NAME.fullmatch(owner) and NAME.fullmatch(name)) or "--" in repo_id or ".." in repo_id:
        raise Refusal(400, f"Invalid repo name: {repo_id} - alphanumeric characters, '-', '_' and '.' are accepted")
    if name.endswith((".git", ".ipynb")):
        raise Refusal(400, f"Invalid repo name: {repo_id} - a name cannot end with .git or .ipynb")


def check_path(path: str) -> None:
    """Raise for a file's path that would leave the repository."""
    parts = path.split("/")
    if any(part in ("", ".", "..", ".git") for part in parts):
        raise Refusal(400, f"Invalid path in the repository: {path!r}")


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def lfs_pointer(sha256: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def write_atomically(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex}.unfinished")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)


class Repository:
    """One model or data set. Every change becomes visible by one rename of `state.json`."""

    def __init__(self, folder: Path, kind: str, repo_id: str) -> None:
        self.folder, self.kind, self.id = folder, kind, repo_id
        self.state: dict[str, Any] = json.loads((folder / "state.json").read_bytes())

    def save(self) -> None:
        write_atomically(self.folder / "state.json", json.dumps(self.state).encode())

    @property
    def private(self) -> bool:
        return self.state["private"]

    @property
    def branches(self) -> dict[str, str]:
        return self.state["branches"]

    @property
    def tags(self) -> dict[str, str]:
        return self.state["tags"]

    @property
    def head(self) -> str:
        return self.branches["main"]

    def resolve(self, revision: str) -> str:
        """Return the commit that a branch, a tag or a commit's own hash names."""
        short = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        for known in (self.branches, self.tags):
            if short in known:
                return known[short]
        if revision in self.state["commits"]:
            return revision
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def commit_info(self, sha: str) -> dict[str, Any]:
        return self.state["commits"][sha]

    def tree(self, sha: str) -> Tree:
        return self.commit_info(sha)["tree"]

    def history(self, sha: str | None) -> list[tuple[str, dict[str, Any]]]:
        """The commits that lead to this one, the newest first."""
        commits = []
        while sha:
            commits.append((sha, self.commit_info(sha)))
            sha = commits[-1][1]["parent"]
        return commits

    def last_change(self, path: str, sha: str) -> dict[str, Any]:
        """The commit that gave a file its present content."""
        commits = self.history(sha)
        entry = commits[0][1]["tree"][path]
        same = [commit for commit in commits if commit[1]["tree"].get(path) == entry]
        return {"id": same[-1][0], "title": same[-1][1]["title"], "date": same[-1][1]["date"]}

    def entry(self, sha: str, path: str) -> Entry:
        if path not in self.tree(sha):
            raise Refusal(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": sha})
        return self.tree(sha)[path]

    def content_path(self, entry: Entry) -> Path:
        return self.lfs_path(entry["sha256"]) if "sha256" in entry else self.folder / "blobs" / entry["oid"]

    def lfs_path(self, sha256: str) -> Path:
        return self.folder / "lfs" / sha256

    def read(self, sha: str, path: str) -> bytes:
        return self.content_path(self.entry(sha, path)).read_bytes()

    def open(self, entry: Entry) -> BinaryIO:
        return self.content_path(entry).open("rb")

    def is_lfs(self, path: str, size: int, sample: bytes) -> bool:
        """Whether a file must be uploaded by LFS: by its ending, its size, or because it is binary."""
        return path.endswith(LFS_ENDINGS) or size > MAX_REGULAR_BYTES or b"\0" in sample

    def add_blob(self, content: bytes) -> Entry:
        entry = {"oid": git_oid(content), "size": len(content)}
        write_atomically(self.folder / "blobs" / entry["oid"], content)
        return entry

    def lfs_entry(self, sha256: str) -> Entry:
        if not (re.fullmatch("[0-9a-f]{64}", sha256) and self.lfs_path(sha256).exists()):
            raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {sha256}")
        size = self.lfs_path(sha256).stat().st_size
        return {"oid": git_oid(lfs_pointer(sha256, size)), "size": size, "sha256": sha256}

    def commit(self, branch: str, tree: Tree, title: str, message: str, author: str) -> str:
        parent = self.branches.get(branch)
        info = {"parent": parent, "title": title, "message": message, "author": author, "date": now(), "tree": tree}
        sha = hashlib.sha1(json.dumps(info).encode() + uuid.uuid4().bytes).hexdigest()
        self.state["commits"][sha] = info
        self.branches[branch] = sha
        self.save()
        return sha


class Repositories:
    """All repositories under one folder. Whoever changes one holds the lock."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lock = threading.RLock()

    def folder(self, kind: str, repo_id: str) -> Path:
        return self.root / kind / repo_id

    def find(self, kind: str, repo_id: str) -> Repository | None:
        owner, _, name = repo_id.partition("/")
        known = NAME.fullmatch(owner) and NAME.fullmatch(name) and ".." not in repo_id
        folder = self.folder(kind, repo_id)
        return Repository(folder, kind, repo_id) if known and (folder / "state.json").exists() else None

    def all(self, kind: str) -> list[Repository]:
        states = sorted((self.root / kind).glob("*/*/state.json"))
        return [Repository(path.parent, kind, "/".join(path.parts[-3:-1])) for path in states]

    def create(self, kind: str, repo_id: str, private: bool) -> Repository:
        folder = self.folder(kind, repo_id)
        state = {"private": private, "created": now(), "branches": {}, "tags": {}, "commits": {}}
        # The first commit is in place before the repository can be seen.
        building = self.root / "building" / uuid.uuid4().hex
        write_atomically(building / "state.json", json.dumps(state).encode())
        new = Repository(building, kind, repo_id)
        new.commit(
            "main", {".gitattributes": new.add_blob(GIT_ATTRIBUTES)}, "initial commit", "", repo_id.split("/")[0]
        )
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(building, folder)
        return Repository(folder, kind, repo_id)

    def delete(self, repository: Repository) -> None:
        (repository.folder / "state.json").unlink()
        shutil.rmtree(repository.folder)
