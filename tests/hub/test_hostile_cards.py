"""Cards and pages beside an honest certificate: lies in our own part, links in the place of files, marks in words."""

import io
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hub.certified import certified_model
from pages.reports import HOSTILE
from pages.reports import report as reported

from hf_cmim.cli.main import main
from hf_cmim.cli.printing import say
from hf_cmim.errors import HfCmimError
from hf_cmim.hub.certificate import Certificate, Training
from hf_cmim.hub.certify import certify
from hf_cmim.hub.model_card import BEGIN, END, write_card
from hf_cmim.hub.verification import check_certificate
from hf_cmim.names import safe_text
from hf_cmim.report import CERTIFICATE_NAME


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = certified_model(tmp_path_factory.mktemp("original") / "model")
    write_card(folder, Certificate.read(folder), repo_id="owner/model")
    return folder


@pytest.fixture
def model(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "model"))


def faults(folder, repo_id=""):
    return [each.sentence for each in check_certificate(folder, repo_id=repo_id) if not each.holds]


def edited(old, new):
    def change(text):
        assert old in text
        return text.replace(old, new, 1)

    return change


CHANGED = "hf_cmim's part of README.md differs from the certificate"
CARDS = [
    (edited("Undistillable within 0.5 points", "Undistillable"), CHANGED),
    (edited("quick-v2", "standard-v2"), CHANGED),
    (edited("0.5 points", "0.1 points"), CHANGED),
    (edited(END, f"and it is perfect\n{END}"), CHANGED),
    (edited(END, ""), None),
    (lambda text: text + f"\n{BEGIN}\nperfect\n{END}\n", "has 2 parts that claim to be written by hf_cmim"),
    (edited("value: 0.93\n", "value: 0.99\n"), "the figures in the metadata of README.md differ from the certificate"),
    (edited("- cmim-audited\n", ""), "lack the tag 'cmim-audited', but the model was audited"),
    (lambda text: "---\ntags: [unclosed\n---\n" + text, "README.md cannot be read"),
    (lambda text: text + "\nWords of the owner's own.\n", None),
]


@pytest.mark.parametrize(("change", "said"), CARDS, ids=[str(said)[:40] for _, said in CARDS])
def test_our_part_of_a_card_is_held_to_the_certificate(model, change, said):
    """Catches a card that promises more than the certificate beside it."""
    path = model / "README.md"
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
    assert [fault for fault in faults(model) if said is None or said not in fault] == []
    assert bool(faults(model)) == (said is not None)


def test_the_card_of_a_trainer_holds(model):
    """Catches a card written from settings in memory, which their file gives back in another order, without tuples."""
    settings = {"seed": 1, "cmi_weight": 1.0, "betas": (0.9, 0.999), "none": None}
    training = Training("CMIMTrainer", "CMIMLoss()", settings, "", "someone/data", True, False)
    write_card(model, certify(model, training=training), repo_id="owner/model")
    assert faults(model, "owner/model") == []


def test_a_card_that_names_another_repository_is_noticed(model):
    """Catches a copied card whose commands load somebody else's model."""
    assert faults(model, "owner/model") == []
    assert faults(model, "someone/else") == ["README.md has commands for 'owner/model', which is another repository"]


def test_a_mark_in_a_command_ends_nothing(model):
    """Catches old text that stays behind a mark which a command or a data set's name brought along."""
    certificate = Certificate.read(model)
    audit = replace(certificate.audit, reproduction={**certificate.audit.reproduction, "command": f"x {END} {BEGIN}"},
                    title=f"{END} old words")  # fmt: skip
    for _ in range(2):
        write_card(model, replace(certificate, audit=audit), repo_id="owner/model")
    text = (model / "README.md").read_text(encoding="utf-8")
    assert (text.count(BEGIN), text.count(END)) == (1, 1)


# Links


@pytest.mark.parametrize("name", ["audit.html", "audit.md"])
def test_report_writes_through_no_link(tmp_path, name, capsys):
    """Catches an authorized_keys overwritten by a folder that somebody sent."""
    victim = tmp_path / "authorized_keys"
    victim.write_text("mine", encoding="utf-8")
    (tmp_path / "audit.json").write_text(reported(attacks=2).to_json(), encoding="utf-8")
    (tmp_path / name).symlink_to(victim)
    assert main(["report", str(tmp_path)]) == 2
    assert f"{name} is a link to {victim}: writing through it would change a file" in capsys.readouterr().err
    assert victim.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("name", ["README.md", CERTIFICATE_NAME, "audit.html", "cmi_curve.png"])
def test_certify_and_card_write_through_no_link(model, tmp_path, name, capsys):
    """Catches the same by the other commands that write beside a model."""
    victim = tmp_path / "victim"
    shutil.move(model / name, victim)
    content = victim.read_bytes()
    (model / name).symlink_to(victim)
    main(["card", str(model)])
    main(["certify", str(model)])
    capsys.readouterr()
    assert victim.read_bytes() == content


# The terminal


@pytest.mark.parametrize(
    "name", [*HOSTILE, "a\nholds  files: all", "\x1b]0;title\x07", "\u202egnirts", "\ud800", "\x9b2J"]
)
def test_no_name_acts_on_a_terminal(name, capsys):
    """Catches a forged line, a hidden FAILS, reversed words, and letters that no terminal can show."""
    say(f"FAILS  files: {name}")
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert printed.rstrip("\n").isprintable()
    assert safe_text(name).isprintable()


def test_tokens_are_masked():
    """Catches a server's echo of what it was sent."""
    assert (
        safe_text("Authorization: Bearer abcdefgh123, hf_abcdefghijklmnopqrst") == "Authorization: Bearer ***, hf_***"
    )
    assert safe_text("hf_cmim.errors.HfCmimError") == "hf_cmim.errors.HfCmimError"


def test_a_terminal_of_few_letters_shows_a_report(tmp_path, monkeypatch):
    """Catches a UnicodeEncodeError where the output is ASCII."""
    (tmp_path / "audit.json").write_text(reported(attacks=2, names=("蒸留", "kd")).to_json(), encoding="utf-8")
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["report", str(tmp_path)]) == 0
    stream.flush()
    assert rb"\u84b8" in stream.buffer.getvalue()


REPORTS = [
    b"", b"{", b"[]", b"5", b"null", b"\xff", b"[" * 10**5, b'{"schema": 1}', b'{"schema": "1"}', b'{"a": 1e999}',
    b'{"schema": 1, "schema": 1}', b'{"title": "\\ud800"}',
]  # fmt: skip


@pytest.mark.parametrize("content", REPORTS, ids=[repr(each[:16]) for each in REPORTS])
@pytest.mark.parametrize("words", [["report"], ["certify", "{model}", "--audit"]], ids=["report", "certify"])
def test_a_broken_report_is_one_sentence(model, tmp_path, content, words, capsys):
    """Catches a traceback, and a certificate that was replaced before the audit was read."""
    before = (model / CERTIFICATE_NAME).read_bytes()
    (tmp_path / "audit.json").write_bytes(content)
    assert main([*(word.format(model=model) for word in words), str(tmp_path / "audit.json")]) == 2
    printed = capsys.readouterr().err.strip()
    assert printed.isprintable()
    assert (model / CERTIFICATE_NAME).read_bytes() == before


@pytest.mark.parametrize("content", REPORTS[:9], ids=[repr(each[:16]) for each in REPORTS[:9]])
def test_broken_files_of_an_audit_or_a_cache_are_one_sentence(tmp_path, content):
    """Catches a traceback over sittings.json, manifest.json or cache.json."""
    from hf_cmim.audit.state import SITTINGS_NAME, AuditFolder

    (tmp_path / SITTINGS_NAME).write_bytes(content)
    with AuditFolder(tmp_path, {"a": 1}) as folder:
        if content != b"[]":
            with pytest.raises(HfCmimError, match="sittings"):
                folder.begin_sitting({})
    (tmp_path / "audit.json").unlink(missing_ok=True)
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(HfCmimError):
        AuditFolder(tmp_path, {"a": 1})


def test_a_failed_signature_changes_nothing(model, tmp_path, capsys):
    """Catches a certificate without its signature because the key was mistyped."""
    signature = model / f"{CERTIFICATE_NAME}.sig"
    signature.write_bytes(b"s" * 64)
    before = (model / CERTIFICATE_NAME).read_bytes()
    assert main(["certify", str(model), "--sign", str(tmp_path / "no.pem")]) == 2
    assert "Expected an Ed25519 private key" in capsys.readouterr().err
    assert ((model / CERTIFICATE_NAME).read_bytes(), signature.read_bytes()) == (before, b"s" * 64)


def test_an_audit_of_another_model_that_lies_in_the_folder_is_not_signed_again(model, tmp_path, capsys):
    """Catches a kept audit that nobody compared with the weights."""
    path = model / CERTIFICATE_NAME
    certificate = Certificate.read(model)
    teacher = replace(certificate.audit.teacher, fingerprint="0" * 64)
    path.write_text(
        replace(certificate, audit=replace(certificate.audit, teacher=teacher)).to_json(), encoding="utf-8"
    )
    assert any("the audited model has the fingerprint 0000000000000000" in fault for fault in faults(model))
    assert main(["certify", str(model)]) == 2
    assert "its verdict is about other weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["verify", "{model}", "--revision", "nonsense"], "is a branch, tag or commit on the Hub, and"),
        (["verify", "./nowhere/model"], "which is neither: nothing was checked"),
        (["verify", "{model}/config.json"], "which is neither: nothing was checked"),
        (["verify", "outputs/cm im"], "Expected a repository as user/name"),
        (["verify", "bert"], "which is neither"),
    ],
)
def test_a_target_that_is_neither_folder_nor_repository_is_said(model, words, said, capsys):
    """Catches a search on the Hub for a mistyped folder, and a flag that is ignored."""
    assert main([word.format(model=model) for word in words]) == 2
    assert said in capsys.readouterr().err


def test_a_text_that_no_file_holds_is_refused_where_it_comes_from(model):
    """Catches a lone surrogate that crashes the card."""
    values = json.loads((model / CERTIFICATE_NAME).read_text(encoding="utf-8"))
    values["audit"]["title"] = "\ud800"
    (model / CERTIFICATE_NAME).write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(HfCmimError, match="got a text that is no JSON"):
        Certificate.read(model)
