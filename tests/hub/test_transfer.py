"""Uploads and downloads against a real Hub: what goes, what stays, and what each fault says."""

import errno
import json
import uuid

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hub.certified import certified_model, save_model
from hub.signing_keys import write_pair
from huggingface_hub import errors
from safetensors.numpy import load_file, save_file

from hf_cmim.hub.certificate import Certificate
from hf_cmim.hub.certify import certify
from hf_cmim.hub.eval_results import Benchmark
from hf_cmim.hub.files import ATTESTATION_NAME, EVAL_RESULTS_NAME, MODEL_SIGNATURE_NAME
from hf_cmim.hub.hub_errors import explained
from hf_cmim.hub.model_card import write_card
from hf_cmim.hub.model_signature import ModelSigner
from hf_cmim.hub.transfer import Repository
from hf_cmim.hub.upload import planned_upload
from hf_cmim.hub.verification import check_certificate
from hf_cmim.report import CERTIFICATE_NAME

KEPT_BACK = {
    "training_args.bin": b"token", "optimizer.pt": b"1", "cmim_state.safetensors": b"2", "results.json": b"{}",
    "events.out.tfevents": b"3", "notes.txt": b"4", "my_model.safetensors": b"5", "data.arrow": b"6",
}  # fmt: skip


@pytest.fixture
def model(tmp_path):
    folder = certified_model(tmp_path / "model")
    write_card(folder, Certificate.read(folder), repo_id="owner/model")
    return folder


def repository(api, name, **settings):
    return Repository(name, api=api, **settings)


def names_on(api, name, **settings):
    return sorted(set(api.list_repo_files(name, **settings)) - {".gitattributes"})


def retrained(folder):
    """Other weights in the same folder, certified."""
    weights = load_file(folder / "model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    certify(folder)
    return folder


def test_only_named_files_leave_in_one_commit(hub, hub_api, model):
    """Catches a token, an optimizer state or a centroid on the Hub, and a push in several steps."""
    for name, content in KEPT_BACK.items():
        (model / name).write_bytes(content)
    (model / "checkpoint-5").mkdir()
    (model / "checkpoint-5" / "model.safetensors").write_bytes(b"7")
    api = hub_api(hub)
    repository(api, "owner/named").push(model)
    expected = ["README.md", "audit.html", "audit_forest.png", CERTIFICATE_NAME, "cmi_curve.png", "config.json"]
    expected += ["model.safetensors", "preprocessor_config.json"]
    assert names_on(api, "owner/named") == sorted(expected)
    assert len(api.list_repo_commits("owner/named")) == 2, "the first one is the Hub's own"
    assert planned_upload(model).kept_back == tuple(sorted([*KEPT_BACK, "checkpoint-5/"]))


def test_what_was_pushed_verifies_from_an_empty_cache(hub, hub_api, model):
    """Catches files that arrive changed, and downloads of more than the certificate names."""
    api = hub_api(hub)
    repository(api, "owner/fetched").push(model)
    commit = api.upload_file(path_or_fileobj=b"5" * 1000, path_in_repo="notes.md", repo_id="owner/fetched").oid
    before = len(hub.requests())
    fetched = repository(api, "owner/fetched").fetch()
    assert (fetched.faults, fetched.commit) == ((), commit)
    assert all(finding.holds for finding in check_certificate(fetched.folder, paths=fetched.paths))
    names = {request.path.rpartition("/")[2] for request in hub.requests()[before:] if "/resolve/" in request.path}
    model_files = {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert names == {CERTIFICATE_NAME, "README.md", "audit.html", *model_files}


def test_attestation_signatures_and_results_travel_and_go_with_their_certificate(hub, hub_api, model, tmp_path):
    """Catches a document that stays here, is not checked after a download, or stays there beside a newer state."""
    private, public = write_pair(tmp_path / "keys", ec.generate_private_key(ec.SECP256R1()))
    certificate = certify(model, attests=True)
    ModelSigner(private).sign(model, certificate)
    write_card(model, certificate, repo_id="owner/attested", benchmark=Benchmark("owner/fashion_mnist", "default"))
    api = hub_api(hub)
    attested = repository(api, "owner/attested")
    attested.push(model)
    documents = {ATTESTATION_NAME, MODEL_SIGNATURE_NAME, EVAL_RESULTS_NAME}
    assert documents <= {*names_on(api, "owner/attested")}
    fetched = attested.fetch()
    findings = list(check_certificate(fetched.folder, public, paths=fetched.paths, repo_id="owner/attested"))
    assert [finding for finding in findings if not finding.holds] == []
    assert {"attestation", "model signature", "evaluation results"} <= {finding.name for finding in findings}
    write_card(retrained(model), Certificate.read(model), repo_id="owner/attested")
    attested.push(model)
    assert documents.isdisjoint(names_on(api, "owner/attested"))


def test_uncertified_weights_on_the_hub_are_named(hub, hub_api, model):
    """Catches a pickle beside the certified weights that verification never sees."""
    api = hub_api(hub)
    repository(api, "owner/pickled").push(model)
    api.upload_file(path_or_fileobj=b"p", path_in_repo="pytorch_model.bin", repo_id="owner/pickled")
    (fault,) = repository(api, "owner/pickled").fetch().faults
    assert fault.startswith("pytorch_model.bin on the Hub: not certified")


def test_whole_checkpoints_beside_the_model_are_no_other_weights(hub, hub_api, model):
    """Catches a repository that was pushed with its checkpoints and never verifies, or is taken for another's."""
    api = hub_api(hub)
    repository(api, "owner/whole").push(model)
    for name in ("last-checkpoint/optimizer.pt", "last-checkpoint/model.safetensors", "training_args.bin"):
        api.upload_file(path_or_fileobj=b"state", path_in_repo=name, repo_id="owner/whole")
    assert repository(api, "owner/whole").fetch().faults == ()
    repository(api, "owner/whole").push(model)


def test_branches_and_private_repositories(hub, hub_api, model):
    """Catches an upload to the main branch, and one that everybody can read."""
    api = hub_api(hub)
    repository(api, "owner/branched", branch="candidate").push(model, private=True)
    assert names_on(api, "owner/branched") == []
    assert "model.safetensors" in names_on(api, "owner/branched", revision="candidate")
    assert api.model_info("owner/branched").private
    folder = repository(api, "owner/branched", branch="candidate").fetch().folder
    assert Certificate.read(folder).lineage == Certificate.read(model).lineage


# Whose model is there


def test_a_newer_state_of_the_same_folder_is_pushed(hub, hub_api, model):
    """Catches a refusal of the owner's own next training."""
    api = hub_api(hub)
    repository(api, "owner/again").push(model)
    repository(api, "owner/again").push(retrained(model))
    assert len(api.list_repo_commits("owner/again")) == 3


def test_another_model_is_not_overwritten_without_force(hub, hub_api, model, tmp_path):
    """Catches a typing error in a name that costs someone their model."""
    api = hub_api(hub)
    repository(api, "owner/taken").push(model)
    other = certified_model(tmp_path / "other", seed=1, audited=False)
    before = api.model_info("owner/taken").sha
    with pytest.raises(ValueError, match=r"owner/taken already holds another model .model.safetensors."):
        repository(api, "owner/taken").push(other)
    assert api.model_info("owner/taken").sha == before
    with pytest.raises(ValueError, match="already holds another model"):
        repository(api, "owner/taken", branch="candidate").push(other)
    assert [each.name for each in api.list_repo_refs("owner/taken").branches] == ["main"]  # no empty fork is left
    repository(api, "owner/taken").push(other, force=True)
    assert api.model_info("owner/taken").sha != before


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "tf_model.h5"])
def test_weights_without_a_certificate_are_someone_elses(hub, hub_api, model, name):
    """Catches taking a repository without our certificate for an empty one."""
    api = hub_api(hub)
    repo_id = f"owner/foreign-{name.split('.')[-1]}"
    api.create_repo(repo_id)
    api.upload_file(path_or_fileobj=b"w" * 100, path_in_repo=name, repo_id=repo_id)
    with pytest.raises(ValueError, match="already holds another model"):
        repository(api, repo_id).push(model)


def test_the_same_weights_may_gain_a_certificate(hub, hub_api, model):
    """Catches a refusal to add a card to a model that was pushed without one."""
    api = hub_api(hub)
    api.create_repo("owner/plain")
    api.upload_folder(repo_id="owner/plain", folder_path=model, allow_patterns=["config.json", "model.safetensors"])
    repository(api, "owner/plain").push(model)
    assert CERTIFICATE_NAME in names_on(api, "owner/plain")


def test_changed_weights_are_not_published_with_an_old_certificate(hub, hub_api, model):
    """Catches a certificate that does not speak of what is uploaded."""
    weights = load_file(model / "model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"does not fit its files: model.safetensors .* hf-cmim certify"):
        repository(hub_api(hub), "owner/stale").push(model)
    assert not hub_api(hub).repo_exists("owner/stale")


# Faults


@pytest.mark.parametrize("name", ["a b/c", "owner/mo del", "x/y/z", "owner/--bad--"])
def test_names_that_the_hub_forbids(name):
    """Catches a request with a name that can never be."""
    with pytest.raises(ValueError, match="Expected a repository as user/name"):
        Repository(name)


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("hf_wrong", "the Hub does not know your token, or you sent none .401.*hf auth login"),
        ("hf_reader", "your token may not do that .403"),
        (False, "you are not logged in|does not know your token"),
    ],
)
def test_tokens_that_may_not_write(hub, hub_api, model, token, said):
    """Catches a traceback of the client in the place of what to do."""
    with pytest.raises(ValueError, match=f"Could not .*({said})"):
        repository(hub_api(hub, token=token), "owner/forbidden").push(model)
    assert not hub_api(hub).repo_exists("owner/forbidden")


def test_a_repository_that_is_not_there(hub, hub_api):
    """Catches a missing repository taken for a missing certificate."""
    with pytest.raises(ValueError, match=r"owner/nothing: there is no such repository, or it is private .* .404."):
        repository(hub_api(hub), "owner/nothing").fetch()


def test_a_repository_without_a_certificate(hub, hub_api):
    """Catches a check of nothing that passes."""
    api = hub_api(hub)
    api.create_repo("owner/uncertified")
    with pytest.raises(ValueError, match="owner/uncertified holds no certified model"):
        repository(api, "owner/uncertified").fetch()


def test_a_revision_that_is_not_there(hub, hub_api, model):
    """Catches the main branch in the place of a misspelt one."""
    api = hub_api(hub)
    repository(api, "owner/revised").push(model)
    with pytest.raises(ValueError, match="owner/revised has no such branch, tag or commit"):
        repository(api, "owner/revised", branch="no-such").fetch()


def test_a_hub_that_is_down(fresh_hub, hub_api, model, impatient):
    """Catches a traceback where the Hub does not answer."""
    fresh_hub.kill()
    with pytest.raises(ValueError, match="the Hub does not answer .* It is down"):
        repository(hub_api(fresh_hub), "owner/model").push(model)


def test_a_hub_that_dies_in_the_middle_publishes_nothing_and_a_second_push_completes_it(
    fresh_hub, hub_api, model, impatient
):
    """Catches half a model on the Hub, and a push that cannot be repeated."""
    size = (model / "model.safetensors").stat().st_size
    fresh_hub.control(die_after_bytes=size // 2)
    with pytest.raises(ValueError, match="The upload to owner/model was cut"):
        repository(hub_api(fresh_hub), "owner/model").push(model)
    fresh_hub.wait_for_death()
    fresh_hub.restart()
    assert names_on(hub_api(fresh_hub), "owner/model") == []
    repository(hub_api(fresh_hub), "owner/model").push(model)
    folder = repository(hub_api(fresh_hub), "owner/model").fetch().folder
    assert all(finding.holds for finding in check_certificate(folder))


def test_a_hub_that_fails_says_its_status(fresh_hub, hub_api, model, impatient):
    """Catches a failed commit that is reported as done."""
    fresh_hub.control(fail={"path_contains": "/commit/", "times": 20, "status": 503})
    with pytest.raises(ValueError, match="the Hub answered with status 503"):
        repository(hub_api(fresh_hub), "owner/model").push(model)
    fresh_hub.control(reset=True)
    assert names_on(hub_api(fresh_hub), "owner/model") == []


def test_commits_of_others_in_between_are_not_overwritten(hub, hub_api, model, monkeypatch):
    """Catches a model that was pushed from elsewhere while this one was being prepared."""
    api = hub_api(hub)
    repo = repository(api, "owner/raced")
    repo.push(model)
    checked = Repository.check_not_another

    def race(self, *others, **keywords):
        remote = checked(self, *others, **keywords)
        api.upload_file(path_or_fileobj=uuid.uuid4().bytes, path_in_repo="notes.md", repo_id="owner/raced")
        return remote

    monkeypatch.setattr(Repository, "check_not_another", race)
    with pytest.raises(ValueError, match="somebody else committed to it meanwhile .412."):
        repo.push(retrained(model))


def test_offline_is_said(hub_api, hub, model, monkeypatch):
    """Catches an upload that is skipped without a word."""
    api = hub_api(hub)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE=1 forbids it"):
        repository(api, "owner/offline").push(model)


def test_a_full_disk_is_said():
    """Catches a file cut by a full disk that is taken for the Hub's fault."""
    with pytest.raises(ValueError, match="the disk is full"), explained("owner/model", "download from"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_no_token_at_all_is_said():
    """Catches the client's advice about its own functions."""
    with (
        pytest.raises(ValueError, match="you are not logged in. Log in"),
        explained("a/b", "upload to"),
    ):
        raise errors.LocalTokenNotFoundError("none")


def test_a_certificate_that_is_no_json_on_the_hub_is_another_models(hub, hub_api, model):
    """Catches a crash over a file that someone else wrote."""
    api = hub_api(hub)
    api.create_repo("owner/garbled")
    api.upload_file(path_or_fileobj=b"w", path_in_repo="model.safetensors", repo_id="owner/garbled")
    for text in (b"{", json.dumps([1]).encode()):
        api.upload_file(path_or_fileobj=text, path_in_repo=CERTIFICATE_NAME, repo_id="owner/garbled")
        with pytest.raises(ValueError, match="already holds another model"):
            repository(api, "owner/garbled").push(model)


def test_a_folder_without_a_certificate_is_not_pushed(hub, hub_api, tmp_path):
    """Catches an upload of which nothing is said."""
    folder = save_model(tmp_path / "bare")
    with pytest.raises(ValueError, match=f"Expected {CERTIFICATE_NAME}"):
        repository(hub_api(hub), "owner/bare").push(folder)
