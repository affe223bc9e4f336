"""Training of one small teacher by any form of the hardening objective, those of the package and candidates.

A form is written KIND-SAMPLES or KIND-SAMPLES+CONTROL:

- KIND: `plain`, `scaled4`, `scaled16`, `share`: those of the package. `ratio4`: scaled, with the temperature 64 alone,
  where the CMI is the within-class variance divided by the total variance. `rest4`: scaled, over the classes other
  than the sample's own, so that its confidence stays free. `bounded`: the share, times the fraction of the label's
  entropy that the outputs tell at T = 1, so that it stays weak where labels cannot be learned.
- SAMPLES: `all`, `correct` (those classified correctly at that step), `predicted` (all, and the class of a sample is
  the predicted one).
- CONTROL: `follow` (cmi_follow_calibration: the weight may only rise), `match` (it also falls while the model is
  under-confident on held-out samples), `limitR` (the gradient of the CMI by the logits is at most R times that of the
  cross-entropy, root mean squares), `late` (warm-up .5, ramp .3: shorter hardening). Concentrated too, each by the
  class that is predicted for it: `droppedR` (a copy of each sample without a share R of its words or pixels), `mixed`
  (a copy mixed with another sample) and `heldout` (as many of the held-out samples, whose labels are not used).
  `averaged`: the mean of the weights after each step of the last quarter; also of cross-entropy, `ce+averaged`.
"""

import copy
import math
import re
from dataclasses import dataclass

import torch
from study_tasks import Part, Task
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, update_bn

from hf_cmim import CentroidBank, CMIMLoss, ObjectiveSpec
from hf_cmim.functional import CalibrationStatistics, conditional_mutual_information, within_total_ratio
from hf_cmim.functional.calibration import octave_grid
from hf_cmim.hardening.loss import ramped_weight
from hf_cmim.trainers.hardening.calibrated_weight import LARGEST_TEMPERATURE, RATE

TEMPERATURES = (1.0, 2.0, 4.0, 8.0, 16.0)
IGNORED = -100
LARGEST_WEIGHT = 128.0


@dataclass(frozen=True)
class Form:
    """A parsed form; see the module."""

    kind: str
    logit_scale: float
    samples: str
    control: str
    limit: float

    @classmethod
    def parse(cls, name: str) -> "Form":
        """Return the form of a name."""
        found = re.fullmatch(
            r"(plain|scaled|share|ratio|rest|bounded)(\d*)-(all|correct|predicted)(?:\+([a-z]+)([\d.]*))?", name
        )
        if not found:
            raise SystemExit(f"Expected KIND-SAMPLES or KIND-SAMPLES+CONTROL, got {name!r}.")
        kind, scale, samples, control, limit = found.groups()
        return cls(kind, float(scale or 0), samples, control or "", float(limit or 0))

    @property
    def is_share(self) -> bool:
        """True for the forms that divide the CMI by all information."""
        return self.kind in ("share", "bounded")


class Hardening:
    """The CMI term of one training run: a bank, a loss and a weight."""

    def __init__(self, form: Form, weight: float, task: Task) -> None:
        self.form, self.weight, self.scale = form, weight, 1.0
        self.warmup = 0.5 if form.control == "late" else 0.2
        if form.is_share:
            spec = ObjectiveSpec("share", TEMPERATURES)
        elif form.kind == "ratio":
            spec = ObjectiveSpec("scaled", (64.0,), logit_scale=form.logit_scale)
        elif form.logit_scale:
            spec = ObjectiveSpec("scaled", TEMPERATURES, logit_scale=form.logit_scale)
        else:
            spec = ObjectiveSpec("plain", TEMPERATURES)
        self.loss, self.bank = CMIMLoss(spec), CentroidBank(task.num_classes, spec)
        shares = torch.bincount(task.train.labels, minlength=task.num_classes) / len(task.train.labels)
        self.label_entropy = float(-(shares * shares.clamp_min(1e-12).log()).sum())
        self.squares = torch.zeros(2)
        self.used_weight = 0.0

    def term(self, logits: Tensor, labels: Tensor, progress: float, others: Tensor | None = None) -> Tensor:
        """Return the weighted CMI of a batch, and of the logits of samples without labels, and move the bank."""
        form = self.form
        classes = logits.detach().argmax(dim=1)
        if form.samples == "all":
            classes = labels
        elif form.samples == "correct":
            classes = torch.where(classes == labels, labels, IGNORED)
        if others is not None:
            logits, classes = torch.cat([logits, others]), torch.cat([classes, others.detach().argmax(dim=1)])
        if form.kind == "rest":
            own = functional.one_hot(classes.clamp_min(0), logits.shape[1]).bool()
            shown = logits.masked_fill(own, -math.inf)
        else:
            shown = logits
        weight = ramped_weight(self.weight * self.scale, progress, self.warmup, ramp=0.3)
        snapshot = self.bank.snapshot()
        parts = self.loss(shown, classes, snapshot, 1.0, num_items=len(classes))
        cmi = parts.cmi
        told = 1.0
        if form.kind == "bounded":
            told = min(1.0, float(snapshot.state.information[0]) / self.label_entropy)
        weight *= told
        if form.control == "limit" and weight:
            weight = min(weight, told * form.limit / max(self._ratio(cmi, logits, labels), 1e-9))
        # The correction of the scale is remembered for weight 1; the loss multiplies it by the weight of the step.
        self.bank.accumulate(shown.detach(), classes, parts)
        self.bank.step()
        self.used_weight = weight
        return weight * cmi

    def _ratio(self, cmi: Tensor, logits: Tensor, labels: Tensor) -> float:
        """Return the running ratio of the gradients by the logits: the CMI's at weight 1, the cross-entropy's."""
        (gradient,) = torch.autograd.grad(cmi, logits, retain_graph=True)
        errors = logits.detach().softmax(dim=1) - functional.one_hot(labels, logits.shape[1])
        fresh = torch.stack([(gradient * len(labels)).square().sum(), errors.square().sum()]) / len(labels)
        self.squares = 0.95 * self.squares + 0.05 * fresh
        return float((self.squares[0] / self.squares[1].clamp_min(1e-12)).sqrt())

    def start_from(self, logits: Tensor, labels: Tensor) -> None:
        """Begin with the centroids of a trained model, without a warm-up."""
        self.warmup = 0.0
        self.bank.fill([(logits, labels)])

    def look(self, temperature: float, fraction: float) -> None:
        """Let the weight follow the calibration temperature of held-out samples, `fraction` of training later."""
        if self.form.control not in ("follow", "match") or not self.used_weight:
            return
        bounded = min(max(temperature, 1 / LARGEST_TEMPERATURE), LARGEST_TEMPERATURE)
        scale = self.scale * bounded ** (RATE * fraction)
        self.scale = max(1.0, scale) if self.form.control == "follow" else scale
        self.scale = min(self.scale, LARGEST_WEIGHT / self.weight)


def train_teacher(
    task: Task, form: str, weight: float, seed: int, twin: nn.Module | None = None
) -> tuple[nn.Module, float]:
    """Return a trained teacher, and the weight of its last step.

    The forms `ce` and `ls` have no CMI; `ls` has smoothed labels. With a twin, training starts from its weights and
    centroids and has no warm-up, as in `hf_cmim.harden_within`.
    """
    torch.manual_seed(seed)
    model = task.build() if twin is None else copy.deepcopy(twin)
    kind, _, control = form.partition("+")
    hardening = None if kind in ("ce", "ls") else Hardening(Form.parse(form), weight, task)
    average = AveragedModel(model) if control == "averaged" else None
    if twin is not None and hardening is not None:
        hardening.start_from(answers(twin, task.train), task.train.labels)
    optimizer = torch.optim.AdamW(model.parameters(), lr=task.learning_rate, weight_decay=0.01, fused=True)
    batches = -(-len(task.train.labels) // task.batch_size)
    total = task.epochs * batches
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / (0.1 * total)) * (1 - step / total)
    )
    step = 0
    for _ in range(task.epochs):
        model.train()
        for rows in torch.randperm(len(task.train.labels)).split(task.batch_size):
            logits, labels = model(task.train.inputs[rows]), task.train.labels[rows]
            loss = functional.cross_entropy(logits, labels, label_smoothing=0.1 if kind == "ls" else 0.0)
            if hardening is not None:
                others = without_labels(task, hardening.form, rows)
                others = None if others is None else model(others)
                loss = loss + hardening.term(logits, labels, step / total, others)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            step += 1
            if average is not None and step > 0.75 * total:
                average.update_parameters(model)
        if hardening is not None and hardening.form.control in ("follow", "match"):
            held_out = answers(model, task.tune)
            hardening.look(calibration_temperature(held_out, task.tune.labels), 1 / task.epochs)
    if average is not None:
        update_bn(task.train.inputs.split(1_000), average)
        model = average.module
    return model.eval(), 0.0 if hardening is None else hardening.used_weight


def without_labels(task: Task, form: Form, rows: Tensor) -> Tensor | None:
    """Return the inputs that a form concentrates beside the training samples of a batch."""
    inputs = task.train.inputs[rows]
    if form.control == "heldout":
        return task.tune.inputs[torch.randint(len(task.tune.labels), (len(rows),))]
    if form.control == "dropped":
        # Word 0 is padding; pixels are dropped in all channels.
        kept = (
            torch.rand_like(inputs[:, :1] if inputs.is_floating_point() else inputs, dtype=torch.float) >= form.limit
        )
        return inputs * kept
    if form.control == "mixed":
        others, share = inputs[torch.randperm(len(rows))], 0.5 + 0.5 * torch.rand(len(rows))
        if inputs.is_floating_point():
            return torch.lerp(others, inputs, share.view(-1, 1, 1, 1))
        return torch.where(torch.rand(inputs.shape) < share.unsqueeze(1), inputs, others)
    return None


@torch.no_grad()
def answers(model: nn.Module, part: Part) -> Tensor:
    """Return the logits of a part in evaluation mode."""
    model.eval()
    return torch.cat([model(inputs) for inputs in part.inputs.split(1_000)])


def calibration_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature with the smallest NLL, of a grid of 8 an octave."""
    grid = octave_grid(-4, 5, per_octave=8)
    losses = [float(functional.cross_entropy(logits / temperature, labels)) for temperature in grid]
    return grid[losses.index(min(losses))]


def figures(task: Task, training: Tensor, validation: Tensor) -> dict[str, float]:
    """Return what is measured on a teacher's answers to its first training samples and to `validation`."""
    statistics = CalibrationStatistics(octave_grid(-4, 5, per_octave=8))
    statistics.update(validation, task.validation.labels)
    calibration = statistics.compute()
    predicted, train_predicted = validation.argmax(dim=1), training.argmax(dim=1)
    train_labels = task.train.labels[: len(training)]
    centred = validation - validation.mean(dim=1, keepdim=True)
    return {
        "accuracy": float((predicted == task.validation.labels).float().mean()),
        "train_accuracy": float((train_predicted == train_labels).float().mean()),
        "nll": calibration.nll,
        "ece": calibration.ece,
        "nll_calibrated": calibration.nll_calibrated,
        "calibration_temperature": calibration.temperature,
        "aurc": calibration.aurc,
        "train_cmi_T1": float(conditional_mutual_information(training, train_labels, 1.0)),
        "train_cmi_T4": float(conditional_mutual_information(training, train_labels, 4.0)),
        "within_total_train": float(within_total_ratio(training, train_predicted)),
        "within_total_validation": float(within_total_ratio(validation, predicted)),
        "logit_scale": float(centred.square().mean().sqrt()),
        "smallest_recall": smallest_recall(predicted, task),
    }


def smallest_recall(predicted: Tensor, task: Task) -> float:
    """Return the recall of the class that the teacher recognises worst."""
    labels = task.validation.labels
    hits = torch.bincount(labels[predicted == labels], minlength=task.num_classes)
    counts = torch.bincount(labels, minlength=task.num_classes)
    return float((hits[counts > 0] / counts[counts > 0]).min())
