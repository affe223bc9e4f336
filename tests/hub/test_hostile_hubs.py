"""A Hub that fails or lies at every request of a push or a download: a sentence each, and nothing half published."""

import errno
import json
import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
from forked import ended, start
from hub.certified import certified_model
from huggingface_hub import HfApi
from safetensors.numpy import load_file, save_file

from hf_cmim.errors import HfCmimError
from hf_cmim.hub import hub_errors
from hf_cmim.hub.certificate import Certificate
from hf_cmim.hub.certify import certify
from hf_cmim.hub.transfer import Repository
from hf_cmim.hub.verification import check_certificate
from hf_cmim.report import CERTIFICATE_NAME
from hf_cmim.whole_files import write_whole


@pytest.fixture
def model(tmp_path):
    return certified_model(tmp_path / "model", audited=False)


def changed(folder):
    """The next state of the model: other weights, certified."""
    weights = load_file(folder / "model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    certify(folder)
    return folder


def holds(api, name):
    """Whether the repository verifies as it stands, and at which commit."""
    fetched = Repository(name, api=api).fetch()
    return not fetched.faults and all(
        each.holds for each in check_certificate(fetched.folder, paths=fetched.paths)
    ), fetched.commit


PUSHING = [("GET", "/revision/"), ("GET", "/api/models/owner/fails"), ("POST", "/api/repos/create"),
           ("POST", "/preupload/"), ("POST", "/lfs/objects/batch"), ("POST", "/commit/")]  # fmt: skip
STATUSES = {401: "401", 403: "403", 404: "404|no Hub|another", 409: "409|answer", 412: "412", 413: "413", 429: "429",
            500: "500", 502: "502", 503: "503"}  # fmt: skip


@pytest.mark.parametrize("status", STATUSES)
def test_a_status_at_any_request_of_a_push_is_one_sentence(fresh_hub, hub_api, model, impatient, status):
    """Catches "another model: --force" for a Hub that is busy, and a commit of some of the files."""
    api = hub_api(fresh_hub)
    Repository("owner/fails", api=api).push(model)
    before = holds(api, "owner/fails")
    changed(model)
    for method, path in PUSHING:
        fresh_hub.control(fail={"path_contains": path, "method": method, "times": 50, "status": status})
        try:
            Repository("owner/fails", api=api).push(model)
        except HfCmimError as error:
            said = str(error)
            assert str(status) in said or status in (404, 409, 412), (path, said)
            assert "--force" not in said, (path, said)
            assert "\n" not in said
        else:
            assert (path, status) in {("/api/repos/create", 409)} or not any(
                path in r.path for r in fresh_hub.requests()
            )
            before = holds_after(fresh_hub, api)
        fresh_hub.control(reset=True)
        assert holds(api, "owner/fails") == before
    Repository("owner/fails", api=api).push(model)
    assert holds(api, "owner/fails")[0]


def holds_after(fresh_hub, api):
    fresh_hub.control(reset=True)
    return holds(api, "owner/fails")


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_a_status_while_downloading_is_not_a_missing_certificate(
    fresh_hub, hub_api, model, impatient, status, tmp_path
):
    """Catches "holds no certified model" for one that may not be read now."""
    api = hub_api(fresh_hub)
    Repository("owner/fails", api=api).push(model)
    for path in ("/api/models/owner/fails", "/resolve/"):
        fresh_hub.control(fail={"path_contains": path, "times": 50, "status": status})
        with pytest.raises(HfCmimError, match=str(status)) as caught:
            Repository("owner/fails", api=api).fetch()
        assert "holds no certified model" not in str(caught.value)
        fresh_hub.control(reset=True)


# A push publishes exactly what was certified


def test_a_sharded_model_replaces_a_single_file_and_nothing_stale_stays(hub, hub_api, model):
    """Catches old weights that take precedence, an old audit page, an old signature."""
    api = hub_api(hub)
    for name in ("audit.html", "cmi_curve.png"):
        (model / name).write_bytes(b"of the state before")
    (model / f"{CERTIFICATE_NAME}.sig").write_bytes(b"s" * 64)
    Repository("owner/shards", api=api).push(model)
    api.upload_file(path_or_fileobj=b"p", path_in_repo="pytorch_model.bin", repo_id="owner/shards")
    api.upload_file(path_or_fileobj=b"theirs", path_in_repo="notes.md", repo_id="owner/shards")
    weights = load_file(model / "model.safetensors")
    for name in ("model.safetensors", "audit.html", "cmi_curve.png", f"{CERTIFICATE_NAME}.sig"):
        (model / name).unlink()
    names = sorted(weights)
    for part in (1, 2):
        kept = {name: weights[name] for name in names[part - 1 :: 2]}
        save_file(kept, model / f"model-0000{part}-of-00002.safetensors", {"format": "pt"})
    weight_map = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(names)}
    (model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    certify(model)
    commits = len(api.list_repo_commits("owner/shards"))
    Repository("owner/shards", api=api).push(model, force=True)
    assert len(api.list_repo_commits("owner/shards")) == commits + 1
    assert set(api.list_repo_files("owner/shards")) - {".gitattributes"} == {
        CERTIFICATE_NAME, "config.json", "preprocessor_config.json", "notes.md", "model.safetensors.index.json",
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
    }  # fmt: skip
    assert holds(api, "owner/shards")[0]


def test_a_file_that_changes_while_it_is_sent_is_not_published(hub, hub_api, model, monkeypatch):
    """Catches a checkpoint written between hashing and commit, which would go out uncertified."""
    api = hub_api(hub)
    Repository("owner/moving", api=api).push(model)
    before = api.model_info("owner/moving").sha
    changed(model)
    sent = HfApi.preupload_lfs_files

    def then_saved_again(self, *arguments, **settings):
        sent(self, *arguments, **settings)
        with (model / "model.safetensors").open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\x01")

    monkeypatch.setattr(HfApi, "preupload_lfs_files", then_saved_again)
    with pytest.raises(HfCmimError, match=r"does not fit its files: model.safetensors .* nothing was published"):
        Repository("owner/moving", api=api).push(model)
    assert api.model_info("owner/moving").sha == before


def test_a_file_that_was_added_after_certifying_is_not_published(hub, hub_api, model):
    """Catches a tokenizer of which the certificate knows nothing."""
    (model / "vocab.txt").write_text("a\nb\n", encoding="utf-8")
    with pytest.raises(HfCmimError, match="does not fit its files: vocab.txt"):
        Repository("owner/added", api=hub_api(hub)).push(model)
    assert not hub_api(hub).repo_exists("owner/added")


def test_paths_that_a_loader_may_take_are_removed_only_by_force(hub, hub_api, model):
    """Catches a push after which the repository does not verify."""
    api = hub_api(hub)
    Repository("owner/strangers", api=api).push(model)
    api.upload_file(path_or_fileobj=b"x", path_in_repo="handler.py", repo_id="owner/strangers")
    with pytest.raises(HfCmimError, match="files of an unknown kind: handler.py. A loader may use them"):
        Repository("owner/strangers", api=api).push(changed(model))
    Repository("owner/strangers", api=api).push(model, force=True)
    assert holds(api, "owner/strangers")[0]


def test_a_link_is_not_followed_out_of_the_folder(hub, hub_api, model, tmp_path):
    """Catches a file of the machine sent as LICENSE."""
    secret = tmp_path / "passwd"
    secret.write_text("root", encoding="utf-8")
    (model / "LICENSE").symlink_to(secret)
    with pytest.raises(HfCmimError, match="outside of the folder: that file would be published"):
        Repository("owner/linked", api=hub_api(hub)).push(model)


def test_two_first_pushes_do_not_become_one_model(hub, hub_api, model, tmp_path, monkeypatch):
    """Catches a repository of which another push made half the files."""
    api, other = hub_api(hub), certified_model(tmp_path / "other", audited=False, seed=1)
    sent = HfApi.preupload_lfs_files

    def second_first(self, *arguments, **settings):
        sent(self, *arguments, **settings)
        monkeypatch.setattr(HfApi, "preupload_lfs_files", sent)
        Repository("owner/both", api=api).push(other)

    monkeypatch.setattr(HfApi, "preupload_lfs_files", second_first)
    with pytest.raises(HfCmimError, match="somebody else committed to it meanwhile .412."):
        Repository("owner/both", api=api).push(model)
    assert holds(api, "owner/both")[0]
    lineage = Certificate.read(Repository("owner/both", api=api).fetch().folder).lineage
    assert lineage == Certificate.read(other).lineage


def test_larger_on_the_hub_than_certified_is_not_downloaded(hub, hub_api, model):
    """Catches a certificate of small files over a repository of terabytes."""
    api = hub_api(hub)
    Repository("owner/large", api=api).push(model)
    api.upload_file(path_or_fileobj=b"w" * 300_000, path_in_repo="model.safetensors", repo_id="owner/large")
    before = len(hub.requests())
    (fault,) = Repository("owner/large", api=api).fetch().faults
    assert fault.startswith("model.safetensors has 300,000 bytes on the Hub, the certified file has ")
    assert not any("resolve" in each.path and "safetensors" in each.path for each in hub.requests()[before:])


# Answers that are none


class Liar:
    """A server that answers everything alike."""

    def __init__(self, status, body, **headers):
        outer = self
        self.released = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                if body is None:
                    outer.released.wait(20)
                    return
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(body))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_POST = do_PUT = do_GET

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.endpoint = f"http://127.0.0.1:{self.http.server_address[1]}"

    def close(self):
        self.released.set()
        self.http.shutdown()
        self.http.server_close()


ANSWERS = [
    (200, b"", {}), (200, b"{", {}), (200, b"[]", {}), (200, b"null", {}), (200, b"5", {}), (200, b"<html>", {}),
    (200, b"\xff\xfe", {}), (200, b'{"id": 5}', {}), (200, b'{"siblings": 5, "id": "a/b"}', {}),
    (200, b'{"siblings": [5], "id": "a/b"}', {}), (200, b'{"id": "a/b", "sha": 5, "siblings": [{}]}', {}),
    (200, b"{}", {"Content-Length": "100"}), (418, b"no", {}), (401, b"hf_abcdefghijklmnopqrstuvwxyz", {}),
    (400, b'{"error": "\\u001b[2Jhf_abcdefghijklmnopqrstuvwxyz"}', {}),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "headers"), ANSWERS, ids=range(len(ANSWERS)))
def test_an_answer_that_no_hub_gives_is_one_sentence(hub_api, hub, model, impatient, status, body, headers):
    """Catches a traceback over what a proxy said, and a token that it repeats."""
    liar = Liar(status, body, **headers)
    try:
        for act in (lambda repo: repo.fetch(), lambda repo: repo.push(model)):
            with pytest.raises(HfCmimError) as caught:
                act(Repository("a/b", api=HfApi(endpoint=liar.endpoint, token="hf_abcdefghijklmnopqrstuvwxyz")))
            assert str(caught.value).isprintable()
            assert "abcdefghijklmnop" not in str(caught.value)
    finally:
        liar.close()


def test_a_hub_that_hangs_is_left(hub_api, hub, model, impatient, monkeypatch):
    """Catches a push that waits for ever."""
    monkeypatch.setattr(hub_errors, "PATIENCE", 0.2)
    monkeypatch.setattr("hf_cmim.hub.transfer.PATIENCE", 0.2)
    liar = Liar(200, None)
    try:
        with pytest.raises(HfCmimError, match="the Hub does not answer"):
            Repository("a/b", api=HfApi(endpoint=liar.endpoint, token="hf_x")).push(model)
        assert huggingface_hub.get_session().timeout.read is None, "the client is as it was"
    finally:
        liar.close()


# The disk


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_the_certificate_whole(model, monkeypatch):
    """Catches half a certificate, a traceback, and a partial file that stays."""
    before = (model / CERTIFICATE_NAME).read_bytes()
    monkeypatch.setattr("hf_cmim.whole_files.os.replace", full)
    with pytest.raises(HfCmimError, match=r"cannot be written: No space left on device. Free some space. Its earlier"):
        certify(model)
    assert (model / CERTIFICATE_NAME).read_bytes() == before
    assert not list(model.glob("*.partial"))


def test_what_a_killed_process_left_is_removed(tmp_path):
    """Catches partial files that gather for ever, and the removal of one that is being written."""
    dead, mine = tmp_path / "a.json.999999999.partial", tmp_path / f"a.json.{os.getppid()}.partial"
    dead.write_text("x", encoding="utf-8")
    mine.write_text("x", encoding="utf-8")
    write_whole(tmp_path / "a.json", "{}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", mine.name]


def push_and_die(api: HfApi, folder: Path, kill_at: int) -> None:
    """Push a folder, but die at one of the requests."""
    number = 0

    def count(_: object) -> None:
        nonlocal number
        number += 1
        if number == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    client = huggingface_hub.get_session()
    client.event_hooks = {**client.event_hooks, "request": [*client.event_hooks["request"], count]}
    Repository("owner/killed", api=api).push(folder)


@pytest.mark.slow
def test_a_kill_at_any_request_publishes_all_or_nothing(fresh_hub, hub_api, model, tmp_path):
    """Catches half a push, and a certificate that a kill cut."""
    api = hub_api(fresh_hub)
    Repository("owner/killed", api=api).push(model)
    first = holds(api, "owner/killed")
    changed(model)
    for kill_at in range(1, 40):
        (exit_code,) = ended(start(push_and_die, api, model, kill_at, output=tmp_path / "said.txt"))
        assert all(finding.holds for finding in check_certificate(model))
        if exit_code == 0:
            assert kill_at >= 7, "it was killed at each of its requests"
            break
        assert exit_code == -signal.SIGKILL, (tmp_path / "said.txt").read_text()
        assert holds(api, "owner/killed") == first
    assert holds(api, "owner/killed") != first
    assert holds(api, "owner/killed")[0]
