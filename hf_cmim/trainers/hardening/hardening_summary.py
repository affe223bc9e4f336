"""Summary of a hardening in five lines of words, and its printing at the end of training."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from logging import WARNING
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from hf_cmim.hardening.collapse import LARGEST_NUM_CLASSES
from hf_cmim.tasks import AUDIO, IMAGE, TEXT, task_of
from hf_cmim.trainers.hardening.collapse_guard import COLLAPSED_PAIRS

if TYPE_CHECKING:
    from hf_cmim.trainers.hardening.cmim_trainer import CMIMTrainer

NOTABLE_POINTS = 0.5
"""Change of the accuracy, in points, below which it counts as unchanged; ours."""
NOTABLE_RATIO = 1.2
"""Factor between two figures from which they count as different; ours."""
LARGEST_RATIO = 100
"""Factor above which the summary gives no figure."""
CALIBRATED_ECE = 0.02
"""Expected calibration error up to which a model counts as calibrated; ours."""
ACCURACY = re.compile(r"(?P<prefix>eval(?:_.+)?)_accuracy")


@dataclass(frozen=True)
class EvaluationFigures:
    """Figures of one evaluation during training.

    Attributes:
        prefix: prefix of the metrics' names, which tells data sets apart.
        step: number of optimizer steps before the evaluation.
        accuracy: share of samples that are classified correctly.
        ece: expected calibration error, or None if it was not measured.
        calibration_temperature: temperature that calibrates the model, above 1 if it is over-confident, or None.
        cmi_sup: largest CMI over the temperatures among correctly classified samples, nats, or None.
    """

    prefix: str
    step: int
    accuracy: float
    ece: float | None
    calibration_temperature: float | None
    cmi_sup: float | None

    @classmethod
    def from_log(cls, entry: Mapping[str, float]) -> "EvaluationFigures | None":
        """Return the figures in an entry of the logs, or None for an entry without an evaluation."""
        prefixes = [match["prefix"] for match in map(ACCURACY.fullmatch, entry) if match]
        if not prefixes:
            return None
        # Longer prefixes come from top5_accuracy or from the user's own metrics.
        prefix = min(prefixes, key=len)
        optional_figures = (entry.get(f"{prefix}_{name}") for name in ("ece", "calibration_temperature", "cmi_sup"))
        return cls(prefix, int(entry["step"]), entry[f"{prefix}_accuracy"], *optional_figures)


@dataclass(frozen=True)
class HardeningSummary:
    """Effects of hardening, as far as the evaluations during training show them; `str` gives five lines of words.

    Attributes:
        before: last evaluation while the weight was 0, or None.
        now: evaluation of the final weights, or None.
        cmi_weight: final weight of the CMI.
        steps: number of optimizer steps.
        warmup_steps: number of steps with weight 0.
        collapses: number of class pairs that began to collapse, by step; None if collapse was not watched.
        output_dir: folder of the training.
        has_audit_command: True if `hf-cmim audit` can prepare the samples of such a model: images, texts or sounds.
    """

    before: EvaluationFigures | None
    now: EvaluationFigures | None
    cmi_weight: float
    steps: int
    warmup_steps: int
    collapses: Mapping[int, int] | None
    output_dir: str
    has_audit_command: bool = True

    def __str__(self) -> str:
        lines = self._accuracy(), self._calibration(), self._concentration(), self._collapse(), self._next()
        return "\n".join(lines)

    def _accuracy(self) -> str:
        if self.now is None:
            return "Accuracy: not measured. Give eval_dataset, call trainer.evaluate(), then hardening_summary()."
        now = f"Accuracy: {self.now.accuracy:.1%} at step {self.now.step:,}"
        if not self.cmi_weight:
            return f"{now}. cmi_weight is 0: this is plain cross-entropy, and nothing was hardened."
        if self.before is None:
            return f"{now}. {self._missing()}"
        points = 100 * (self.now.accuracy - self.before.accuracy)
        change = f"{points:+.1f} points since the weight was 0"
        if points <= -NOTABLE_POINTS:
            change += ", so hardening costs accuracy: lower cmi_weight or train longer"
        elif points < NOTABLE_POINTS:
            change = "unchanged since the weight was 0"
        return f"{now}; {self.before.accuracy:.1%} at step {self.before.step:,}: {change}."

    def _missing(self) -> str:
        if not self.warmup_steps:
            return "No warm-up, so nothing to compare with: train once more with cmi_weight=0."
        return (
            f"No evaluation by step {self.warmup_steps:,}, the end of the warm-up, to compare with: set"
            f' eval_strategy="steps", eval_steps={self.warmup_steps}.'
        )

    def _calibration(self) -> str:
        if self.now is None or self.now.ece is None or self.now.calibration_temperature is None:
            return "Calibration: not measured."
        confidence = "its probabilities can be taken as they are"
        if self.now.ece > CALIBRATED_ECE:
            too = "over" if self.now.calibration_temperature > 1 else "under"
            confidence = f"{too}-confident, dividing the logits by {self.now.calibration_temperature:.2f} corrects it"
        before = "" if self.before is None or self.before.ece is None else f", {self.before.ece:.3f} before"
        return f"Calibration: error {self.now.ece:.3f}{before}; {confidence}."

    def _concentration(self) -> str:
        if self.now is None or self.now.cmi_sup is None:
            return "Concentration: not measured."
        now = f"Concentration: answers to samples of one class differ by {self.now.cmi_sup:.3f} nats (eval_cmi_sup)"
        if not self.cmi_weight or self.before is None or self.before.cmi_sup is None:
            return f"{now}; the less, the less a student learns from them."
        ratio = self.before.cmi_sup / max(self.now.cmi_sup, 1e-9)
        twin = "train a twin with cmi_weight=0 to see what cross-entropy alone would leave"
        if ratio >= NOTABLE_RATIO:
            times = f"{ratio:.1f}" if ratio < LARGEST_RATIO else f"more than {LARGEST_RATIO}"
            change = f"{times} times less, so a student has less to learn from them"
        elif ratio > 1 / NOTABLE_RATIO:
            change = f"about the same; {twin}, or raise cmi_weight"
        else:
            change = f"{1 / ratio:.1f} times more, as the model learned; {twin}, or raise cmi_weight"
        return f"{now}, {self.before.cmi_sup:.3f} before: {change}."

    def _collapse(self) -> str:
        if self.collapses is None:
            reason = f"collapse_guard is off, or there are more than {LARGEST_NUM_CLASSES:,} classes"
            return f"Collapse: not watched ({reason if self.cmi_weight else 'cmi_weight is 0'})."
        if not self.collapses:
            return "Collapse: none seen."
        pairs, first = sum(self.collapses.values()), min(self.collapses)
        return f"Collapse: {pairs} pair(s) of classes merged, the first at step {first:,}; lower cmi_weight."

    def _next(self) -> str:
        folder = shlex.quote(self.output_dir)
        if not self.has_audit_command:
            return "Next: trainer.save_model(), then measure what students learn: hf_cmim.Audit."
        role = "--teacher HARDENED --twin" if not self.cmi_weight else "--teacher"
        command = f"hf-cmim audit {role} {folder} --dataset DATA --student-config student.json --dry-run"
        return f"Next: trainer.save_model(), its processor beside it, then see what students learn: {command}"


class SummaryPrinter(TrainerCallback):
    """Print the summary once training has ended, on the main process, unless `log_level` hides warnings.

    Args:
        trainer: trainer to summarise.
    """

    def __init__(self, trainer: "CMIMTrainer") -> None:
        self.trainer = trainer

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Print as Trainer prints its own logs, but not for each trial of a search."""
        is_silent = args.get_process_log_level() > WARNING
        if state.is_world_process_zero and not state.is_hyper_param_search and not is_silent:
            print(summary_of(self.trainer))


def summary_of(trainer: "CMIMTrainer") -> HardeningSummary:
    """Return the summary of a trainer's last training, from the logs that its state and checkpoints keep."""
    args, state, hardening = trainer.args, trainer.state, trainer._state
    history, steps = state.log_history, state.global_step
    # Rounding: 0.29 * 100 is a little less than 29.
    warmup_steps = int(args.cmi_warmup * state.max_steps + 1e-6)
    is_watched = hardening is not None and hardening.detector.reported.numel() > 0 and trainer._guard.is_on
    collapses = {int(entry["step"]): int(entry[COLLAPSED_PAIRS]) for entry in history if COLLAPSED_PAIRS in entry}
    best_step = state.best_global_step if args.load_best_model_at_end else None
    now = _evaluation_of_final_weights(history, best_step or steps)
    earlier = [
        figures
        for figures in _evaluations(history)
        if args.cmi_weight and now is not None and figures.step <= warmup_steps and figures.step < now.step
    ]
    model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    task = task_of(type(model).__name__, getattr(getattr(model, "config", None), "model_type", None))
    return HardeningSummary(
        before=earlier[-1] if earlier else None,
        now=now,
        cmi_weight=trainer.final_weight,
        steps=steps,
        warmup_steps=warmup_steps,
        collapses=collapses if is_watched else None,
        output_dir=str(args.output_dir),
        has_audit_command=task in (IMAGE, TEXT, AUDIO),
    )


def _evaluations(history: Sequence[Mapping[str, float]]) -> list[EvaluationFigures]:
    """Return the evaluations of the first data set that was evaluated."""
    evaluations = [figures for figures in map(EvaluationFigures.from_log, history) if figures is not None]
    return [figures for figures in evaluations if figures.prefix == evaluations[0].prefix]


def _evaluation_of_final_weights(history: Sequence[Mapping[str, float]], final_step: int) -> EvaluationFigures | None:
    """Return the evaluation of the final weights during training, else the last one after it, else the last during it.

    An evaluation after training may be of other data, so that it could not be compared with earlier ones.
    """
    end = next((number for number, entry in enumerate(history) if "train_runtime" in entry), len(history))
    during, after = _evaluations(history[:end]), _evaluations(history[end:])
    of_final_weights = [figures for figures in during if figures.step == final_step]
    candidates = of_final_weights or after or during
    return candidates[-1] if candidates else None
