"""Compare every attack family over paired seeds, beside arms without a teacher and nulls.

    python benchmarks/attacks.py known_truth --seeds 3
    python benchmarks/attacks.py digits --seeds 5

`known_truth`: labels with 30 % noise, 600 samples, a small perceptron, and a teacher that answers the true posterior;
what counts is how often a student finds the Bayes class, which every attack must do better than plain training.
`digits`: scikit-learn digits, a ViT trained with cross-entropy as the teacher, a small perceptron as the student.

Settings are those of the suite STANDARD_V1, the nulls' confidences and label smoothing's grid, chosen on validation
data with another seed; the test split selects nothing, and the last epoch counts. Arms of one seed share
initialisation and order. Every finished run is a line of the output file; a run found there is not repeated.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from hardening import Task
from hardening import digits as digits_data
from scipy import stats
from torch import nn
from tqdm.auto import tqdm
from transformers import PretrainedConfig, set_seed

from hf_cmim import CMIMConfig, CMIMTrainer, Composition, DistillationConfig, DistillationTrainer
from hf_cmim.attacks import DKD, KD, CrossEntropy, LabelSmoothing, MixupQueries, TeacherFreeKD
from hf_cmim.attacks.suites import NULL_CONFIDENCES, STANDARD_V1
from hf_cmim.teachers import ArgmaxNull, CentroidNull, FunctionTeacher, LabelOnlyTeacher, ModelTeacher, TableTeacher
from hf_cmim.teachers.base import AbstractTeacher

VALIDATION_SEEDS = (1000,)


@dataclass
class Problem:
    """A task with its teachers: live for attacks that change the queries, stored answers for the rest."""

    task: Task
    live: AbstractTeacher
    stored: AbstractTeacher


class Perceptron(nn.Module):
    """Two hidden layers on flattened images; gives its hidden states to attacks that attach heads."""

    def __init__(self, num_pixels: int, width: int, num_labels: int) -> None:
        super().__init__()
        self.config = PretrainedConfig(num_labels=num_labels)
        self.layers = nn.ModuleList([nn.Linear(num_pixels, width), nn.Linear(width, width)])
        self.head = nn.Linear(width, num_labels)

    def forward(self, pixel_values: torch.Tensor, labels: Any = None, output_hidden_states: bool = False) -> Any:
        """Return logits, and hidden states where asked."""
        states = [pixel_values.flatten(1)]
        for layer in self.layers:
            states.append(layer(states[-1]).relu())
        outputs = {"logits": self.head(states[-1])}
        return outputs | {"hidden_states": tuple(states)} if output_hidden_states else outputs


def known_truth() -> Problem:
    """Six classes; 70 % of the labels drawn from a random network's answers, 30 % evenly; 600 training samples."""
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(16, 32, generator=generator) / 4, torch.randn(32, 6, generator=generator)

    def posterior(inputs: Any) -> torch.Tensor:
        return 0.7 * (torch.tanh(inputs["pixel_values"].flatten(1) @ first) @ second).softmax(-1) + 0.3 / 6

    def samples(size: int, clean: bool) -> list[dict[str, Any]]:
        images = torch.randn(size, 1, 4, 4, generator=generator)
        probs = posterior({"pixel_values": images})
        drawn = torch.multinomial(probs, 1, generator=generator).flatten()
        labels = probs.argmax(-1) if clean else drawn
        return [{"pixel_values": image, "labels": int(label)} for image, label in zip(images, labels, strict=True)]

    schedule = {"num_train_epochs": 25, "learning_rate": 5e-3, "per_device_train_batch_size": 60}
    train = samples(600, clean=False)
    task = Task(train, samples(3000, clean=True), samples(3000, clean=True), lambda: Perceptron(16, 64, 6), schedule)
    names = tuple(PretrainedConfig(num_labels=6).id2label.values())
    answers = posterior({"pixel_values": torch.stack([sample["pixel_values"] for sample in train])}).log()
    live = FunctionTeacher(posterior, class_names=names, returns="probs")
    return Problem(task, live, TableTeacher(answers, class_names=names))


def digits() -> Problem:
    """Digits, the ViT of benchmarks/hardening.py as the teacher, a perceptron of width 32 as the student."""
    task = digits_data("")
    set_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        config = CMIMConfig(folder, cmi_weight=0.0, warmup_steps=0.1, weight_decay=0.01, save_strategy="no",
                            logging_strategy="no", disable_tqdm=True, report_to="none", use_cpu=True,
                            **task.schedule)  # fmt: skip
        trainer = CMIMTrainer(task.build_model(), config, train_dataset=task.train)
        trainer.train()
        print(f"teacher, test accuracy: {trainer.evaluate(task.test)['eval_accuracy']:.4f}")
    teacher = trainer.model.eval()
    with torch.no_grad():
        images = torch.stack([sample["pixel_values"] for sample in task.train])
        answers = torch.cat([teacher(part).logits for part in images.split(256)]).log_softmax(-1)

    task.build_model = lambda: Perceptron(64, 32, 10)
    task.schedule = {"num_train_epochs": 25, "learning_rate": 2e-3, "per_device_train_batch_size": 64}
    live = ModelTeacher(teacher)
    return Problem(task, live, TableTeacher(answers, class_names=live.class_names))


Arm = tuple[Composition, Callable[[Problem, int], AbstractTeacher | None]]


def arms() -> dict[str, list[Arm]]:
    """Every family with its settings: what attacks, and who answers."""
    nobody = lambda problem, seed: None  # noqa: E731 (three words)
    found: dict[str, list[Arm]] = {
        "CE": [(Composition(CrossEntropy()), nobody)],
        "LS": [(Composition(LabelSmoothing(smoothing=s)), nobody) for s in (0.05, 0.1, 0.2, 0.3, 0.4)],
        "mixup": [(Composition(CrossEntropy(), MixupQueries(alpha=a)), nobody) for a in (0.2, 1.0)],
        "teacher-free-kd": [(Composition(TeacherFreeKD(temperature=t)), nobody) for t in (1.0, 20.0)],
        "self-distillation": [(Composition(KD(temperature=t)), _own_student) for t in (2.0, 4.0)],
    }
    for name, loss in (("KD", KD()), ("DKD", DKD(beta=2.0))):
        found[f"null, labels, {name}"] = [
            (Composition(loss), _label_only(confidence)) for confidence in NULL_CONFIDENCES
        ]
        found[f"null, argmax, {name}"] = [
            (Composition(loss), lambda problem, seed, c=c: ArgmaxNull(problem.stored, confidence=c, temperature=4.0))
            for c in NULL_CONFIDENCES
        ]
        found[f"null, centroid, {name}"] = [(Composition(loss), _centroid)]
    for family in STANDARD_V1.families:
        found[family] = [(attack, _teacher_of(attack)) for attack in STANDARD_V1.of(family)]
    return found


def _label_only(confidence: float) -> Callable[[Problem, int], AbstractTeacher]:
    return lambda problem, seed: LabelOnlyTeacher(problem.live.num_classes, confidence=confidence, temperature=4.0)


def _teacher_of(attack: Composition) -> Callable[[Problem, int], AbstractTeacher]:
    return lambda problem, seed: problem.stored if attack.query_protocol is None else problem.live


def _centroid(problem: Problem, seed: int) -> AbstractTeacher:
    labels = torch.tensor([sample["labels"] for sample in problem.task.train])
    return CentroidNull.fit(problem.stored, [({"sample_index": torch.arange(len(labels))}, labels)])


def _own_student(problem: Problem, seed: int) -> AbstractTeacher:
    """Return a student of another seed, trained alone."""
    trainer = train(problem.task, Composition(CrossEntropy()), None, seed + 5000)
    names = tuple(trainer.model.config.id2label.values())
    return ModelTeacher(trainer.model.eval(), class_names=names)


def train(task: Task, attack: Composition, teacher: AbstractTeacher | None, seed: int) -> DistillationTrainer:
    """Return a trained student; the seed sets its initialisation and the order of the data."""
    set_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        config = DistillationConfig(
            folder, seed=seed, warmup_steps=0.1, weight_decay=0.01, per_device_eval_batch_size=512, save_strategy="no",
            logging_strategy="no", disable_tqdm=True, report_to="none", use_cpu=True, compare_with_teacher=False,
            **task.schedule,
        )  # fmt: skip
        trainer = DistillationTrainer(
            task.build_model(), config, train_dataset=task.train, teacher=teacher, attack=attack
        )
        trainer.train()
    return trainer


class Results:
    """Accuracies by (task, split, arm, attack, seed), each a line of a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [json.loads(line) for line in path.open()] if path.is_file() else []
        self.known = {tuple(row["key"]): row["accuracy"] for row in rows}

    def of(self, key: tuple[Any, ...], measure: Callable[[], float]) -> float:
        """Return the accuracy, measuring it when it is not known yet."""
        if key not in self.known:
            self.known[key] = measure()
            with self.path.open("a") as file:
                file.write(json.dumps({"key": key, "accuracy": self.known[key]}) + "\n")
        return self.known[key]


def report(accuracies: dict[str, list[float]], chosen: dict[str, str]) -> None:
    """Print accuracy and the paired differences to CE and LS, in points with 95 % t intervals."""
    print("| arm | accuracy, % | - CE, points | - LS, points | setting |\n|---|---|---|---|---|")
    for name, values in sorted(accuracies.items(), key=lambda item: -np.mean(item[1])):
        cells = []
        for base in ("CE", "LS"):
            gain = 100 * (np.array(values) - np.array(accuracies[base]))
            half = stats.t.ppf(0.975, len(gain) - 1) * gain.std(ddof=1) / len(gain) ** 0.5
            cells.append(f"{gain.mean():+.2f} [{gain.mean() - half:+.2f}, {gain.mean() + half:+.2f}]")
        spread = f"{100 * np.mean(values):.2f} ± {100 * np.std(values, ddof=1):.2f}"
        print(f"| {name} | {spread} | {' | '.join(cells)} | `{chosen[name]}` |")
    print(f"\nn = {len(accuracies['CE'])} paired seeds; torch {torch.__version__}, transformers"
          f" {transformers.__version__}, {platform.machine()} CPU, {time.strftime('%Y-%m-%d')}")  # fmt: skip


def main() -> None:
    """Choose settings on validation data, then measure the chosen ones on test data."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("known_truth", "digits"))
    parser.add_argument("--seeds", type=int, default=5, help="paired seeds on the test split")
    parser.add_argument("--families", nargs="+", help="only these, beside CE and LS")
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/attacks.jsonl"), help="finished runs, a line each"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    problem, results = {"known_truth": known_truth, "digits": digits}[options.task](), Results(options.output)
    found = {
        name: arm for name, arm in arms().items() if not options.families or name in ("CE", "LS", *options.families)
    }

    def accuracy(split: str, name: str, setting: int, seed: int) -> float:
        attack, who = found[name][setting]

        def measure() -> float:
            trainer = train(problem.task, attack, who(problem, seed), seed)
            return float(trainer.evaluate(getattr(problem.task, split))["eval_accuracy"])

        return results.of((options.task, split, name, repr(attack), seed), measure)

    chosen = {}
    for name, settings in tqdm(found.items(), desc="Choosing settings"):
        means = [
            np.mean([accuracy("validation", name, setting, seed) for seed in VALIDATION_SEEDS])
            for setting in range(len(settings))
        ] if len(settings) > 1 else [0.0]  # fmt: skip
        chosen[name] = int(np.argmax(means))
    accuracies = {
        name: [accuracy("test", name, setting, seed) for seed in range(options.seeds)]
        for name, setting in tqdm(chosen.items(), desc="Test")
    }
    report(accuracies, {name: repr(found[name][setting][0]) for name, setting in chosen.items()})


if __name__ == "__main__":
    main()
