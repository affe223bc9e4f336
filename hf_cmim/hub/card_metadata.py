"""Metadata of a model card, which the Hub reads, searches and validates."""

import re
from collections.abc import Sequence
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData

from hf_cmim.hub.certificate import DEFENSE_TRAINER, Certificate, Training
from hf_cmim.report import ModelFacts
from hf_cmim.tasks import Task, task_of

TAGS = ("hf_cmim", "cmim", "arxiv:2507.00012")
TAGS_OF_OTHER_LOSSES = ("hf_cmim",)
"""Tags of a model that `DefenseTrainer` trained: those of CMIM would claim another method."""
AUDITED = "cmim-audited"
"""Tag of a model with an audit of any verdict: a verdict needs more words than a tag has."""
MEASURED_BY_US = "measured by hf_cmim"
"""Suffix of the names of our metrics, which tells them from the owner's in a later update."""
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
SHOWN_TEMPERATURE = 4.0


def card_metadata(
    certificate: Certificate, name: str, license: str | None, language: str | None, tags: Sequence[str]
) -> dict[str, Any]:
    """Return the metadata of a certified model in the Hub's format, without entries for unknown values.

    Args:
        certificate: certificate of the model.
        name: user/name, or the name of a folder.
        license: identifier of the Hub, or None.
        language: code of the Hub, or None.
        tags: further tags.
    """
    training, task = certificate.training, task_of(certificate.architecture)
    audited = [AUDITED] if certificate.audit is not None else []
    dataset = training.dataset if training is not None else ""
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=None if task is None else task.name,
        base_model=(training.base_model or None) if training is not None else None,
        # The Hub refuses a card whose data set is no valid id, such as a local path.
        datasets=[dataset] if "/" in dataset and HUB_ID.fullmatch(dataset) else None,
        license=license,
        language=language,
        tags=list(dict.fromkeys([*tags_of(training), *audited, *tags])),
        model_name=name.rpartition("/")[2],
        eval_results=_results(certificate, task) or None,
    )
    return plain_metadata(data)


def tags_of(training: Training | None) -> tuple[str, ...]:
    """Return the tags of hf_cmim for a model with such a training."""
    is_of_defense = training is not None and training.trainer == DEFENSE_TRAINER
    return TAGS_OF_OTHER_LOSSES if is_of_defense else TAGS


def plain_metadata(data: Any) -> dict[str, Any]:
    """Return a card's data as plain values."""
    # huggingface_hub does not annotate this method.
    values: dict[str, Any] = data.to_dict()
    return values


def _results(certificate: Certificate, task: Task | None) -> list[EvalResult]:
    """Return accuracy and CMI; the Hub accepts no result without a task."""
    measured = measured_facts(certificate)
    if task is None or measured is None:
        return []
    dataset, facts = measured
    curve = dict(facts.curve)
    values = {"accuracy": ("Accuracy", facts.accuracy)}
    if SHOWN_TEMPERATURE in curve:
        values["cmi"] = (f"CMI at T = {SHOWN_TEMPERATURE:g}, nats", curve[SHOWN_TEMPERATURE])
    dataset = dataset or "evaluation data"
    return [
        EvalResult(
            task_type=task.name,
            # The type is an identifier, the name is free text.
            dataset_type=re.sub(r"[^\w./-]+", "-", dataset).strip("-") or "unnamed",
            dataset_name=dataset,
            metric_type=kind,
            metric_name=f"{words}, {MEASURED_BY_US}",
            metric_value=round(value, 6),
        )
        for kind, (words, value) in values.items()
    ]


def measured_facts(certificate: Certificate) -> tuple[str, ModelFacts] | None:
    """Return the name of the test data and the figures on it: the audit's if there is one, else the trainer's."""
    audit, evaluation = certificate.audit, certificate.evaluation
    if audit is not None:
        return audit.scope.test_set, audit.teacher
    return None if evaluation is None else (evaluation.dataset, evaluation.facts)


def merged(earlier: dict[str, Any], ours: dict[str, Any]) -> str:
    """Return the metadata of an earlier card, updated with ours, as YAML.

    Tags and data sets are joined. Our results replace our earlier results and keep the owner's. For all other entries
    our value wins.

    Args:
        earlier: metadata of the existing card.
        ours: metadata of the certificate.
    """
    values = {**earlier, **ours}
    # A model that is no longer audited must lose the tag.
    earlier_tags = [tag for tag in _listed(earlier.get("tags")) if tag != AUDITED]
    values["tags"] = list(dict.fromkeys([*earlier_tags, *ours["tags"]]))
    values["datasets"] = list(dict.fromkeys([*_listed(earlier.get("datasets")), *_listed(ours.get("datasets"))]))
    owner_entries = []
    for entry in _listed(earlier.get("model-index")):
        owner_results = [result for result in entry.get("results", []) if not _is_ours(result)]
        if owner_results:
            owner_entries.append({**entry, "results": owner_results})
    values["model-index"] = [*ours.get("model-index", []), *owner_entries]
    values = {name: value for name, value in values.items() if value not in (None, [], "")}
    return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True)).strip()


def our_results(metadata: dict[str, Any]) -> list[Any]:
    """Return the metrics in a card's metadata that are marked as measured by hf_cmim."""
    entries = [entry for entry in _listed(metadata.get("model-index")) if isinstance(entry, dict)]
    results = [result for entry in entries for result in _listed(entry.get("results")) if isinstance(result, dict)]
    return [result.get("metrics") for result in results if _is_ours(result)]


def _listed(value: Any) -> list[Any]:
    """Return a value of YAML as a list: owners write single values without brackets."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _is_ours(result: dict[str, Any]) -> bool:
    metrics = [metric for metric in _listed(result.get("metrics")) if isinstance(metric, dict)]
    return any(str(metric.get("name", "")).endswith(MEASURED_BY_US) for metric in metrics)
