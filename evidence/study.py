"""Train small teachers with every form of the objective, on five tasks and two noisy ones, and probe their leaks.

    python evidence/study.py --data ../shared/data --plan evidence/plan.txt

A line of the plan is TASK FORM WEIGHT SEED, for instance `debian_sections share-correct 8 1`, and `quick` for a
teacher that is not probed. `study_tasks.py` lists the tasks, `study_forms.py` the forms. Each run writes one file of
evidence/study/TASK; runs whose file exists are skipped, so a killed study goes on where it was, and the plan may grow
meanwhile. All figures are of samples cut from the training splits: the test splits stay closed.

Leak: accuracy of the strongest attack minus that of the strongest student that knows the labels only, in points.
Beyond labels: the same minus the strongest student of the teacher's labels or class means. The attacker has samples
of the teacher (`training`) or others of the same kind (`own`), with their labels.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from study_forms import answers, figures, train_teacher
from study_probe import EPOCHS, INITIALISATIONS, ORDERS, label_arms, teacher_arms, train_students
from study_tasks import Part, Task, load_task
from torch import Tensor

JUDGED = 4_000
"""Number of validation samples that students are judged on."""
WORST_LOSS = 0.03
"""Loss of accuracy against cross-entropy above which a teacher is not probed: nobody would publish it."""


def attackers(task: Task) -> dict[str, Part]:
    """Return the samples of both attackers."""
    return {"training": task.train[slice(0, task.transfer)], "own": task.own}


def label_students(task: Task, folder: Path) -> dict[str, dict[str, list[float]]]:
    """Return the accuracies of the students that know labels only, by attacker and arm; trained once a task."""
    path = folder / "labels.json"
    if not path.is_file():
        judged = task.validation[slice(0, JUDGED)]
        known = {
            name: train_students(label_arms(part.labels, task.num_classes), part, judged, task.num_classes)
            for name, part in attackers(task).items()
        }
        write(path, known)
    return json.loads(path.read_text())


def write(path: Path, values: object) -> None:
    """Write JSON with 5 digits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(values, default=str, separators=(",", ":"))
    rounded = json.loads(text, parse_float=lambda number: float(f"{float(number):.5g}"))
    path.with_suffix(".part").write_text(json.dumps(rounded, separators=(",", ":")) + "\n")
    path.with_suffix(".part").rename(path)


def gains(students: dict[str, list[float]], labels: dict[str, list[float]]) -> dict[str, object]:
    """Return the leak and the gain beyond labels, in points with standard errors over the paired students."""
    attacks = {name: values for name, values in students.items() if not name.startswith(("argmax", "means"))}
    references = {name: values for name, values in students.items() if name not in attacks}
    best = strongest(attacks)
    result: dict[str, object] = {"attack": best, "attack_accuracy": statistics.fmean(attacks[best])}
    for name, others in (("leak", labels), ("beyond", references)):
        reference = strongest(others)
        differences = [100 * (a - b) for a, b in zip(attacks[best], others[reference], strict=True)]
        result |= {
            name: statistics.fmean(differences),
            f"{name}_error": statistics.stdev(differences) / len(differences) ** 0.5,
            f"{name}_reference": reference,
        }
    return result


def strongest(arms: dict[str, list[float]]) -> str:
    """Return the arm with the highest mean accuracy."""
    return max(arms, key=lambda name: statistics.fmean(arms[name]))


def probe(task: Task, answered: dict[str, Tensor], labels: dict[str, dict[str, list[float]]]) -> dict[str, object]:
    """Return what each attacker gains from a teacher's answers."""
    judged, found = task.validation[slice(0, JUDGED)], {}
    for name, part in attackers(task).items():
        students = train_students(teacher_arms(answered[name]), part, judged, task.num_classes)
        means = {arm: statistics.fmean(values) for arm, values in students.items()}
        found[name] = gains(students, labels[name]) | {"arms": means}
    return found


def run(task: Task, form: str, weight: float, seed: int, folder: Path, is_probed: bool) -> dict[str, object]:
    """Train one teacher and probe it, unless it lost too much."""
    started = time.process_time()
    model, last_weight = train_teacher(task, form, weight, seed)
    trained = time.process_time()
    answered = {name: answers(model, part) for name, part in attackers(task).items()}
    measured = figures(task, answered["training"], answers(model, task.validation))
    result: dict[str, object] = {"task": task.name, "form": form, "weight": weight, "seed": seed}
    result |= {"last_weight": last_weight} | measured
    twin = folder / f"ce_0_{seed}.json"
    floor = json.loads(twin.read_text())["accuracy"] - WORST_LOSS if twin.is_file() else 0.0
    if is_probed and measured["accuracy"] >= floor:
        result |= probe(task, answered, label_students(task, folder))
    settings = {"epochs": task.epochs, "batch": task.batch_size, "rate": task.learning_rate, "student_epochs": EPOCHS}
    settings |= {"students": ORDERS * INITIALISATIONS, "train": len(task.train.labels), "transfer": task.transfer}
    seconds = {"train": trained - started, "probe": time.process_time() - trained}
    return result | {"settings": settings, "seconds": seconds, "torch": torch.__version__}


def main() -> None:
    """Run what the plan asks for and is not there yet, until nothing is left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets")
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "study")
    parser.add_argument("--idle", type=float, default=0, help="seconds to wait for more lines of the plan")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    tasks: dict[str, Task] = {}
    waited = 0.0
    while True:
        line = next(
            (words for words in map(str.split, options.plan.read_text().splitlines())
             if words and not words[0].startswith("#") and not path_of(options.results, words).is_file()), None,
        )  # fmt: skip
        if line is None:
            if waited >= options.idle:
                return
            time.sleep(5)
            waited += 5
            continue
        waited = 0.0
        name, form, weight, seed, *options_of_line = line
        if name not in tasks:
            tasks[name] = load_task(name, options.data)
        result = run(
            tasks[name], form, float(weight), int(seed), options.results / name, "quick" not in options_of_line
        )
        write(path_of(options.results, line), result)
        print(summary(result), flush=True)


def path_of(results: Path, words: list[str]) -> Path:
    """Return the file of a line of the plan."""
    task, form, weight, seed = words[:4]
    return results / task / f"{form}_{float(weight):g}_{seed}.json"


def summary(result: dict) -> str:
    """Return a line for the log."""
    text = " ".join(str(result[name]) for name in ("task", "form", "weight", "seed"))
    text += f": accuracy {100 * result['accuracy']:.2f} ece {100 * result['ece']:.1f}"
    text += (
        f" T {result['calibration_temperature']:.2f} cmi4 {result['train_cmi_T4']:.4f} w {result['last_weight']:.1f}"
    )
    for name in ("training", "own"):
        if name in result:
            found = result[name]
            text += f" | {name} leak {found['leak']:+.2f} beyond {found['beyond']:+.2f}"
            text += f" ({found['attack']}; {found['leak_reference']})"
    return text + f" | {result['seconds']['train']:.0f}+{result['seconds']['probe']:.0f} s"


if __name__ == "__main__":
    main()
