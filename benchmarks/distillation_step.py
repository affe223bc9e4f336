"""Time a DistillationTrainer step over what people write without it: same student and batch, alternating pairs.

    python benchmarks/distillation_step.py --pairs 200

Two ratios: with stored answers over a plain `Trainer` step, and with a live teacher over the 15-line `Trainer` of the
transformers documentation (teacher under no_grad, KL at T = 5 times T^2, half and half). The student is a ViT, the
teacher one of twice its width and depth. Only the ratio inside a pair counts, as in benchmarks/step.py.
"""

import argparse
import platform
import tempfile
import time
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from step import alternating_pairs, build, prepare, ratio_with_interval
from torch.nn import functional
from transformers import Trainer, TrainingArguments

from hf_cmim import DistillationConfig, DistillationTrainer
from hf_cmim.attacks import KD
from hf_cmim.teachers import TableTeacher

NUM_SAMPLES = 4096


class DocumentedTrainer(Trainer):
    """Knowledge distillation as the transformers documentation writes it."""

    def __init__(self, teacher: torch.nn.Module, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.teacher = teacher.to(self.args.device).eval()

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        """Half cross-entropy, half T^2 KL at T = 5."""
        outputs = model(**inputs)
        with torch.no_grad():
            answers = self.teacher(**inputs).logits
        soft = functional.kl_div(
            functional.log_softmax(outputs.logits / 5, dim=-1), functional.softmax(answers / 5, dim=-1),
            reduction="batchmean",
        )  # fmt: skip
        loss = 0.5 * outputs.loss + 0.5 * 25 * soft
        return (loss, outputs) if return_outputs else loss


def main() -> None:
    """Print both ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--warmup", type=int, default=10, help="pairs that are not counted")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--num_labels", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = {"image_size": 16, "num_labels": options.num_labels}
    small = SimpleNamespace(hidden_size=64, layers=4, **sizes)
    teacher = build(SimpleNamespace(hidden_size=128, layers=8, **sizes)).eval()
    names = tuple(teacher.config.id2label.values())
    stored = TableTeacher(torch.randn(NUM_SAMPLES, options.num_labels).log_softmax(-1), class_names=names)
    attack = KD(temperature=5.0, ce_weight=0.5, kd_weight=0.5)
    common: dict[str, Any] = {"report_to": "none", "use_cpu": not torch.cuda.is_available(), "disable_tqdm": True}
    batch = {
        "pixel_values": torch.randn(options.batch_size, 3, 16, 16),
        "labels": torch.randint(0, options.num_labels, (options.batch_size,)),
    }
    index = {"sample_index": torch.randint(0, NUM_SAMPLES, (options.batch_size,))}
    with tempfile.TemporaryDirectory() as folder:
        plain, config = TrainingArguments(folder, **common), DistillationConfig(folder, **common)
        pairs = {
            "stored answers over plain Trainer": (
                DistillationTrainer(build(small), config, teacher=stored, attack=attack), Trainer(build(small), plain)
            ),
            "live teacher over the documented Trainer": (
                DistillationTrainer(build(small), config, teacher=teacher, attack=attack),
                DocumentedTrainer(teacher, build(small), plain),
            ),
        }  # fmt: skip
        for name, trainers in pairs.items():
            ours, theirs = (prepare(trainer, 10_000) for trainer in trainers)
            seconds = alternating_pairs(ours, theirs, (batch | index, batch), options.pairs, options.warmup)
            print(f"{name}: {ratio_with_interval(seconds)}")
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"batch {options.batch_size}; {versions}, {platform.machine()}, one thread, {time.strftime('%Y-%m-%d')}")


if __name__ == "__main__":
    main()
