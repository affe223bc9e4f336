"""A fast probe of what a teacher gives away: small students, stacked, that learn from its answers and from nulls.

A student of a text is a mean of 12-dimensional word embeddings with a linear layer, that of an image a perceptron with
48 hidden units. All arms share initialisations and orders. The loop is a plain one; losses are those of
hf_cmim.attacks, written for many students at once.
"""

import math
from dataclasses import dataclass

import torch
from study_tasks import STUDENT_VOCABULARY, Part
from torch import Tensor
from torch.nn import functional

from hf_cmim.functional.divergence import pearson_correlation, standardized
from hf_cmim.teachers.nulls import hard_log_probs

ORDERS, INITIALISATIONS = 2, 3
EPOCHS, BATCH = 12, 125
BAG, HIDDEN = 12, 48
CONFIDENCES = (0.5, 0.7, 0.9, 0.99)
GAMMA, WTTM_WEIGHT = 0.2, 4.0


@dataclass
class Arm:
    """One kind of student: ce_weight CE(y) + strength_n CE(target_n, softmax(z / T)), or a correlation.

    Attributes:
        targets: `(N, C)` probabilities.
        strength: `(N,)` weights of the samples.
        temperature: temperature of the student's logits.
        ce_weight: weight of the labels.
        form: "soft", "standard" (z standardised first) or "dist" (correlation with the targets).
    """

    targets: Tensor
    strength: Tensor
    temperature: float
    ce_weight: float
    form: str


def attack_arms(logits: Tensor, scale: float) -> dict[str, Arm]:
    """Return KD at T = 1 and at the teacher's scale, standardised KD, WTTM and DIST, on these answers."""
    probs = logits.softmax(dim=1)
    return {
        "kd1": soft(probs, 1.0),
        "kd-relative": soft((logits / scale).softmax(dim=1), scale),
        "standard": Arm(standardized(logits).softmax(dim=1), torch.full((len(logits),), 3.0), 1.0, 0.1, "standard"),
        "wttm": wttm((GAMMA * logits).softmax(dim=1), probs.pow(GAMMA).sum(dim=1)),
        "dist": Arm(probs, torch.ones(len(logits)), 1.0, 1.0, "dist"),
    }


def soft(targets: Tensor, temperature: float) -> Arm:
    """Return KD: .1 CE + .9 T^2 KL."""
    return Arm(targets, torch.full((len(targets),), 0.9 * temperature**2), temperature, 0.1, "soft")


def wttm(targets: Tensor, power_sums: Tensor) -> Arm:
    """Return WTTM of gamma .2 and weight 4."""
    return Arm(targets, WTTM_WEIGHT * power_sums, 1.0, 1.0, "soft")


def teacher_arms(logits: Tensor) -> dict[str, Arm]:
    """Return the attacks on a teacher's answers, and what its labels and its class means teach."""
    centred = logits - logits.mean(dim=1, keepdim=True)
    scale = min(max(float(centred.square().mean().sqrt()), 1.0), 16.0)
    arms = attack_arms(logits, scale)
    predicted, num_classes = logits.argmax(dim=1), logits.shape[1]
    named = hard_log_probs(predicted, num_classes, 0.9).exp()
    arms |= {"argmax-0.9": soft(named, 1.0), "argmax-dist": Arm(named, torch.ones(len(logits)), 1.0, 1.0, "dist")}
    log_probs = logits.log_softmax(dim=1)
    sums = torch.zeros(num_classes, num_classes).index_add_(0, predicted, log_probs)
    means = (sums / torch.bincount(predicted, minlength=num_classes).clamp_min(1).unsqueeze(1))[predicted]
    # WTTM on class means was never the best of them.
    return arms | {f"means-{name}": arm for name, arm in attack_arms(means, scale).items() if name != "wttm"}


def label_arms(labels: Tensor, num_classes: int) -> dict[str, Arm]:
    """Return the students that know labels only: cross-entropy, label smoothing, every loss on hard answers."""
    arms = {
        "null-ce": Arm(functional.one_hot(labels, num_classes).float(), torch.zeros(len(labels)), 1.0, 1.0, "soft")
    }
    for confidence in CONFIDENCES:
        hard = hard_log_probs(labels, num_classes, confidence).exp()
        sharpened = hard_log_probs(labels, num_classes, confidence, 1 / GAMMA)
        arms[f"null-kd1-{confidence:g}"] = soft(hard, 1.0)
        arms[f"null-kd4-{confidence:g}"] = soft(hard, 4.0)
        arms[f"null-wttm-{confidence:g}"] = wttm(hard, sharpened.mul(GAMMA).exp().sum(dim=1))
        arms[f"null-dist-{confidence:g}"] = Arm(hard, torch.ones(len(labels)), 1.0, 1.0, "dist")
    standard = standardized(hard_log_probs(labels, num_classes, 0.9)).softmax(dim=1)
    arms["null-standard"] = Arm(standard, torch.full((len(labels),), 3.0), 1.0, 0.1, "standard")
    return arms


def train_students(
    arms: dict[str, Arm], transfer: Part, judged: Part, num_classes: int, first_seed: int = 100
) -> dict[str, list[float]]:
    """Return the accuracies of each arm's students on `judged`, one a pair of order and initialisation."""
    names = sorted(arms, key=lambda name: ("soft", "standard", "dist").index(arms[name].form))
    accuracies: dict[str, list[float]] = {name: [] for name in names}
    for order in range(ORDERS):
        stack = Stack([arms[name] for name in names], transfer, num_classes, first_seed + order)
        stack.fit()
        hits = stack.hits(judged)
        for name, values in zip(names, hits.view(len(names), INITIALISATIONS).tolist(), strict=True):
            accuracies[name] += values
    return accuracies


class Stack:
    """All students of one order: arms x initialisations, side by side."""

    def __init__(self, arms: list[Arm], transfer: Part, num_classes: int, seed: int) -> None:
        self.arms, self.transfer, self.num_classes = arms, transfer, num_classes
        self.is_text = transfer.features.dtype == torch.long
        self.generator = torch.Generator().manual_seed(seed)
        self.size = len(arms) * INITIALISATIONS
        inputs = BAG if self.is_text else HIDDEN
        self.head = self._repeated((inputs, num_classes), inputs**-0.5)
        self.bias = torch.zeros(self.size, 1, num_classes, requires_grad=True)
        self.parameters = [self.head, self.bias]
        if self.is_text:
            table = 0.1 * torch.randn(STUDENT_VOCABULARY, INITIALISATIONS, BAG, generator=self.generator)
            self.table = table.repeat(1, len(arms), 1).flatten(1).requires_grad_()
            self.parameters.append(self.table)
        else:
            width = transfer.features.shape[1]
            self.first = self._repeated((width, HIDDEN), width**-0.5)
            self.offset = torch.zeros(self.size, 1, HIDDEN, requires_grad=True)
            self.parameters += [self.first, self.offset]
        forms = [arm.form for arm in arms]
        self.soft = slice(0, forms.count("soft"))
        self.standard = slice(self.soft.stop, self.soft.stop + forms.count("standard"))
        self.dist = slice(self.standard.stop, len(arms))
        self.targets = torch.stack([arm.targets for arm in arms])
        self.strength = torch.stack([arm.strength for arm in arms])
        self.temperatures = torch.tensor([arm.temperature for arm in arms]).view(-1, 1, 1, 1)
        self.ce_weights = torch.tensor([arm.ce_weight for arm in arms])

    def _repeated(self, shape: tuple[int, ...], deviation: float) -> Tensor:
        """Return one initialisation a student; all arms have the same ones."""
        weights = deviation * torch.randn(INITIALISATIONS, *shape, generator=self.generator)
        return weights.repeat(len(self.arms), *(1,) * len(shape)).requires_grad_()

    def logits(self, features: Tensor) -> Tensor:
        """Return `(students, B, C)`."""
        if self.is_text:
            shares = (features > 0).float()
            shares /= shares.sum(dim=1, keepdim=True)
            means = functional.embedding_bag(features, self.table, mode="sum", per_sample_weights=shares)
            hidden = means.view(len(features), self.size, BAG).transpose(0, 1)
        else:
            hidden = torch.baddbmm(self.offset, features.expand(self.size, -1, -1), self.first).relu()
        return torch.baddbmm(self.bias, hidden, self.head)

    def loss(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Return the sum of all students' losses."""
        logits = logits.view(len(self.arms), INITIALISATIONS, len(rows), self.num_classes)
        labels, targets, strength = self.transfer.labels[rows], self.targets[:, rows], self.strength[:, rows]
        picked = logits.log_softmax(dim=-1).gather(-1, labels.view(1, 1, -1, 1).expand(*logits.shape[:2], -1, 1))
        total = -(self.ce_weights.view(-1, 1, 1, 1) * picked).sum() / len(rows)
        for arms, change in ((self.soft, None), (self.standard, standardized)):
            shown = logits[arms] if change is None else change(logits[arms])
            log_probs = (shown / self.temperatures[arms]).log_softmax(dim=-1)
            crossed = -(targets[arms].unsqueeze(1) * log_probs).sum(dim=-1)
            total = total + (strength[arms].unsqueeze(1) * crossed).sum() / len(rows)
        probs, wanted = logits[self.dist].softmax(dim=-1), targets[self.dist].unsqueeze(1)
        row_part = (1 - pearson_correlation(probs, wanted.expand_as(probs))).mean(dim=-1)
        columns, wanted = probs.transpose(-1, -2), wanted.transpose(-1, -2)
        column_part = (1 - pearson_correlation(columns, wanted.expand_as(columns))).mean(dim=-1)
        return total + 2 * (row_part + column_part).sum()

    def fit(self) -> None:
        """Train all students at once."""
        rate, decay = (6e-2, 0.1) if self.is_text else (4e-3, 0.01)
        optimizer = torch.optim.AdamW(self.parameters, lr=rate, weight_decay=decay, fused=True)
        size = len(self.transfer.labels)
        batch = min(BATCH, max(25, size // 10))
        epochs = EPOCHS if size > 1_000 else 3 * EPOCHS
        total = epochs * math.ceil(size / batch)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / total)
        for _ in range(epochs):
            for rows in torch.randperm(size, generator=self.generator).split(batch):
                loss = self.loss(self.logits(self.transfer.features[rows]), rows)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()

    @torch.no_grad()
    def hits(self, validation: Part) -> Tensor:
        """Return the accuracy of each student, `(students,)`."""
        hits = torch.zeros(self.size)
        for features, labels in zip(validation.features.split(500), validation.labels.split(500), strict=True):
            hits += (self.logits(features).argmax(dim=-1) == labels).sum(dim=1)
        return hits / len(validation.labels)
