"""A card's metadata: what the Hub reads, searches and validates."""

import re
from collections.abc import Sequence
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData

from hf_cmim.hub.certificate import Certificate
from hf_cmim.tasks import Task, task_of

TAGS = ("hf_cmim", "cmim", "arxiv:2507.00012")
AUDITED = "cmim-audited"
"""Tag of a model with an audit, whatever came out: a verdict needs more words than a tag has."""
MEASURED_BY_US = "measured by hf_cmim"
"""End of the names of our metrics, by which they are found again."""
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
SHOWN_TEMPERATURE = 4.0


def card_metadata(
    certificate: Certificate, name: str, license: str | None, language: str | None, tags: Sequence[str]
) -> dict[str, Any]:
    """Return what the certificate says, in the Hub's words; what is not known is left out."""
    training, task = certificate.training, task_of(certificate.architecture)
    audited = [AUDITED] if certificate.audit is not None else []
    dataset = training.dataset if training is not None else ""
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=None if task is None else task.name,
        base_model=(training.base_model or None) if training is not None else None,
        datasets=[dataset] if "/" in dataset and HUB_ID.fullmatch(dataset) else None,
        license=license,
        language=language,
        tags=list(dict.fromkeys([*TAGS, *audited, *tags])),
        model_name=name.rpartition("/")[2],
        eval_results=_results(certificate, task) or None,
    )
    return plain_metadata(data)


def plain_metadata(data: Any) -> dict[str, Any]:
    """Return a card's data as plain values; huggingface_hub leaves the method unannotated."""
    values: dict[str, Any] = data.to_dict()
    return values


def _results(certificate: Certificate, task: Task | None) -> list[EvalResult]:
    """Return accuracy and CMI, from the audit where there is one."""
    audit, evaluation = certificate.audit, certificate.evaluation
    if task is None:
        return []  # the Hub files a result under a task
    if audit is not None:
        dataset, facts = audit.scope.test_set, audit.teacher
    elif evaluation is not None:
        dataset, facts = evaluation.dataset, evaluation.facts
    else:
        return []
    curve = dict(facts.curve)
    values = {"accuracy": ("Accuracy", facts.accuracy)}
    if SHOWN_TEMPERATURE in curve:
        values["cmi"] = (f"CMI at T = {SHOWN_TEMPERATURE:g}, nats", curve[SHOWN_TEMPERATURE])
    known = dataset or "evaluation data"
    return [
        EvalResult(
            task_type=task.name,
            dataset_type=re.sub(r"[^\w./-]+", "-", known).strip("-") or "unnamed",
            dataset_name=known,
            metric_type=kind,
            metric_name=f"{words}, {MEASURED_BY_US}",
            metric_value=round(value, 6),
        )
        for kind, (words, value) in values.items()
    ]


def merged(known: dict[str, Any], ours: dict[str, Any]) -> str:
    """Return both as YAML: lists are joined, our results replace our earlier ones, of the rest ours wins.

    Args:
        known: of the card that was there.
        ours: what is known now.
    """
    values = {**known, **ours}
    earlier = [tag for tag in _listed(known.get("tags")) if tag != AUDITED]
    values["tags"] = list(dict.fromkeys([*earlier, *ours["tags"]]))
    values["datasets"] = list(dict.fromkeys([*_listed(known.get("datasets")), *_listed(ours.get("datasets"))]))
    others = [
        {**entry, "results": results}
        for entry in _listed(known.get("model-index"))
        if (results := [each for each in entry.get("results", []) if not _is_ours(each)])
    ]
    values["model-index"] = [*ours.get("model-index", []), *others]
    values = {name: value for name, value in values.items() if value not in (None, [], "")}
    return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True)).strip()


def our_results(metadata: dict[str, Any]) -> list[Any]:
    """Return the values that a card's metadata give as measured by hf_cmim."""
    entries = [entry for entry in _listed(metadata.get("model-index")) if isinstance(entry, dict)]
    results = [each for entry in entries for each in _listed(entry.get("results")) if isinstance(each, dict)]
    return [each.get("metrics") for each in results if _is_ours(each)]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _is_ours(result: dict[str, Any]) -> bool:
    metrics = [each for each in _listed(result.get("metrics")) if isinstance(each, dict)]
    return any(str(metric.get("name", "")).endswith(MEASURED_BY_US) for metric in metrics)
