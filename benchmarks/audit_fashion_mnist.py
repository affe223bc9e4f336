"""Audit a hardened convnet, its cross-entropy twin and its rivals on Fashion-MNIST: real figures, on a CPU.

    python benchmarks/audit_fashion_mnist.py --data_dir ../shared/data/fashion_mnist --output_dir outputs/audit_fashion
    python benchmarks/audit_fashion_mnist.py --data_dir ... --output_dir ... --controls ls variance  # goes on there
    python benchmarks/audit_fashion_mnist.py --data_dir ... --output_dir outputs/leaks --looks 12 \
        --families kd dist norm-kd --controls 'cmim:{"cmi_weight":4}'  # how much each hardening leaks, at equal seeds

Teachers are those of benchmarks/hardening.py, trained on 20,000 images and kept beside the audit. An attacker has
2,000 of these images with their labels, and a perceptron. Settings are chosen on 4,000 of the images that hardening.py
validates on; the test data are the 10,000 official test images and 20,000 training images that nobody used. Killed or
continued, it goes on where it was. Delete the folder to begin anew.
"""

import argparse
import re
from pathlib import Path
from typing import Any

import torch
import transformers
from hardening import ConvNet, arm_settings, fashion_mnist, fashion_mnist_samples
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PretrainedConfig, set_seed

from hf_cmim import CMIMConfig, CMIMTrainer, DistillationConfig
from hf_cmim.attacks.suites import STANDARD_V1, Suite
from hf_cmim.audit.plan import AuditPlan
from hf_cmim.audit.runner import run_audit
from hf_cmim.audit.subject import AuditData
from hf_cmim.pages.html import audit_page
from hf_cmim.pages.terminal import audit_table

# Of the training images in the order of benchmarks/hardening.py, whose teachers train on the first 20,000.
TRANSFER, VALIDATION, REST = slice(0, 2_000), slice(20_000, 24_000), slice(30_000, 50_000)


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


def teacher(arm: str, data_dir: str, folder: Path, seed: int) -> nn.Module:
    """Return the arm's teacher of this seed, trained unless it is there."""
    path = folder / re.sub(r"[^\w.-]+", "_", f"{arm}-{seed}")
    if not (path / "config.json").is_file():
        task = fashion_mnist(data_dir)
        set_seed(seed)
        config = CMIMConfig(
            str(folder / "training"), seed=seed, warmup_steps=0.1, weight_decay=0.01, save_strategy="no",
            logging_strategy="no", report_to="none", use_cpu=not torch.cuda.is_available(),
            **(task.schedule | arm_settings(arm)),
        )  # fmt: skip
        trainer = CMIMTrainer(task.build_model(), config, train_dataset=task.train)
        trainer.train()
        trainer.save_model(str(path))
    model = ConvNet()
    model.load_state_dict(load_file(path / "model.safetensors"))
    return model.eval()


def audit_data(data_dir: str) -> AuditData:
    """Return the attacker's 2,000 images, 4,000 for choices, and 30,000 to test on."""
    train, test = fashion_mnist_samples(data_dir)
    names = ("2,000 images of the teacher's training set", "4,000 other training images",
             "10,000 test and 20,000 unused training images")  # fmt: skip
    return AuditData(train[TRANSFER], train[VALIDATION], test + train[REST], names)


def suite_of(families: list[str]) -> Suite:
    """Return the settings of these families, or all."""
    if not families:
        return STANDARD_V1
    entries = tuple(entry for entry in STANDARD_V1.entries if entry.family in families)
    return Suite(f"{STANDARD_V1.name}: {', '.join(families)}", entries)


def main() -> None:
    """Run, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/audit_fashion"))
    parser.add_argument("--teacher", default="cmim", help="arm of benchmarks/hardening.py, NAME or NAME:{JSON}")
    parser.add_argument("--controls", nargs="*", default=[], help="more such teachers, audited the same way")
    parser.add_argument("--families", nargs="*", default=[], choices=STANDARD_V1.families, metavar="NAME",
                        help="of standard-v1; none: all")  # fmt: skip
    parser.add_argument("--seed", type=int, default=1, help="of the teachers")
    parser.add_argument("--criterion", default="teacher-free")
    parser.add_argument("--looks", type=int, nargs="+", default=[3, 5, 8, 12])
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    teachers = {arm: teacher(arm, options.data_dir, options.output_dir / "teachers", options.seed)
                for arm in dict.fromkeys(("ce", options.teacher, *options.controls))}  # fmt: skip
    args = DistillationConfig(
        str(options.output_dir), num_train_epochs=20, learning_rate=2e-3, warmup_steps=0.1, weight_decay=0.01,
        per_device_train_batch_size=100, per_device_eval_batch_size=2_000, report_to="none",
        use_cpu=not torch.cuda.is_available(),
    )  # fmt: skip
    plan = AuditPlan(
        suite=suite_of(options.families), criterion=options.criterion, looks=tuple(options.looks), screening_seeds=1
    )
    report = run_audit(
        teachers[options.teacher], Perceptron, args, audit_data(options.data_dir), plan, twin=teachers["ce"],
        controls={arm: teachers[arm] for arm in options.controls}, student_name="perceptron, 64 hidden units",
        title=f"Fashion-MNIST convnet, {options.teacher}, seed {options.seed}",
    )  # fmt: skip
    (options.output_dir / "audit.html").write_text(audit_page(report), encoding="utf-8")
    print(audit_table(report))
    for control in report.controls:
        print(f"\n{control.name}: smallest margin {100 * control.smallest_margin:.2f} points, {control.largest_gain}")
        for each in control.differences:
            print(f"    {each.control_attack} less {each.attack}: {each.difference}, n = {each.seeds}")


if __name__ == "__main__":
    main()
