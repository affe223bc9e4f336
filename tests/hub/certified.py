"""Small models with certificates, and an audit whose verdicts do follow from its results."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from pages import reports
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from hf_cmim.hub.certify import certify
from hf_cmim.report import CriterionResult
from hf_cmim.statistics import Baselines, Design, decide
from hf_cmim.teachers import ModelTeacher

NAMES = ("zero", "one", "two")
LOOKS = (3, 5)


def save_model(folder: Path, seed: int = 0, names: tuple[str, ...] = NAMES, processor: bool = True) -> Path:
    """A ViT with random weights, as `save_pretrained` leaves it."""
    torch.manual_seed(seed)
    config = ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=4, patch_size=2,
        id2label=dict(enumerate(names)), label2id={name: number for number, name in enumerate(names)},
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(folder)
    if processor:
        ViTImageProcessorPil(size={"height": 4, "width": 4}).save_pretrained(folder)
    return folder


def genuine_audit(folder: Path, gain: float = -0.01, seed: int = 0):
    """An audit of the model in a folder: two attacks, two references, decided by `hf_cmim.statistics` itself."""
    rng = np.random.default_rng(seed)
    means = {"LS": 0.910, "CE": 0.905, "kd": 0.910 + gain, "dkd": 0.910 + gain / 2}
    roles = {"LS": "reference", "CE": "reference", "kd": "knockoff", "dkd": "knockoff"}
    design = Design(margin=0.005, looks=LOOKS)
    arms = [reports.arm(name, roles[name], mean, 15, rng) for name, mean in means.items()]
    accuracies = {arm.name: arm.accuracies for arm in arms}
    results = []
    for kind, rivals in (("teacher-free", ("LS", "CE")), ("paper", ("LS",)), ("no-leak", ())):
        baselines = {name: Baselines("LS", rivals) for name in ("kd", "dkd") if rivals}
        decision = decide(accuracies, baselines, 2, design)
        results.append(
            CriterionResult(
                kind,
                kind == "teacher-free",
                decision.verdict,
                baselines,
                decision.comparisons,
                decision.smallest_margin,
            )
        )
    whole = reports.report(attacks=2)
    fingerprint = ModelTeacher(folder).fingerprint()
    return replace(
        whole, arms=tuple(arms), criteria=tuple(results), design=design, reference="LS", looks=LOOKS, accounting=(),
        teacher=replace(whole.teacher, fingerprint=fingerprint, name=folder.name),
    )  # fmt: skip


def certified_model(folder: Path, *, audited: bool = True, seed: int = 0) -> Path:
    """A model with its certificate."""
    save_model(folder, seed)
    certify(folder, audit=genuine_audit(folder) if audited else None)
    return folder
