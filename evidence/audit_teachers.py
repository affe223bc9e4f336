"""Audit a hardened classifier, its cross-entropy twin and its rivals on real data: real figures, on a CPU.

    python evidence/audit_teachers.py fashion_mnist --data_dir ../shared/data/fashion_mnist
    python evidence/audit_teachers.py fashion_mnist --data_dir ... --controls ls variance  # goes on in the folder
    python evidence/audit_teachers.py wordnet --data_dir ../shared/data/wordnet_lexnames --looks 12 \
        --families kd dist norm-kd --controls 'cmim:{"cmi_weight":4}'  # how much each hardening leaks, at equal seeds

Teachers are those of evidence/hardening.py, trained on 20,000 samples and kept beside the audit. An attacker has
some of these samples with their labels, and a small student. Settings are chosen on 4,000 of the samples that
hardening.py validates on; the test data are the official test samples and training samples that nobody used. Killed
or continued, it goes on where it was. Delete the folder to begin anew.
"""

import argparse
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from hardening import TASKS, ConvNet, DeepAveragingNet, arm_settings, fashion_mnist_samples, wordnet_samples
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PretrainedConfig, set_seed

from hf_cmim import CMIMConfig, CMIMTrainer, DistillationConfig
from hf_cmim.attacks.suites import STANDARD_V2, Suite
from hf_cmim.audit.audit import Audit
from hf_cmim.audit.inputs import AuditData, AuditModels
from hf_cmim.audit.plan import AuditPlan
from hf_cmim.pages.html import audit_page
from hf_cmim.pages.terminal import audit_table


class Perceptron(nn.Module):
    """One hidden layer of 64 units, 51,000 weights."""

    def __init__(self) -> None:
        super().__init__()
        self.config = PretrainedConfig(num_labels=10)
        self.hidden = nn.Linear(784, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, pixel_values: Tensor, labels: Any = None, output_hidden_states: bool = False) -> dict[str, Any]:
        """Return logits, and hidden states where asked."""
        hidden = self.hidden(pixel_values.flatten(1)).relu()
        outputs = {"logits": self.head(hidden)}
        return outputs | ({"hidden_states": (pixel_values.flatten(1), hidden)} if output_hidden_states else {})


class LinearBag(nn.Module):
    """Mean of token embeddings of 32 numbers and a linear layer, 257,000 weights."""

    def __init__(self) -> None:
        super().__init__()
        self.config = PretrainedConfig(num_labels=40)
        self.embedding = nn.Embedding(8_000, 32)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.head = nn.Linear(32, 40)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Any = None, output_hidden_states: bool = False
    ) -> dict[str, Any]:
        """Return logits, and hidden states where asked."""
        mask = attention_mask.unsqueeze(-1).to(self.head.weight.dtype)
        mean = (self.embedding(input_ids) * mask).sum(dim=1) / mask.sum(dim=1)
        outputs = {"logits": self.head(mean)}
        return outputs | ({"hidden_states": (mean, mean)} if output_hidden_states else {})


@dataclass
class Audited:
    """What is audited: the teachers' kind, the student, and where the attacker's samples come from.

    Slices are of the training samples in the order of evidence/hardening.py, whose teachers train on the first
    20,000; `rest` is tested on beside the official test samples.
    """

    build_teacher: Callable[[], nn.Module]
    build_student: Callable[[], nn.Module]
    student_name: str
    transfer: slice
    validation: slice
    rest: slice
    learning_rate: float
    weight_decay: float


AUDITED = {
    "fashion_mnist": Audited(
        ConvNet, Perceptron, "perceptron, 64 hidden units",
        slice(0, 2_000), slice(20_000, 24_000), slice(30_000, 50_000), 2e-3, 0.01,
    ),
    "wordnet": Audited(
        DeepAveragingNet, LinearBag, "mean of embeddings of 32 numbers, linear",
        slice(5_000, 10_000), slice(75_000, 79_000), slice(20_000, 50_000), 1e-2, 0.1,
    ),
}  # fmt: skip


def teacher(task: str, arm: str, data_dir: str, folder: Path, seed: int) -> nn.Module:
    """Return the arm's teacher of this seed, trained unless it is there."""
    path = folder / re.sub(r"[^\w.-]+", "_", f"{arm}-{seed}")
    if not (path / "config.json").is_file():
        known = TASKS[task](data_dir)
        set_seed(seed)
        config = CMIMConfig(
            str(folder / "training"), seed=seed, warmup_steps=0.1, weight_decay=0.01, save_strategy="no",
            logging_strategy="no", report_to="none", use_cpu=not torch.cuda.is_available(),
            **(known.schedule | arm_settings(arm)),
        )  # fmt: skip
        trainer = CMIMTrainer(known.build_model(), config, known.collator, known.train, known.validation)
        trainer.train()
        trainer.save_model(str(path))
    model = AUDITED[task].build_teacher()
    model.load_state_dict(load_file(path / "model.safetensors"))
    return model.eval()


def audit_data(task: str, data_dir: str) -> AuditData:
    """Return the attacker's samples, those for choices and those to test on, with their collator."""
    if task == "fashion_mnist":
        train, test = fashion_mnist_samples(data_dir)
        collator = None
    else:
        train, test, collator = wordnet_samples(data_dir)
    chosen = AUDITED[task]
    transfer, validation, rest = train[chosen.transfer], train[chosen.validation], train[chosen.rest]
    names = (f"{len(transfer):,} samples of the teacher's training set", f"{len(validation):,} other training samples",
             f"{len(test):,} test and {len(rest):,} unused training samples")  # fmt: skip
    return AuditData(transfer, validation, test + rest, names, collator=collator)


def suite_of(families: list[str]) -> Suite:
    """Return the settings of these families, or all."""
    if not families:
        return STANDARD_V2
    entries = tuple(entry for entry in STANDARD_V2.entries if entry.family in families)
    return Suite(f"{STANDARD_V2.name}: {', '.join(families)}", entries)


def parsed() -> argparse.Namespace:
    """Return the command's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=AUDITED)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument(
        "--output_dir", type=Path, help="default: outputs/audit_TASK_SEED; another for other --families"
    )
    parser.add_argument("--teacher", default="cmim", help="arm of evidence/hardening.py, NAME or NAME:{JSON}")
    parser.add_argument("--controls", nargs="*", default=[], help="more such teachers, audited the same way")
    parser.add_argument("--families", nargs="*", default=[], choices=STANDARD_V2.families, metavar="NAME",
                        help="of standard-v2; none: all; others need another folder")  # fmt: skip
    parser.add_argument("--seed", type=int, default=1, help="of the teachers")
    parser.add_argument("--criterion", default="teacher-free")
    parser.add_argument("--looks", type=int, nargs="+", default=[3, 5, 8, 12])
    options = parser.parse_args()
    options.output_dir = options.output_dir or Path(f"outputs/audit_{options.task}_{options.seed}")
    return options


def main() -> None:
    """Run, and print the table."""
    options = parsed()
    torch.set_num_threads(1)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers.logging.set_verbosity_error()
    folder, chosen = options.output_dir, AUDITED[options.task]
    teachers = {
        arm: teacher(options.task, arm, options.data_dir, folder / "teachers", options.seed)
        for arm in dict.fromkeys(("ce", options.teacher, *options.controls))
    }
    args = DistillationConfig(
        str(folder), num_train_epochs=20, learning_rate=chosen.learning_rate, warmup_steps=0.1,
        weight_decay=chosen.weight_decay, per_device_train_batch_size=100, per_device_eval_batch_size=2_000,
        report_to="none", use_cpu=not torch.cuda.is_available(),
    )  # fmt: skip
    plan = AuditPlan(
        suite=suite_of(options.families), criterion=options.criterion, looks=tuple(options.looks), screening_seeds=1
    )
    controls = {arm: teachers[arm] for arm in options.controls}
    models = AuditModels(
        teachers[options.teacher], chosen.build_student, teachers["ce"], controls, chosen.student_name
    )
    title = f"{options.task}, {options.teacher}, seed {options.seed}"
    report = Audit(models, audit_data(options.task, options.data_dir), args, plan, title).run()
    (folder / "audit.html").write_text(audit_page(report), encoding="utf-8")
    print(audit_table(report))
    for control in report.controls:
        print(f"\n{control.name}: smallest margin {100 * control.smallest_margin:.2f} points, {control.largest_gain}")
        for each in control.differences:
            print(f"    {each.control_attack} less {each.attack}: {each.difference}, n = {each.seeds}")


if __name__ == "__main__":
    main()
