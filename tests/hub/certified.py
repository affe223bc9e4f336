"""Small models with certificates, and an audit whose verdicts do follow from its results."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import scipy.stats
import torch
from pages import reports
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from hf_cmim.attacks.composition import Composition
from hf_cmim.attacks.references import reference_settings
from hf_cmim.attacks.suites import QUICK_V2
from hf_cmim.hub.certify import certify
from hf_cmim.hub.verified_figures import suite_words
from hf_cmim.report import ArmResult, ClassAnswersControl, CriterionResult, Interval, LabelFloor
from hf_cmim.report.arm_names import arm_name
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


SAMPLES = 45_000
SCALE = 2.345
"""Logit scale of the teacher that the audit imagines."""


def shares(mean: float, count: int, rng) -> tuple[float, ...]:
    """Accuracies that some number of the test samples gives."""
    return tuple((np.round((mean + 0.0015 * rng.standard_normal(count)) * SAMPLES) / SAMPLES).tolist())


def resolved(attack) -> str:
    """A suite's setting as the audit writes it, relative temperatures as numbers."""
    return re.sub(
        r"Relative\(factor=([\d.]+)\)",
        lambda match: f"{float(f'{float(match[1]) * SCALE:.4g}')}",
        repr(Composition(*attack.active_parts)),
    )


def audited_arms(gain: float, rng, seeds: int = 15) -> list[ArmResult]:
    """Every attack of quick-v2, three references and the nulls of one attack, as an audit would list them."""

    def arm(family, role, teacher, setting, screened, mean):
        accuracies = shares(mean, seeds, rng)
        answering = {"null": "label"}.get(role, "argmax" if "label" in teacher else "centroid")  # of a diagnostic
        return ArmResult(
            name=arm_name(family, role, answering), role=role, family=family, setting=setting, teacher=teacher,
            validation=screened, seeds=tuple(range(seeds)), accuracies=accuracies,
            agreement=shares(mean, seeds, rng), diverged=(),
        )  # fmt: skip

    def grid(settings, mean):
        return {text: round((mean - 0.001 * number) * 5000) / 5000 for number, text in enumerate(settings)}

    arms = []
    for family, mean in (("LS", 0.910), ("CE", 0.905), ("teacher-free KD", 0.906)):
        settings = list(map(repr, reference_settings()[family]))
        arms.append(arm(family, "reference", "nobody", settings[0], grid(settings, mean), mean))
    for number, family in enumerate(QUICK_V2.families):
        settings = [resolved(attack) for attack in QUICK_V2.of(family)]
        mean = 0.910 + gain / (1 + number)
        arms.append(arm(family, "knockoff", "the teacher", settings[0], grid(settings, mean), mean))
    confidences = {f"confidence {each:g}": 0.9 for each in (0.5, 0.7, 0.9, 0.99)}
    kd = resolved(QUICK_V2.of("kd")[0])
    arms.append(arm("kd", "null", "the true label, 0.9", kd, confidences, 0.901))
    arms.append(arm("kd", "diagnostic", "the teacher's label, 0.9", kd, {}, 0.902))
    arms.append(arm("kd", "diagnostic", "the teacher's class means", kd, {}, 0.903))
    arms.append(arm("kd", "labels", "the teacher's label, 0.7", kd, confidences, 0.908))
    answers = "one answer for each class that the teacher predicts"
    arms.append(arm("kd", "class answers", answers, kd, {kd: 0.9}, 0.909))
    return arms


def paired(arms, later: str, earlier: str) -> Interval:
    """The mean difference of two arms, seed by seed, with its 95 % t interval."""
    differences = np.subtract(*(next(np.array(a.accuracies) for a in arms if a.name == n) for n in (later, earlier)))
    half = scipy.stats.t.ppf(0.975, len(differences) - 1) * scipy.stats.sem(differences)
    return Interval(differences.mean(), differences.mean() - half, differences.mean() + half)


def genuine_audit(folder: Path, gain: float = -0.01, seed: int = 0):
    """An audit of the model in a folder: quick-v2 whole, decided by `hf_cmim.statistics` itself."""
    arms = audited_arms(gain, np.random.default_rng(seed))
    design = Design(margin=0.005, looks=LOOKS)
    knockoffs = [arm.name for arm in arms if arm.role == "knockoff"]
    accuracies = {arm.name: arm.accuracies for arm in arms}
    results, decisions = [], {}
    contenders = Baselines("LS", ("LS", "CE", "teacher-free KD"))
    beyond_labels = Baselines("LS", (*contenders.every, "class answers with kd", "teacher's labels with kd"))
    for kind, baselines in (
        ("teacher-free", dict.fromkeys(knockoffs, contenders)),
        ("paper", dict.fromkeys(knockoffs, Baselines("LS", ("LS",)))),
        ("no-leak", {"kd": Baselines("label null of kd", ("label null of kd",))}),
        ("beyond-labels", dict.fromkeys(knockoffs, beyond_labels)),
    ):
        decisions[kind] = decision = decide(accuracies, baselines, len(knockoffs), design)
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
    whole = reports.report(attacks=5, names=QUICK_V2.families)
    measured = {"accuracy": 41_850 / SAMPLES, "top5_accuracy": 1.0, "fingerprint": ModelTeacher(folder).fingerprint()}
    twin = replace(whole.twin, accuracy=41_760 / SAMPLES, top5_accuracy=1.0)
    control = replace(whole.controls[0], facts=twin)
    plan = {
        "suite": suite_words(QUICK_V2), "criterion": "teacher-free", "margin": 0.005, "looks": list(LOOKS),
        "reference_multiple": 3, "references": 2,
    }  # fmt: skip
    return replace(
        whole, arms=tuple(arms), criteria=tuple(results), design=design, reference="LS",
        looks=tuple(look for look in LOOKS if look <= decisions["teacher-free"].look), accounting=(),
        teacher=replace(whole.teacher, name=folder.name, **measured), twin=twin,
        controls=(control, *whole.controls[1:]),
        scope=replace(whole.scope, suite="quick-v2", num_classes=len(NAMES)),
        label_floor=LabelFloor("teacher's labels with kd", "LS", paired(arms, "teacher's labels with kd", "LS")),
        class_answers=ClassAnswersControl(
            "class answers with kd", "LS", "dkd", paired(arms, "class answers with kd", "LS"),
            paired(arms, "dkd", "class answers with kd"),
        ),
        reproduction={**whole.reproduction, "plan": plan},
    )  # fmt: skip


def certified_model(folder: Path, *, audited: bool = True, seed: int = 0) -> Path:
    """A model with its certificate."""
    save_model(folder, seed)
    certify(folder, audit=genuine_audit(folder) if audited else None)
    return folder


def moved_into_the_hubs_cache(model: Path, cache: Path) -> Path:
    """Move a model to where the Hub's client keeps it, and return the snapshot, a folder of links."""
    snapshot, blobs = cache / "models--a--b" / "snapshots" / "00", cache / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(model.iterdir())):
        shutil.move(path, blobs / str(number))
        (snapshot / path.name).symlink_to(Path("..", "..", "blobs", str(number)))
    return snapshot
