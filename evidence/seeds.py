"""Measure the default and the accuracy budgets on the test splits, with several teachers of every task.

    python evidence/seeds.py --data ../shared/data --seeds 11 12 13

For every task and seed: teachers of cross-entropy, also trained twice as long, of label smoothing, the variance ratio
and the default; and the hardened teachers that budgets of 0, half a point, one and two points choose on validation
samples, as `hf_cmim.harden_within` would. Small students learn from the answers of each (`study_probe.py`), with the
teacher's samples and with samples of their own; all accuracies are those on test samples. Each task and seed writes
one file of evidence/seeds; what a file has is not made anew.
"""

import argparse
import json
from pathlib import Path

import torch
from study import attackers, gains, strongest, write
from study_forms import answers, figures, train_teacher
from study_probe import label_arms, teacher_arms, train_students
from study_tasks import Task, load_task
from torch import Tensor, nn

from hf_cmim.trainers.hardening.harden_within import LADDER, strongest_within

TASKS = ("debian_sections", "wordnet_lexnames", "fashion_mnist", "emoji_images", "digits")
TEACHERS = {"ce": ("ce", 0.0), "ls": ("ls", 0.0), "ratio": ("ratio4-all", 1.0), "default": ("scaled4-all", 1.0)}
BUDGETS = (0.0, 0.5, 1.0, 2.0)
"""Points of validation accuracy."""


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of samples with the largest logit at their label."""
    return float((logits.argmax(dim=1) == labels).float().mean())


class Seed:
    """All teachers of one task and seed, and what students learn from them."""

    def __init__(self, task: Task, seed: int) -> None:
        self.task, self.seed = task, seed
        self.label_students = {
            name: self._students(label_arms(part.labels, task.num_classes), name)
            for name, part in attackers(task).items()
        }

    def _students(self, arms: dict, attacker: str) -> dict[str, list[float]]:
        part = attackers(self.task)[attacker]
        return train_students(arms, part, self.task.test, self.task.num_classes, 100 * self.seed)

    def measured(self, model: nn.Module) -> dict[str, object]:
        """Return the figures of a teacher and the gains of the students of both attackers."""
        task = self.task
        tested = answers(model, task.test)
        answered = {name: answers(model, part) for name, part in attackers(task).items()}
        result: dict[str, object] = figures(task, answered["training"], answers(model, task.validation))
        result["validation_accuracy"] = result.pop("accuracy")
        result["accuracy"] = accuracy(tested, task.test.labels)
        for name in answered:
            students = self._students(teacher_arms(answered[name]), name)
            result[name] = gains(students, self.label_students[name]) | criteria(students, self.label_students[name])
        return result

    def budgets(self, twin: nn.Module) -> dict[str, object]:
        """Return the rung that each budget chooses, "" for none, and the measured teachers of these rungs."""
        task, models = self.task, {}
        labels = task.validation.labels
        reference = accuracy(answers(twin, task.validation), labels)

        def points_below(position: int) -> float:
            if position not in models:
                rung = LADDER[position]
                kind = {"share": "share", "scaled": "scaled4"}[rung.form]
                samples = "correct" if rung.correct_only else "all"
                start = twin if rung.from_twin else None
                models[position] = train_teacher(task, f"{kind}-{samples}", rung.weight, self.seed, start)[0]
            return 100 * (reference - accuracy(answers(models[position], task.validation), labels))

        places = {
            f"{budget:g}": strongest_within(len(LADDER), lambda position, most=budget: points_below(position) <= most)
            for budget in BUDGETS
        }
        chosen = {budget: "" if place is None else LADDER[place].name for budget, place in places.items()}
        wanted = {place for place in places.values() if place is not None}
        return {"chosen": chosen, "teachers": {LADDER[place].name: self.measured(models[place]) for place in wanted}}


def criteria(students: dict[str, list[float]], labels: dict[str, list[float]]) -> dict[str, float]:
    """Return the gains, in points, by the criteria that `gains` leaves out, and through class answers."""

    def mean(arms: dict[str, list[float]], *beginnings: str) -> float:
        best = strongest({name: values for name, values in arms.items() if name.startswith(beginnings)})
        return 100 * sum(arms[best]) / len(arms[best])

    kinds = {"kd1": "null-kd1", "kd-relative": "null-kd4", "standard": "null-standard", "wttm": "null-wttm",
             "dist": "null-dist"}  # fmt: skip
    every_null = mean(labels, "null")
    return {
        "over_label_smoothing": mean(students, *kinds) - mean(labels, "null-ce", "null-kd1"),
        "over_own_null": max(mean(students, kind) - mean(labels, null) for kind, null in kinds.items()),
        "class_answers_leak": mean(students, "means") - every_null,
        "labels_leak": mean(students, "argmax") - every_null,
    }


def run(task: Task, seed: int, path: Path) -> dict[str, object]:
    """Train and probe the teachers of a seed that its file does not have yet."""
    students = Seed(task, seed)
    result: dict[str, object] = json.loads(path.read_text()) if path.is_file() else {}
    twin = train_teacher(task, *TEACHERS["ce"], seed)[0]
    if "ce" not in result:
        models = {name: train_teacher(task, *form, seed)[0] for name, form in TEACHERS.items() if name != "ce"}
        # A model with the share was trained twice: once as the twin.
        models |= {"ce": twin, "ce twice": train_teacher(task, "ce", 0.0, seed, twin)[0]}
        result = {name: students.measured(model) for name, model in models.items()} | {"torch": torch.__version__}
        write(path, result)
    return result | {"budgets": students.budgets(twin)}


def main() -> None:
    """Make the files that are missing, one seed of all tasks after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13, 14, 15])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "seeds")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    for seed in options.seeds:
        for name in options.tasks:
            path = options.results / name / f"{seed}.json"
            if not path.is_file() or "budgets" not in json.loads(path.read_text()):
                result = run(load_task(name, options.data), seed, path)
                write(path, result)
                print(name, seed, json.dumps(result["budgets"]["chosen"]), flush=True)


if __name__ == "__main__":
    main()
