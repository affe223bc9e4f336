"""Audit the default, its rivals and other defences on five tasks: several teachers, two attackers, three audits.

    python evidence/audits.py --data ../shared/data
    python evidence/audits.py --data ../shared/data --audit beyond-labels
    python evidence/audits.py --data ../shared/data --audit full

The first audit attacks every teacher with six families. `beyond-labels` does it again with the default, cross-entropy
and class answers of every seed, and asks if students learn more than the teacher's labels. `full` tries every family
of `standard-v2` on the first teacher and its twin.

What `CMIMTrainer(model, CMIMConfig("out"), ...).train()` gives, with no other setting of the objective, is the audited
teacher. Beside it stand teachers of other seeds, cross-entropy, label smoothing and the variance ratio of each seed,
and class answers of each cross-entropy model. Some seeds get every other defence. One attacker has samples of the
teacher, one has samples of its own. All verdicts are on the test split. Reports are written to evidence/audits, and
what is there is not made anew; killed in between, an audit goes on where it was.
"""

import argparse
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from audit_tasks import (
    BUDGETS,
    DEFENSES,
    OBJECTIVES,
    Classifier,
    Student,
    View,
    own_and_test,
    rows,
    teacher,
    teacher_within,
)
from study_tasks import Task, load_task

from hf_cmim import DistillationConfig, DistillationTrainer
from hf_cmim.attacks import DIST, DKD, KD, WTTM, Composition, LogitStandardization, NormKD
from hf_cmim.attacks.suites import Suite, SuiteEntry
from hf_cmim.audit.audit import Audit
from hf_cmim.audit.inputs import AuditData, AuditModels, Teacher
from hf_cmim.audit.plan import AuditPlan
from hf_cmim.channels import (
    Argmax,
    ClassAnswers,
    ConfidenceTemperature,
    LinearMap,
    ModelGuardS,
    ModelGuardW,
    ReverseSigmoid,
    Rounded,
    TopK,
)
from hf_cmim.report import Attacker
from hf_cmim.teachers import AngularDeviationTeacher, ModelTeacher

TASKS = {
    "debian_sections": ((11, 12, 13, 14, 15), (11, 12)),
    "emoji_images": ((11, 12, 13, 14, 15), (11, 12)),
    "fashion_mnist": ((11, 12, 13), (11, 12)),
    "wordnet_lexnames": ((11, 12, 13, 14, 15), ()),
    "digits": ((11, 12, 13, 14, 15), ()),
}
"""Seeds of the teachers of each task, and those of them that get every defence: as many as there was time for."""
MARGINS = {"digits": 0.01}
"""Margins other than half a point: 450 test samples cannot resolve less than two thirds of a point."""
BUDGETED = 3
"""Number of seeds of each task that get the models within the accuracy budgets."""
ATTACKS = [
    *(("kd", KD(temperature=temperature)) for temperature in (1.0, 4.0)),
    *(("dist", DIST(temperature=temperature)) for temperature in (1.0, 4.0)),
    *(("norm-kd", NormKD(scale=scale)) for scale in (1.0, 2.0)),
    ("logit-standardization", LogitStandardization(base=KD(temperature=2.0, kd_weight=9.0))),
    ("logit-standardization", LogitStandardization(base=KD(temperature=1.0, kd_weight=3.0))),
    *(("wttm", WTTM(gamma=gamma, wttm_weight=1 / gamma)) for gamma in (0.5, 1.0)),
    ("dkd", DKD(temperature=4.0, beta=2.0)),
]
"""The families that were strongest on Fashion-MNIST and WordNet but for `dot`, whose default rate no student of texts
survives, and DKD. `beyond-label-kd` is left out: in an earlier audit it was the weakest or second weakest attack on
three of four teachers. Temperatures are numbers: students of all teachers then have the same loss, and one call
computes it.
"""

STRONGEST = AuditPlan(
    suite=Suite("six families", tuple(SuiteEntry(family, Composition(attack)) for family, attack in ATTACKS)),
    looks=(3, 5, 8), screening_seeds=1, finalists=3, final_seeds=1, null_families=6, diagnosed=0,
    attackers=(Attacker("training"), Attacker("own")),
)  # fmt: skip
PLANS = {
    "strongest": STRONGEST,
    "beyond-labels": replace(STRONGEST, criterion="beyond-labels"),
    "full": replace(STRONGEST, suite="standard-v2", finalists=4, diagnosed=3),
}
"""Plan of each audit."""


def settings(task: Task, folder: Path) -> DistillationConfig:
    """Return the training settings of the students."""
    # Slower students of texts are far from converged after 20 epochs: at 5e-3 twice as many gained 14 points. At this
    # rate 20 epochs are better than 40 (validation, three seeds each, 69.9 and 68.1 % on Debian).
    rate, decay = (3e-2, 0.1) if task.train.features.dtype == torch.long else (5e-3, 0.01)
    # 200 digits make few steps an epoch.
    epochs, batch_size = (60, 20) if task.transfer < 1_000 else (20, 100)
    return DistillationConfig(
        str(folder), num_train_epochs=epochs, learning_rate=rate, warmup_steps=0.1, weight_decay=decay,
        per_device_train_batch_size=batch_size, per_device_eval_batch_size=2_000, remove_unused_columns=False,
        report_to="none", use_cpu=True,
    )  # fmt: skip


def surrogate(task: Task, classifier: Classifier, folder: Path) -> ModelTeacher:
    """Return the student that MAD poisons against: one that has learned from the classifier by KD."""
    transformers.set_seed(0)
    args = settings(task, folder / "surrogate")
    args.save_strategy, args.disable_tqdm = "no", True
    trainer = DistillationTrainer(
        Student(task), args, train_dataset=rows(task.train[slice(0, task.transfer)]), data_collator=View("features"),
        teacher=ModelTeacher(classifier), teacher_collator=View("inputs"), attack=KD(),
    )  # fmt: skip
    trainer.train()
    return ModelTeacher(trainer.model.eval())


@torch.no_grad()
def channels(task: Task, classifier: Classifier) -> dict[str, Any]:
    """Return every channel, fitted to answers to held-out samples where it has a fit."""
    log_probs, labels = classifier(task.tune.inputs)["logits"].log_softmax(dim=-1), task.tune.labels
    return {
        "class answers": ClassAnswers.fit(log_probs, labels),
        "argmax": Argmax(),
        "top 3": TopK(k=3),
        "rounded": Rounded(decimals=1),
        "reverse sigmoid": ReverseSigmoid(),
        "ModelGuard-W": ModelGuardW(),
        "ModelGuard-S": ModelGuardS.fit(log_probs, labels),
        "linear map": LinearMap.fit(log_probs, labels, weight=1.0),
        "confidence temperature": ConfidenceTemperature(limit=3.0),
    }


def teachers(task: Task, folder: Path, audited: str) -> Iterator[tuple[str, Teacher]]:
    """Yield name and teacher for an audit, the audited one and its twin first; a name ends with the teacher's seed."""
    if audited == "strongest":
        yield from every_teacher(task, folder)
        return
    seeds, _ = TASKS[task.name]
    for seed in seeds if audited == "beyond-labels" else seeds[:1]:
        kept = folder / "teachers" / str(seed)
        twin = teacher(task, "CE", seed, kept)
        yield f"default {seed}", teacher(task, "default", seed, kept)
        yield f"CE {seed}", twin
        if audited == "beyond-labels":
            yield f"class answers {seed}", ModelTeacher(twin, channel=channels(task, twin)["class answers"])


def every_teacher(task: Task, folder: Path) -> Iterator[tuple[str, Teacher]]:
    """Yield name and teacher of every seed, objective, budget and defence."""
    seeds, compared = TASKS[task.name]
    for number, seed in enumerate(seeds):
        kept = folder / "teachers" / str(seed)
        for name in OBJECTIVES:
            yield f"{name} {seed}", teacher(task, name, seed, kept)
        for name, budget in BUDGETS.items() if number < BUDGETED else ():
            yield f"{name} {seed}", teacher_within(task, budget, seed, kept)
        twin = teacher(task, "CE", seed, kept)
        changes = channels(task, twin)
        for name, channel in changes.items() if seed in compared else [("class answers", changes["class answers"])]:
            yield f"{name} {seed}", ModelTeacher(twin, channel=channel)
        if seed in compared:
            for name in DEFENSES:
                yield f"{name} {seed}", teacher(task, name, seed, kept)
            yield f"MAD {seed}", AngularDeviationTeacher(ModelTeacher(twin), surrogate(task, twin, kept))


def audit(task: Task, folder: Path, name: str) -> str:
    """Audit the teachers of a task, and return the report as JSON."""
    started = time.process_time()
    (_, audited), (_, twin), *others = teachers(task, folder, name)
    trained = time.process_time() - started
    models = AuditModels(audited, lambda: Student(task), twin, dict(others), "small student")
    transfer, own, validation, test = own_and_test(task)
    data = AuditData(
        rows(transfer), rows(validation), rows(test),
        ("the teacher's samples", "validation samples", "the test split"),
        own=rows(own), collator=View("features"), teacher_collator=View("inputs", "features"),
    )  # fmt: skip
    title = f"{task.name}, default, seed {TASKS[task.name][0][0]}"
    plan = replace(PLANS[name], margin=MARGINS.get(task.name, STRONGEST.margin))
    report = Audit(models, data, settings(task, folder / name), plan, title).run()
    spent = time.process_time() - started
    print(f"{task.name}: {spent:.0f} s of processor time, of them {trained:.0f} for the teachers", flush=True)
    return report.to_json()


def main() -> None:
    """Make the reports that are missing, one task after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets")
    parser.add_argument("--audit", default="strongest", choices=PLANS)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/audits"), help="unfinished audits")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers.logging.set_verbosity_error()
    results = Path(__file__).parent / "audits" / options.audit
    results.mkdir(exist_ok=True, parents=True)
    for name in options.tasks:
        path = results / f"{name}.json"
        if not path.is_file():
            path.write_text(audit(load_task(name, options.data), options.output_dir / name, options.audit))


if __name__ == "__main__":
    main()
