"""A plain loop that trains many small students by KD at once: the least that an audit of them could cost.

It knows everything beforehand: one architecture, one loss for all, answers of the teacher computed once, all data in
memory as two tensors. `benchmarks/audit.py --student bag` and `--student perceptron` compare the audit's pool with it.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

HIDDEN = {"bag": 32, "perceptron": 64}
"""Numbers of the hidden layer of each student of evidence/audit_teachers.py."""


def train_bags(count: int, inputs: dict[str, Tensor], answers: Tensor, labels: Tensor, settings: "Settings") -> None:
    """Train means of token embeddings with a linear layer; the tables of all students lie side by side."""
    tokens, mask = inputs["input_ids"], inputs["attention_mask"].float()
    shares = mask / mask.sum(dim=1, keepdim=True)
    table = (0.1 * torch.randn(settings.vocabulary, count * HIDDEN["bag"])).requires_grad_()
    heads = _heads(count, HIDDEN["bag"], answers.shape[1])

    def hidden(rows: Tensor) -> Tensor:
        means = functional.embedding_bag(tokens[rows], table, mode="sum", per_sample_weights=shares[rows])
        return means.view(len(rows), count, -1).transpose(0, 1)

    _train([table, *heads], hidden, heads, answers, labels, settings)


def train_perceptrons(
    count: int, inputs: dict[str, Tensor], answers: Tensor, labels: Tensor, settings: "Settings"
) -> None:
    """Train perceptrons of one hidden layer."""
    pixels = inputs["pixel_values"].flatten(1)
    first = _heads(count, pixels.shape[1], HIDDEN["perceptron"])
    heads = _heads(count, HIDDEN["perceptron"], answers.shape[1])

    def hidden(rows: Tensor) -> Tensor:
        return torch.baddbmm(first[1], pixels[rows].expand(count, -1, -1), first[0]).relu()

    _train([*first, *heads], hidden, heads, answers, labels, settings)


class Settings:
    """What both sides train with.

    Args:
        epochs: passes over the data.
        batch_size: samples in a step.
        learning_rate: of AdamW at the start; it falls linearly to 0.
        temperature: of the KD term, which has weight .9 beside .1 of the cross-entropy.
        vocabulary: tokens in the table of a bag.
    """

    def __init__(
        self, epochs: int, batch_size: int, learning_rate: float, temperature: float, vocabulary: int
    ) -> None:
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.temperature = temperature
        self.vocabulary = vocabulary


def _heads(count: int, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
    weights = torch.randn(count, inputs, outputs) / inputs**0.5
    return weights.requires_grad_(), torch.zeros(count, 1, outputs, requires_grad=True)


def _train(
    parameters: list[Tensor],
    hidden: Callable[[Tensor], Tensor],
    heads: tuple[Tensor, Tensor],
    answers: Tensor,
    labels: Tensor,
    settings: Settings,
) -> None:
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, foreach=True)
    total = settings.epochs * -(-len(labels) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / total)
    temperature, count = settings.temperature, len(heads[0])
    targets = (answers / temperature).softmax(dim=-1)
    for _ in range(settings.epochs):
        for rows in torch.randperm(len(labels)).split(settings.batch_size):
            logits = torch.baddbmm(heads[1], hidden(rows), heads[0])
            flat = logits.flatten(0, 1)
            cross_entropy = functional.cross_entropy(flat, labels[rows].repeat(count))
            softened = (flat / temperature).log_softmax(dim=-1)
            divergence = functional.kl_div(softened, targets[rows].repeat(count, 1), reduction="batchmean")
            (count * (0.1 * cross_entropy + 0.9 * temperature**2 * divergence)).backward()
            _clip(parameters, count)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()


@torch.no_grad()
def _clip(parameters: list[Tensor], count: int) -> None:
    """Clip the gradient of each student to norm 1, as the Trainer of transformers does by default."""
    stacked = [  # the rows of the bags' table hold all students side by side
        each if len(each) == count else each.view(len(each), count, -1).transpose(0, 1)
        for each in (parameter.grad for parameter in parameters)
        if each is not None
    ]
    norms = [
        each.flatten(1).norm(dim=1) if each.is_contiguous() else each.transpose(0, 1).norm(dim=2).norm(dim=0)
        for each in stacked
    ]
    factors = (1 / (torch.stack(norms).norm(dim=0) + 1e-6)).clamp_max(1)
    for each in stacked:
        each.mul_(factors.view(-1, 1, 1))
