"""Card of a model that cannot have a certificate: an adapter, a custom class, or a plain PyTorch module."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from huggingface_hub import ModelCardData
from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError
from huggingface_hub.repocard import RepoCard

from hf_cmim.hub.card_metadata import HUB_ID, plain_metadata, tags_of
from hf_cmim.hub.certificate import Evaluation, Training
from hf_cmim.hub.files import CARD_NAME
from hf_cmim.hub.model_card import figures_of, kind_of, render, write_section
from hf_cmim.hub.transfer import Repository

Library = Literal["peft", "transformers", "pytorch"]
LINEAGE = "cmim_lineage"
"""Key of a random id in the card's metadata. It tells a newer version of this model from a different model."""


@dataclass(frozen=True)
class UncertifiedModel:
    """Description of a model without a certificate, for its card.

    Attributes:
        reason: one or two sentences with the reason why it has no certificate.
        library: library that loads it; "pytorch" for a state dict.
        auto_model: name of the class of transformers that loads it or its base model.
        base_model: Hub id of the base model, or "".
        class_names: names of the classes in the order of the logits; empty for a model without names.
        lineage: random id, kept from push to push.
    """

    reason: str
    library: Library
    auto_model: str
    base_model: str
    class_names: tuple[str, ...]
    lineage: str


def write_uncertified_card(
    folder: Path,
    model: UncertifiedModel,
    training: Training,
    evaluation: Evaluation | None,
    *,
    repo_id: str = "",
    license: str | None = None,
    language: str | None = None,
    tags: Sequence[str] = (),
) -> Path:
    """Write our part of README.md for a model without a certificate; the owner's text in it stays.

    Args:
        folder: folder of the model.
        model: description of the model.
        training: record of the training.
        evaluation: measurement of these weights, or None.
        repo_id: user/name on the Hub; "" for the folder's name.
        license: identifier of the Hub; None keeps the card's entry.
        language: code of the Hub; None keeps the card's entry.
        tags: further tags.

    Returns:
        Path of the card.

    Raises:
        HfCmimError: an existing card with metadata that cannot be read.
    """
    name = repo_id or folder.resolve().name
    lineage: Any = {LINEAGE: model.lineage}
    data = ModelCardData(
        library_name=model.library,
        base_model=model.base_model or None,
        datasets=[training.dataset] if "/" in training.dataset and HUB_ID.fullmatch(training.dataset) else None,
        license=license,
        language=language,
        tags=list(dict.fromkeys([*tags_of(training), *tags])),
        **lineage,
    )
    text = render(
        "uncertified_card.md.jinja",
        training=training,
        name=name.rpartition("/")[2],
        model=model,
        kind=kind_of(training),
        is_adapter=model.library == "peft",
        loading=_loading(model, name),
        evaluation=evaluation,
        figures=figures_of(evaluation),
    )
    return write_section(folder, plain_metadata(data), text)


def lineage_of(card: Path) -> str:
    """Return the lineage in the metadata of a card, or "" for a missing card or a card without a lineage."""
    if not card.is_file():
        return ""
    try:
        data = RepoCard(card.read_text(encoding="utf-8")).data
    except (ValueError, yaml.YAMLError):
        return ""
    return str(data.get(LINEAGE) or "")


def published_lineage(repository: Repository) -> str:
    """Return the lineage in the card of a repository, or "" for a missing card or a card without a lineage."""
    try:
        path = repository.api.hf_hub_download(repository.repo_id, CARD_NAME, revision=repository.branch)
    except (EntryNotFoundError, RevisionNotFoundError):
        return ""
    return lineage_of(Path(path))


def _loading(model: UncertifiedModel, name: str) -> str:
    """Return Python code that loads the model."""
    if model.library == "pytorch":
        return (
            "from safetensors.torch import load_file\n\n"
            'weights = load_file("model.safetensors")  # then load_state_dict of your own model class'
        )
    if model.library == "transformers":
        return (
            f"from transformers import {model.auto_model}\n\n"
            f"model = {model.auto_model}.from_pretrained({json.dumps(name)}, trust_remote_code=True)"
        )
    # An adapter's configuration holds no number of classes. Without it, the base model would get a head of two.
    count: Any = len(model.class_names) or "NUMBER_OF_CLASSES"
    return (
        f"from peft import PeftModel\nfrom transformers import {model.auto_model}\n\n"
        f"base = {model.auto_model}.from_pretrained({json.dumps(model.base_model)}, num_labels={count})\n"
        f"model = PeftModel.from_pretrained(base, {json.dumps(name)})"
    )
