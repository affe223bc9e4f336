"""The genuine client against the test Hub: what it asks must be answered as the real one would."""

import hashlib
import json
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from huggingface_hub.errors import (
    BadRequestError,
    HfHubHTTPError,
    HFValidationError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)


def noise(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def names(api, repo_id: str, **where) -> set[str]:
    return set(api.list_repo_files(repo_id, **where)) - {".gitattributes"}


def refused(status: int):
    """The client raised because the Hub answered with this status."""
    return pytest.raises(HfHubHTTPError, check=lambda error: error.response.status_code == status)


@pytest.fixture
def folder(tmp_path):
    """What a model leaves: small text, weights that go by LFS for their ending, a table that does for its size."""
    path = tmp_path / "model"
    (path / "pictures").mkdir(parents=True)
    (path / "config.json").write_text('{"a": 1}')
    (path / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    (path / "model.safetensors").write_bytes(noise(6_000_000))
    (path / "table.txt").write_bytes(b"0123456789" * 1_100_000)
    (path / "pictures" / "curve.png").write_bytes(b"\x89PNG\r\n\x1a\n\0" + noise(500))
    return path


def test_whoami(hub, hub_api):
    """Catches a Hub that takes every token for the same user."""
    assert hub_api(hub).whoami()["name"] == "owner"
    assert hub_api(hub, "hf_reader").whoami()["name"] == "reader"


def test_create_and_delete(hub, hub_api):
    """Catches a second creation that wipes the first, or names that the real Hub would refuse."""
    api = hub_api(hub)
    url = api.create_repo("owner/created")
    assert (url, url.repo_id) == (f"{hub.endpoint}/owner/created", "owner/created")
    api.upload_file(path_or_fileobj=b"kept", path_in_repo="a.txt", repo_id="owner/created")
    with refused(409):
        api.create_repo("owner/created")
    assert api.create_repo("owner/created", exist_ok=True).repo_id == "owner/created"
    assert names(api, "owner/created") == {"a.txt"}
    with pytest.raises(HFValidationError):
        api.create_repo("owner/a--b")
    api.delete_repo("owner/created")
    assert not api.repo_exists("owner/created")


@pytest.mark.parametrize("name", ["a--b", "a..b", ".a", "a-", "a.git", "a b", "", "x" * 97])
def test_bad_names_get_past_no_client(name, hub):
    """Catches a Hub that leaves the check of names to its clients, or writes outside its folder."""
    request = urllib.request.Request(
        f"{hub.endpoint}/api/repos/create",
        data=json.dumps({"name": name, "organization": "owner", "type": "model"}).encode(),
        headers={"Authorization": "Bearer hf_owner"},
    )
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request)
    with error.value:
        assert error.value.code == 400


def test_folder_goes_up_and_comes_down_byte_by_byte(hub, hub_api, folder, tmp_path):
    """Catches bytes lost on either way, and large or binary files that did not go by LFS."""
    api = hub_api(hub)
    api.create_repo("owner/folder")
    api.upload_folder(repo_id="owner/folder", folder_path=folder)
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")}
    assert names(api, "owner/folder") == set(files)
    down = Path(api.snapshot_download("owner/folder", local_dir=tmp_path / "down"))
    assert {name: (down / name).read_bytes() for name in files} == files
    cached = api.hf_hub_download("owner/folder", "model.safetensors")
    assert Path(cached).read_bytes() == files["model.safetensors"]
    by_lfs = {
        file.rfilename: file.lfs.sha256
        for file in api.model_info("owner/folder", files_metadata=True).siblings
        if file.lfs
    }
    expected = ("model.safetensors", "table.txt", "pictures/curve.png")
    assert by_lfs == {name: hashlib.sha256(files[name]).hexdigest() for name in expected}


def test_folder_that_did_not_change_makes_no_commit(hub, hub_api, folder):
    """Catches content hashes unlike the client's, with which every push is a commit and uploads everything again."""
    api = hub_api(hub)
    api.create_repo("owner/unchanged")
    first = api.upload_folder(repo_id="owner/unchanged", folder_path=folder)
    before = len(hub.requests())
    again = api.upload_folder(repo_id="owner/unchanged", folder_path=folder)
    assert again.oid == first.oid == api.model_info("owner/unchanged").sha
    asked = hub.requests()[before:]
    assert not [request for request in asked if request.method == "PUT" or "/commit/" in request.path]
    (folder / "config.json").write_text('{"a": 2}')
    assert api.upload_folder(repo_id="owner/unchanged", folder_path=folder).oid != first.oid


def test_commits_are_all_or_nothing(hub, hub_api):
    """Catches a commit whose first half stays when its second half is refused, and one that overwrites news."""
    api = hub_api(hub)
    api.create_repo("owner/atomic")
    start = api.model_info("owner/atomic").sha
    add = CommitOperationAdd("a.txt", b"a")
    with pytest.raises(HfHubHTTPError):
        api.create_commit("owner/atomic", [add, CommitOperationDelete("absent.txt")], commit_message="half")
    assert api.model_info("owner/atomic").sha == start
    commit = api.create_commit("owner/atomic", [CommitOperationAdd("a.txt", b"a")], commit_message="one")
    with refused(412):
        api.create_commit(
            "owner/atomic", [CommitOperationAdd("a.txt", b"b")], commit_message="late", parent_commit=start
        )
    changes = [CommitOperationAdd("b/c.txt", b"c"), CommitOperationDelete("a.txt")]
    api.create_commit("owner/atomic", changes, commit_message="two", parent_commit=commit.oid)
    assert names(api, "owner/atomic") == {"b/c.txt"}
    assert names(api, "owner/atomic", revision=commit.oid) == {"a.txt"}
    assert [one.title for one in api.list_repo_commits("owner/atomic")] == ["two", "one", "initial commit"]
    api.delete_folder("b", repo_id="owner/atomic")
    assert names(api, "owner/atomic") == set()


@pytest.mark.parametrize("path", ["../a.txt", "/a.txt", ".git/config", "a//b.txt"])
def test_paths_stay_inside(path, hub, hub_api):
    """Catches a Hub that takes files which a download would write elsewhere."""
    api = hub_api(hub)
    api.create_repo("owner/paths", exist_ok=True)
    operation = CommitOperationAdd("a.txt", b"a")
    operation.path_in_repo = path  # the client itself refuses some of these
    with pytest.raises(BadRequestError):
        api.create_commit("owner/paths", [operation], commit_message="escape")


def test_branches_and_tags(hub, hub_api):
    """Catches revisions that all show the newest state."""
    api = hub_api(hub)
    api.create_repo("owner/revisions")

    def put(text, **where):
        return api.upload_file(path_or_fileobj=text, path_in_repo="a.txt", repo_id="owner/revisions", **where).oid

    def read(revision):
        return Path(api.hf_hub_download("owner/revisions", "a.txt", revision=revision)).read_bytes()

    first = put(b"first")
    api.create_tag("owner/revisions", tag="v1")
    api.create_branch("owner/revisions", branch="more/work")
    put(b"branch", revision="more/work")
    put(b"main")
    assert read("v1") == read(first) == b"first"
    assert (read("more/work"), read("main")) == (b"branch", b"main")
    refs = api.list_repo_refs("owner/revisions")
    assert {ref.name for ref in refs.branches} == {"main", "more/work"}
    assert {ref.name: ref.target_commit for ref in refs.tags} == {"v1": first}
    with refused(409):
        api.create_branch("owner/revisions", branch="more/work")
    api.delete_branch("owner/revisions", branch="more/work")
    api.delete_tag("owner/revisions", tag="v1")
    with pytest.raises(RevisionNotFoundError):
        read("v1")
    with pytest.raises(RevisionNotFoundError):
        put(b"lost", revision="more/work")


def test_what_is_missing_is_named(hub, hub_api):
    """Catches a plain 404, from which the client cannot tell a missing file from a missing repository."""
    api = hub_api(hub)
    api.create_repo("owner/empty")
    with pytest.raises(RemoteEntryNotFoundError):
        api.hf_hub_download("owner/empty", "absent.txt")
    for client in (api, hub_api(hub, False)):
        with pytest.raises(RepositoryNotFoundError):
            client.model_info("owner/nowhere")
        with pytest.raises(RepositoryNotFoundError):
            client.model_info("nowhere")
    with pytest.raises(RepositoryNotFoundError):
        api.dataset_info("owner/empty")  # a model of that name is no data set


def test_downloads_only_what_the_patterns_allow(hub, hub_api, folder, tmp_path):
    """Catches a record of requests that misses downloads: tests rely on it to say what was fetched."""
    api = hub_api(hub)
    api.create_repo("owner/patterns")
    api.upload_folder(repo_id="owner/patterns", folder_path=folder)
    before = len(hub.requests())
    api.snapshot_download("owner/patterns", allow_patterns=["*.json", "*.png"], local_dir=tmp_path / "down")
    fetched = {
        request.path.rsplit("/", 1)[1]: request.bytes
        for request in hub.requests()[before:]
        if request.method == "GET" and "/resolve/" in request.path
    }
    assert fetched == {"config.json": 8, "curve.png": 509}


def test_part_of_a_file(hub, hub_api):
    """Catches a Hub that ignores ranges: a resumed download would append the whole file to its beginning."""
    api = hub_api(hub)
    api.create_repo("owner/ranges")
    content = bytes(range(200))
    api.upload_file(path_or_fileobj=content, path_in_repo="a.bin", repo_id="owner/ranges")
    for header, expected in (
        ("bytes=10-19", content[10:20]),
        ("bytes=150-", content[150:]),
        ("bytes=-5", content[-5:]),
    ):
        request = urllib.request.Request(f"{hub.endpoint}/owner/ranges/resolve/main/a.bin", headers={"Range": header})
        with urllib.request.urlopen(request) as answer:
            assert (answer.status, answer.read()) == (206, expected)


def test_private_repositories(hub, hub_api):
    """Catches a Hub that shows private models to strangers, or to the owner not at all."""
    api = hub_api(hub)
    api.create_repo("owner/secret", private=True)
    api.upload_file(path_or_fileobj=b"secret", path_in_repo="a.txt", repo_id="owner/secret")
    assert api.model_info("owner/secret").private
    for token in ("hf_reader", False):
        stranger = hub_api(hub, token)
        with pytest.raises(RepositoryNotFoundError):
            stranger.hf_hub_download("owner/secret", "a.txt")
        assert "owner/secret" not in {model.id for model in stranger.list_models()}
    api.update_repo_settings("owner/secret", private=False)
    assert names(hub_api(hub, False), "owner/secret") == {"a.txt"}


def test_rights(hub, hub_api):
    """Catches a Hub on which a wrong token, no token or another user's writes."""
    hub_api(hub).create_repo("owner/rights")
    for token, status in (("hf_wrong", 401), (False, 401), ("hf_reader", 403)):
        api = hub_api(hub, token)
        with refused(status):
            api.create_repo("owner/stolen")
        with refused(status):
            api.upload_file(path_or_fileobj=b"a", path_in_repo="a.txt", repo_id="owner/rights")
    with refused(401):
        hub_api(hub, "hf_wrong").model_info("owner/rights")
    assert hub_api(hub, False).model_info("owner/rights").id == "owner/rights"
    assert hub_api(hub, "hf_reader").create_repo("reader/own").repo_id == "reader/own"
