"""Results of a benchmark for the Hub's leaderboards: from the certificate only, and never of other data."""

import shutil
from pathlib import Path

import pytest
import yaml
from hub.certified import certified_model
from huggingface_hub import parse_eval_result_entries

from hf_cmim.errors import HfCmimError
from hf_cmim.hub.card_metadata import our_results
from hf_cmim.hub.certificate import Certificate
from hf_cmim.hub.eval_results import Benchmark, eval_results_fault, write_eval_results
from hf_cmim.hub.files import EVAL_RESULTS_NAME, unaccounted
from hf_cmim.hub.model_card import parsed_card, write_card
from hf_cmim.hub.upload import is_replaced, planned_upload
from hf_cmim.hub.verification import check_certificate

BENCHMARK = Benchmark("owner/fashion_mnist", "default")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return certified_model(tmp_path_factory.mktemp("original") / "model")


@pytest.fixture
def model(original, tmp_path):
    folder = Path(shutil.copytree(original, tmp_path / "model"))
    write_eval_results(folder, Certificate.read(folder), BENCHMARK, "owner/model")
    return folder


@pytest.fixture
def without_pictures(monkeypatch):
    """Cards of these tests need none, and drawing takes most of their time."""
    monkeypatch.setattr("hf_cmim.hub.model_card.find_spec", lambda name: None)


def fault(folder):
    return eval_results_fault(folder, Certificate.read(folder))


def changed(folder, change):
    path = folder / EVAL_RESULTS_NAME
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(entries[0])
    path.write_text(yaml.safe_dump(entries), encoding="utf-8")


def test_the_hubs_own_client_reads_it(model):
    """Catches a field under another name, and an accuracy that is not the card's."""
    (entry,) = parse_eval_result_entries(yaml.safe_load((model / EVAL_RESULTS_NAME).read_text(encoding="utf-8")))
    audit = Certificate.read(model).audit
    assert (entry.dataset_id, entry.task_id) == ("owner/fashion_mnist", "default")
    assert (entry.value, entry.date) == (41_850 / 45_000, audit.date)
    assert entry.source_url == "https://huggingface.co/owner/model/blob/main/cmim_certificate.json"
    assert fault(model) == ""


def test_the_card_and_the_leaderboard_say_the_same(model, without_pictures):
    """Catches two accuracies of one model: one for the card's readers, one for the leaderboard's."""
    write_card(model, Certificate.read(model), repo_id="owner/model")
    metadata, _ = parsed_card((model / "README.md").read_text(encoding="utf-8"), model / "README.md")
    accuracy = our_results(metadata)[0][0]["value"]
    (entry,) = yaml.safe_load((model / EVAL_RESULTS_NAME).read_text(encoding="utf-8"))
    assert entry["value"] == accuracy
    assert [finding.name for finding in check_certificate(model) if not finding.holds] == []
    assert "evaluation results" in [finding.name for finding in check_certificate(model)]


def test_it_is_written_only_when_asked_and_then_kept(model, without_pictures):
    """Catches a result of a benchmark that nobody registered, and one that a later card forgets."""
    write_card(model, Certificate.read(model))
    assert (model / EVAL_RESULTS_NAME).is_file()
    assert EVAL_RESULTS_NAME in planned_upload(model).files
    (model / EVAL_RESULTS_NAME).unlink()
    write_card(model, Certificate.read(model))
    assert not (model / EVAL_RESULTS_NAME).exists()
    assert is_replaced(EVAL_RESULTS_NAME), "a push removes that of an earlier state"


def test_a_result_of_other_data_does_not_stay(model, without_pictures):
    """Catches the accuracy of one data set on the leaderboard of another."""
    changed(model, lambda entry: entry["dataset"].update(id="owner/other"))
    write_card(model, Certificate.read(model))
    assert not (model / EVAL_RESULTS_NAME).exists()


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        ("owner/other", "the accuracy was measured on 'fashion_mnist train"),
        ("owner/fashion", "the accuracy was measured on"),
        ("fashion_mnist", "no id of a data set on the Hub"),
        ("owner/fashion_mnist/..", "no id of a data set on the Hub"),
    ],
)
def test_a_benchmark_that_was_not_measured_is_refused(model, dataset, said):
    """Catches a leaderboard with the accuracy of other data."""
    with pytest.raises(HfCmimError, match=said):
        write_eval_results(model, Certificate.read(model), Benchmark(dataset, "default"), "")


def test_an_unmeasured_model_has_no_result(tmp_path):
    """Catches a traceback where nothing was measured."""
    folder = certified_model(tmp_path / "model", audited=False)
    with pytest.raises(HfCmimError, match="neither audited nor evaluated"):
        write_card(folder, Certificate.read(folder), benchmark=BENCHMARK)
    assert not (folder / "README.md").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda entry: entry.update(value=0.99), "differs from the certificate"),
        (lambda entry: entry.update(date="2020-01-01"), "differs from the certificate"),
        (lambda entry: entry.update(verifyToken="forged"), "differs from the certificate"),
        (lambda entry: entry["dataset"].update(id="owner/other"), "is about 'owner/other', but the accuracy"),
        (lambda entry: entry["dataset"].update(id=5), "names no benchmark"),
        (lambda entry: entry.pop("dataset"), "names no benchmark"),
    ],
)
def test_a_changed_result_is_noticed(model, change, said):
    """Catches a better accuracy for the leaderboard."""
    changed(model, change)
    assert said in fault(model)


def test_the_owners_source_and_revision_are_the_owners(model):
    """Catches a model that fails because its owner names where the traces are."""
    changed(model, lambda entry: entry.update(source={"url": "https://example.com"}))
    changed(model, lambda entry: entry["dataset"].update(revision="0" * 40))
    assert fault(model) == ""


CONTENTS = [b"", b"[]", b"5", b"[5]", b"- {a: 1}\n- {b: 2}", b"{", b"\xff\xfe\x00", b"- !!python/object:os.system x",
            b"[" * 1500, b"-" * 2_001, b"&a [*a]"]  # fmt: skip


@pytest.mark.parametrize("content", CONTENTS, ids=[repr(content[:20]) for content in CONTENTS])
def test_what_is_no_result_is_one_sentence(model, content):
    """Catches a traceback of the parser, and code that runs while it reads."""
    (model / EVAL_RESULTS_NAME).write_bytes(content)
    assert fault(model)
    assert "\n" not in fault(model)


def test_links_out_of_the_folder_are_refused(model, tmp_path):
    """Catches a file that is changed or shown through a link."""
    shutil.move(model / ".eval_results", tmp_path / "elsewhere")
    (model / ".eval_results").symlink_to(tmp_path / "elsewhere")
    assert "is a link out of the folder" in fault(model)
    with pytest.raises(HfCmimError, match="is a link"):
        write_eval_results(model, Certificate.read(model), BENCHMARK, "")


def test_results_by_others_are_documents():
    """Catches a repository that fails since somebody added a result, and a loader's file that hides there."""
    assert unaccounted([".eval_results/gpqa.yaml", ".eval_results/hle.yml"], ()) == []
    hidden = [".eval_results/model.safetensors", ".eval_results/a/b.yaml", "other/x.yaml"]
    assert unaccounted(hidden, ()) == sorted(hidden)
