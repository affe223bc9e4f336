"""How the test Hub describes what it has: repositories, trees, branches, tags, commits."""

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import yaml
from hub import card_rules
from hub.repositories import REFERENCE, Refusal, Repository, lfs_pointer

if TYPE_CHECKING:
    from hub.hub_server import Connection


def card_data(repository: Repository, sha: str) -> dict[str, Any]:
    if "README.md" not in repository.tree(sha):
        return {}
    try:
        return card_rules.metadata(repository.read(sha, "README.md").decode()) or {}
    except yaml.YAMLError:
        return {}


def tags_of(card: dict[str, Any]) -> list[str]:
    """The tags a repository can be found by: those of its card, and those that the Hub derives from it."""
    tags = [*card.get("tags", []), *(card[key] for key in ("library_name", "pipeline_tag") if key in card)]
    for key, prefix in (("datasets", "dataset"), ("license", "license"), ("base_model", "base_model")):
        values = card.get(key) or []
        tags += [f"{prefix}:{value}" for value in (values if isinstance(values, list) else [values])]
    return list(dict.fromkeys(tags))


def description(repository: Repository, sha: str, blobs: bool = False) -> dict[str, Any]:
    card = card_data(repository, sha)
    siblings = []
    for path, entry in sorted(repository.tree(sha).items()):
        file = file_info(repository, path, sha)
        lfs = {"lfs": {**file["lfs"], "sha256": entry["sha256"]}} if "sha256" in entry else {}
        details = {"size": entry["size"], "blobId": entry["oid"], **lfs} if blobs else {}
        siblings.append({"rfilename": path, **details})
    described = {
        "_id": repository.id, "id": repository.id, "author": repository.id.split("/")[0], "sha": sha,
        "private": repository.private, "gated": False, "disabled": False, "downloads": 0, "likes": 0,
        "createdAt": repository.state["created"], "lastModified": repository.commit_info(sha)["date"],
        "tags": tags_of(card), "cardData": card, "siblings": siblings,
    }  # fmt: skip
    if repository.kind == "models":
        described["modelId"] = repository.id
        described |= {key: card[key] for key in ("pipeline_tag", "library_name", "model-index") if key in card}
    return described


def describe(connection: "Connection", kind: str, id: str, rev: str = "main") -> None:
    repository = connection.readable(kind, id)
    blobs = is_true(connection.query.get("blobs", ["false"]))
    connection.send(description(repository, repository.resolve(rev), blobs))


def list_repositories(connection: "Connection", kind: str) -> None:
    author, search = (connection.query.get(key, [""])[0] for key in ("author", "search"))
    wanted = set(connection.query.get("filter", []) + connection.query.get("pipeline_tag", []))
    limit = int(connection.query.get("limit", ["1000"])[0])
    listed = []
    for repository in connection.server.repositories.all(kind):
        owner = repository.id.split("/")[0]
        if (repository.private and owner != connection.user) or (author and owner != author):
            continue
        described = description(repository, repository.head)
        if search.lower() in repository.id.lower() and wanted <= set(described["tags"]):
            listed.append(described)
    connection.send(listed[:limit])


def file_info(repository: Repository, path: str, sha: str, expand: bool = False) -> dict[str, Any]:
    entry = repository.entry(sha, path)
    info: dict[str, Any] = {"type": "file", "path": path, "oid": entry["oid"], "size": entry["size"]}
    if "sha256" in entry:
        pointer_size = len(lfs_pointer(entry["sha256"], entry["size"]))
        info["lfs"] = {"oid": entry["sha256"], "size": entry["size"], "pointerSize": pointer_size}
    if expand:
        info["lastCommit"] = repository.last_change(path, sha)
    return info


def folder_info(repository: Repository, path: str, sha: str, expand: bool = False) -> dict[str, Any]:
    info = {"type": "directory", "path": path, "oid": sha, "size": 0}
    head = repository.commit_info(sha)
    last = {"lastCommit": {"id": sha, "title": head["title"], "date": head["date"]}}
    return info | (last if expand else {})


def folders_of(paths: list[str]) -> set[str]:
    return {"/".join(path.split("/")[:depth]) for path in paths for depth in range(1, path.count("/") + 1)}


def is_true(values: list[Any]) -> bool:
    return str(values[0]).lower() in ("true", "1")


def list_tree(connection: "Connection", kind: str, id: str, rev: str, path: str) -> None:
    repository = connection.readable(kind, id)
    sha = repository.resolve(rev)
    recursive, expand = (is_true(connection.query.get(key, ["false"])) for key in ("recursive", "expand"))
    prefix = f"{path}/" if path else ""
    inside = sorted(name for name in repository.tree(sha) if name.startswith(prefix))
    if path and not inside:
        raise Refusal(404, f"{path} does not exist on {rev}", "EntryNotFound", **{"X-Repo-Commit": sha})
    folders = sorted(name for name in folders_of(inside) if name.startswith(prefix))
    listed = [folder_info(repository, name, sha, expand) for name in folders]
    listed += [file_info(repository, name, sha, expand) for name in inside]
    connection.send([info for info in listed if recursive or "/" not in info["path"][len(prefix) :]])


def describe_paths(connection: "Connection", kind: str, id: str, rev: str) -> None:
    """Describe the paths that exist, in silence about the others."""
    repository = connection.readable(kind, id)
    sha = repository.resolve(rev)
    body = connection.body().decode()
    is_json = "json" in connection.headers.get("Content-Type", "")
    wanted = json.loads(body) if is_json else parse_qs(body)
    expand = is_true([wanted.get("expand", False)] if is_json else wanted.get("expand", ["false"]))
    tree = repository.tree(sha)
    folders = folders_of(list(tree))
    files = [file_info(repository, path, sha, expand) for path in wanted["paths"] if path in tree]
    connection.send(
        files + [folder_info(repository, path, sha, expand) for path in wanted["paths"] if path in folders]
    )


def list_references(connection: "Connection", kind: str, id: str) -> None:
    repository = connection.readable(kind, id)
    listed = {
        name: [{"name": key, "ref": f"refs/{place}/{key}", "targetCommit": sha} for key, sha in known.items()]
        for name, place, known in (("branches", "heads", repository.branches), ("tags", "tags", repository.tags))
    }
    connection.send({**listed, "converts": [], "pullRequests": []})


def list_commits(connection: "Connection", kind: str, id: str, rev: str) -> None:
    repository = connection.readable(kind, id)
    keys = ("date", "title", "message")
    connection.send(
        [
            {"id": sha, "authors": [{"user": info["author"]}], **{key: info[key] for key in keys}}
            for sha, info in repository.history(repository.resolve(rev))
        ]
    )


def change_branch(connection: "Connection", kind: str, id: str, rev: str) -> None:
    starting_point = connection.json_body().get("startingPoint") or "main"
    change_reference(connection, kind, id, "branches", rev, starting_point)


def change_tag(connection: "Connection", kind: str, id: str, rev: str) -> None:
    """Set a tag on a revision, or delete the tag that the path names."""
    name = connection.json_body()["tag"] if connection.command == "POST" else rev
    change_reference(connection, kind, id, "tags", name, rev)


def change_reference(connection: "Connection", kind: str, id: str, known: str, name: str, revision: str) -> None:
    with connection.server.repositories.lock:
        repository = connection.writable(kind, id)
        references = repository.state[known]
        if connection.command == "POST":
            if not REFERENCE.fullmatch(name) or ".." in name:
                raise Refusal(400, f"Invalid reference name: {name}")
            if name in references:
                raise Refusal(409, f"Reference already exists: {name}")
            references[name] = repository.resolve(revision)
        elif name not in references:
            raise Refusal(404, f"Invalid rev id: {name}", "RevisionNotFound")
        elif known == "branches" and name == "main":
            raise Refusal(403, "The branch main cannot be deleted")
        else:
            del references[name]
        repository.save()
    connection.send({})


def page(connection: "Connection", kind: str, id: str) -> None:
    """Answer a browser; nothing to be read by programs."""
    connection.send_text(f"{connection.readable(kind, id).id}\n")
