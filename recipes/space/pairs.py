"""Pairs of models for the page: read from a file, opened once, with the verdict of a checked certificate."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor

from hf_cmim import AuditReport, HfCmimError
from hf_cmim.data.rows import DataSource, open_rows
from hf_cmim.data.views import View, kind_of
from hf_cmim.hub.certificate import Certificate
from hf_cmim.hub.transfer import Repository
from hf_cmim.hub.verification import check_certificate
from hf_cmim.pages import wording
from hf_cmim.pages.markdown import escaped
from hf_cmim.positions import usable_positions
from hf_cmim.teachers.model import load_classifier

TWIN, HARDENED = "trained with cross-entropy", "hardened"
TEST_SAMPLES = 600
"""Number of test samples in the picture of clusters."""


class VisitorError(Exception):
    """A sentence for the visitor of the page."""


@dataclass(frozen=True)
class Pair:
    """A hardened model, its twin and labelled data: Hub ids, or folders on the machine of the page's owner."""

    title: str
    hardened: str
    twin: str
    dataset: str


class OpenedPair(NamedTuple):
    """The models of a pair by name, their answers to test samples, and the verdict as Markdown."""

    kind: str
    models: dict[str, Any]
    view: View
    class_names: list[str]
    samples: list[Any]
    labels: Tensor
    logits: dict[str, Tensor]
    verdict: str


def read_pairs(path: Path) -> dict[str, Pair]:
    """Return the pairs in a YAML file, by title."""
    names = sorted(field.name for field in fields(Pair))
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise HfCmimError(f"No pairs of models can be read from {path}: {error}.") from error
    is_list = isinstance(entries, list) and bool(entries)
    if not is_list or any(not isinstance(entry, dict) or sorted(entry) != names for entry in entries):
        raise HfCmimError(f"Expected a list of pairs of models in {path}, each with {', '.join(names)}.")
    return {str(entry["title"]): Pair(**{name: str(entry[name]) for name in names}) for entry in entries}


@functools.cache
def open_pair(pair: Pair) -> OpenedPair:
    """Check the certificate, load both models and ask them about test samples; the second call is free."""
    try:
        folder, certificate = certified(pair)
        models = {TWIN: load_classifier(pair.twin), HARDENED: load_classifier(str(folder))}
        kind, (twin_names, names) = kind_of(models[HARDENED]), map(class_names, models.values())
        if twin_names != names:
            raise HfCmimError(f"{pair.twin} has other classes than {pair.hardened}, or another order of them.")
        view = View.of(str(folder), kind).limited_to(usable_positions(models[HARDENED]))
        rows = open_rows(DataSource(pair.dataset, max_test_samples=TEST_SAMPLES, test_share=0.1), kind, names)
    except (HfCmimError, OSError) as error:
        print(f"“{pair.title}” cannot be opened: {error}", flush=True)
        raise VisitorError(
            f"“{pair.title}” cannot be opened: a model or the data are missing or broken. Choose other models, or tell"
            " the owner of this page, whose log has the reason."
        ) from error
    samples = list(rows.test[rows.sample_column])
    labels = torch.tensor([names.index(rows.classes[value]) for value in rows.test[rows.label_column]])
    logits = {name: logits_of(model, view, samples) for name, model in models.items()}
    return OpenedPair(kind, models, view, names, samples, labels, logits, verdict_text(certificate))


def class_names(model: Any) -> list[str]:
    """Return the class names of a model in the order of its logits."""
    return [str(model.config.id2label[number]) for number in range(model.config.num_labels)]


def logits_of(model: Any, view: View, samples: Sequence[Any]) -> Tensor:
    """Return the logits `(N, C)` of a model for N samples."""
    with torch.inference_mode():
        starts = range(0, len(samples), 100)
        batches = [view.batch(view.prepare(samples[start : start + 100])) for start in starts]
        return torch.cat([model(**batch).logits.float() for batch in batches])


def certified(pair: Pair) -> tuple[Path, Certificate]:
    """Return the folder of the hardened model and its certificate, which was checked."""
    if Path(pair.hardened).is_dir():
        folder = Path(pair.hardened)
        findings = list(check_certificate(folder))
    else:
        fetched = Repository(pair.hardened).fetch()
        folder = fetched.folder
        findings = list(check_certificate(folder, paths=fetched.paths, repo_id=pair.hardened))
    faults = [finding.sentence for finding in findings if not finding.holds]
    if faults:
        raise VisitorError(
            f"The certificate of “{pair.title}” does not hold, so neither answers nor a verdict are shown: {faults[0]}"
        )
    return folder, Certificate.read(folder)


def verdict_text(certificate: Certificate) -> str:
    """Return the verdict of a certificate and its limits as Markdown; every name in it is escaped."""
    report = certificate.audit
    if report is None:
        return "## No verdict\n\nThis model was not audited: nobody has measured if it can be distilled."
    return "\n\n".join(
        [
            f"## {escaped(wording.criterion_verdict(report, report.primary))}",
            *map(escaped, _sentences(report)),
            f"The verdict says nothing about: {'; '.join(name.lower() for name in wording.LIMITS)}.",
            "The certificate belongs to these weights, and the verdict follows from the accuracies in it. The owner of"
            " the model reports these accuracies.",
            _scope_table(report),
        ]
    )


def _sentences(report: AuditReport) -> list[str]:
    """Return the verdict, its doubts and the positive control in sentences."""
    doubts = [*wording.fatal_sentences(report), wording.first_doubt(report)]
    sentences = [wording.verdict_sentence(report.primary, report.margin), *doubts]
    sentences.append(wording.smallest_margin_sentence(report.primary))
    twins = [control for control in report.controls if control.facts == report.twin]
    sentences += [wording.control_sentence(twin, report.margin) for twin in twins] or [wording.NO_CONTROL]
    return [sentence for sentence in sentences if sentence]


def _scope_table(report: AuditReport) -> str:
    rows = [*wording.scope_rows(report).items(), ("Date", report.date)]
    return "\n".join(
        ["| audit | |", "|---|---|", *(f"| {escaped(name)} | {escaped(value)} |" for name, value in rows)]
    )
