"""Time a CMIMTrainer step over a Trainer step: same model, same batch, alternating pairs.

    python benchmarks/step.py --pairs 200
    python benchmarks/step.py --hidden_size 192 --layers 12 --image_size 32 --num_labels 100 --batch_size 32 --pairs 60
    python benchmarks/step.py --hidden_size 768 --layers 12 --heads 12 --mlp_ratio 4 --image_size 224 --patch_size 16 \
        --num_labels 1000 --batch_size 128 --bf16 --pairs 60  # ViT-B/16, on a GPU
    python benchmarks/step.py --settings '{"cmi_form": "share"}'

Each pair runs one whole optimizer step (forward, backward, clipping, AdamW, and for CMIMTrainer the bank) with both
trainers on one batch, in an order that changes from pair to pair. The machine's speed drifts, so only the ratio inside
a pair counts: the table gives the median ratio with a 95 % bootstrap interval. On a CPU with one thread time is that
of the process, so that other processes do not count. The steps are those of a training of 10,000 steps, which
measures the pull on each class at every tenth; `--steps 1000` measures it at each.
"""

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from scipy import stats
from tqdm.auto import tqdm
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification, set_seed

from hf_cmim import CMIMConfig, CMIMTrainer


def build(options: argparse.Namespace) -> ViTForImageClassification:
    """The same ViT for both."""
    set_seed(0)
    return ViTForImageClassification(
        ViTConfig(
            hidden_size=options.hidden_size, num_hidden_layers=options.layers, num_attention_heads=options.heads,
            intermediate_size=options.mlp_ratio * options.hidden_size, image_size=options.image_size,
            patch_size=options.patch_size, num_channels=3, num_labels=options.num_labels,
        )
    )  # fmt: skip


def prepare(trainer: Trainer, steps: int) -> tuple[torch.nn.Module, Trainer]:
    """Make the trainer ready for single steps of a training of `steps`, as its own loop would, past the ramp."""
    trainer.create_optimizer_and_scheduler(num_training_steps=steps)
    model, trainer.optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
    trainer.model_wrapped = model
    trainer.state.max_steps = steps
    trainer.state.global_step = int(0.8 * steps)
    trainer.accelerator.gradient_state._set_sync_gradients(True)
    return model, trainer


def seconds_of_a_step(model: torch.nn.Module, trainer: Trainer, batch: dict[str, torch.Tensor]) -> float:
    """Wall seconds of one optimizer step, device included."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else (lambda: None)
    is_alone = not torch.cuda.is_available() and torch.get_num_threads() == 1
    clock = time.process_time if is_alone else time.perf_counter
    wait()
    started = clock()
    trainer.training_step(model, dict(batch), torch.tensor(len(batch["labels"])))
    trainer.accelerator.clip_grad_norm_(model.parameters(), 1.0)
    trainer.optimizer.step()
    model.zero_grad()
    trainer.state.global_step += 1
    wait()
    return clock() - started


def alternating_pairs(
    ours: tuple[torch.nn.Module, Trainer],
    theirs: tuple[torch.nn.Module, Trainer],
    batches: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]],
    counted: int,
    warmup: int,
) -> np.ndarray:
    """Seconds of a step of both, `(counted, 2)`, each on its own batch, in an order that changes from pair to pair."""
    sides = [(ours, batches[0]), (theirs, batches[1])]
    pairs = []
    for number in tqdm(range(warmup + counted), desc="Pairs"):
        order = (0, 1) if number % 2 else (1, 0)
        timed = {side: seconds_of_a_step(*sides[side][0], sides[side][1]) for side in order}
        pairs.append((timed[0], timed[1]))
    return np.array(pairs[warmup:])


def ratio_with_interval(seconds: np.ndarray) -> str:
    """The median ratio inside a pair, with its 95 % bootstrap interval, and both medians."""
    ours, theirs = seconds.T
    interval = stats.bootstrap((ours / theirs,), np.median, rng=0).confidence_interval
    return (
        f"median {np.median(ours / theirs):.3f}, 95 % [{interval.low:.3f}, {interval.high:.3f}],"
        f" n = {len(ours)} pairs; medians {1e3 * np.median(ours):.2f} and {1e3 * np.median(theirs):.2f} ms"
    )


def main() -> None:
    """Print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--warmup", type=int, default=10, help="pairs that are not counted")
    parser.add_argument("--steps", type=int, default=10_000, help="of the training that these are steps of")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--hidden_size", type=int, default=64)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--mlp_ratio", type=int, default=2, help="width of the layer between, over hidden_size")
    parser.add_argument("--patch_size", type=int, default=4)
    parser.add_argument("--image_size", type=int, default=16)
    parser.add_argument("--num_labels", type=int, default=10)
    parser.add_argument("--bf16", action="store_true", help="both trainers in bf16")
    parser.add_argument("--settings", type=json.loads, default={}, help="of CMIMConfig, as JSON; none: its defaults")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the seconds of each pair there, too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    common: dict[str, Any] = {"report_to": "none", "use_cpu": not torch.cuda.is_available(), "disable_tqdm": True,
                              "bf16": options.bf16}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        plain = prepare(Trainer(build(options), TrainingArguments(folder, **common)), options.steps)
        config = CMIMConfig(folder, **common, **options.settings)
        hardened = prepare(CMIMTrainer(build(options), config), options.steps)
    size = (options.batch_size, 3, options.image_size, options.image_size)
    batch = {"pixel_values": torch.randn(size), "labels": torch.randint(0, options.num_labels, (options.batch_size,))}
    batch = {name: value.to(plain[1].args.device) for name, value in batch.items()}
    seconds = alternating_pairs(hardened, plain, (batch, batch), options.pairs, options.warmup)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU"
    print(
        f"CMIMTrainer / Trainer step: {ratio_with_interval(seconds)}\n"
        f"{options.settings or 'default settings'}, {'bf16' if options.bf16 else 'fp32'}, batch {options.batch_size},"
        f" {options.num_labels} classes, {sum(p.numel() for p in plain[0].parameters()):,} weights\n"
        f"{device}, {options.threads} thread(s), torch {torch.__version__}, transformers {transformers.__version__},"
        f" {time.strftime('%Y-%m-%d')}"
    )
    if options.json is not None:
        options.json.write_text(json.dumps({"pairs": seconds.tolist(), "device": device}), encoding="utf-8")


if __name__ == "__main__":
    main()
