"""The centroid bank: a running mean of each class's output at each temperature, kept as training state."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from hf_cmim.functional.clusters import ClusterStatistics
from hf_cmim.functional.divergence import IGNORE_INDEX, check_temperatures, tempered_log_probs
from hf_cmim.functional.inputs import flatten_samples


class CentroidBank(nn.Module):
    """Running class centroids Q_c^T = E[softmax(z / T) | Y = c], fp32.

    Micro-batches `accumulate` their sums and counts; once per optimizer step `step` moves the bank. So the loss of a
    step sees the bank as the step before left it, and 1 x 32 = 4 x 8 = 2 processes x 16.

    The moving average counts samples, not steps: a sample's weight decays by 1 - 1/window with each later sample of
    its class, so batch size and class count do not change what the window means. The first samples are averaged
    plainly (the average is debiased); a class not seen yet has no centroid.

    Args:
        num_classes: `C`.
        temperatures: `K` distinct numbers above 0.
        window: samples of a class after which an older sample weighs 1/e of the newest, > 1.
        floor: smallest probability a centroid shows, so that one outlier cannot make the divergence infinite.

    Attributes:
        probs: `(K, C, C)` centroids; row c of a class not seen is 0.
        mass: `(C,)` effective number of samples behind each centroid, at most `window`.
        seen: `(C,)` samples counted since the beginning.
        recall: `(C,)` running share of each class's samples whose largest logit is at their label.
        terms: `(K,)` CMI at each temperature in the last step, nats.

    Source: ours. Memory is 3 K C^2 floats.
    """

    probs: Tensor
    log_probs: Tensor
    mass: Tensor
    seen: Tensor
    recall: Tensor
    terms: Tensor

    def __init__(
        self, num_classes: int, temperatures: Sequence[float], window: float = 500.0, floor: float = 1e-8
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"Expected at least 2 classes, got {num_classes}: one class has nothing to hide.")
        if not 1 < window < math.inf:
            raise ValueError(
                f"Expected a window above 1 sample a class and finite, got {window}: with 1 nothing is averaged, and"
                " without end the centroids never leave the untrained model behind. Start near 500."
            )
        self.num_classes = num_classes
        self.temperatures = check_temperatures(temperatures)
        self.window = window
        self.floor = floor
        levels = len(self.temperatures)
        self.register_buffer("probs", torch.zeros(levels, num_classes, num_classes))
        self.register_buffer("mass", torch.zeros(num_classes))
        self.register_buffer("seen", torch.zeros(num_classes, dtype=torch.long))
        self.register_buffer("recall", torch.zeros(num_classes))
        self.register_buffer("terms", torch.zeros(levels))
        self.register_buffer("log_probs", torch.full_like(self.probs, -torch.inf), persistent=False)
        self.register_load_state_dict_post_hook(_after_loading)  # type: ignore[no-untyped-call]
        self._pending: dict[str, Tensor] = {}

    @property
    def log_centroids(self) -> Tensor:
        """`(K, C, C)` log centroids, floored; -inf in the rows of classes not seen yet, which then weigh nothing."""
        return self.log_probs

    @torch.no_grad()
    def accumulate(self, logits: Tensor, labels: Tensor, terms: Tensor | None = None) -> None:
        """Add the outputs of one micro-batch to the pending step; no gradient flows, nothing moves yet.

        Args:
            logits: `(..., C)` outputs of the training forward.
            labels: `(...)` integers in [0, C), or -100 to ignore.
            terms: `(K,)` this micro-batch's share of the step's CMI at each temperature, or None.
        """
        logits, labels = flatten_samples(logits.detach(), labels)
        if not self._pending:
            self._pending = {
                "sums": torch.zeros_like(self.probs),
                "counts": torch.zeros_like(self.mass),
                "hits": torch.zeros_like(self.mass),
                "terms": torch.zeros_like(self.terms),
            }
        valid = (labels != IGNORE_INDEX).to(self.mass.dtype)
        rows = labels.clamp_min(0)
        probs = tempered_log_probs(logits, self.temperatures).exp_().to(self.probs.dtype)
        self._pending["sums"].index_add_(1, rows, probs * valid.unsqueeze(-1))
        self._pending["counts"].index_add_(0, rows, valid)
        self._pending["hits"].index_add_(0, rows, valid * (logits.argmax(dim=-1) == labels))
        if terms is not None:
            self._pending["terms"] += terms.detach()

    @torch.no_grad()
    def step(self, reduce: Callable[[Tensor], Tensor] | None = None, move_centroids: bool = True) -> None:
        """Move the bank by everything accumulated since the last step.

        Args:
            reduce: sums a flat tensor over all processes; None on one process.
            move_centroids: False keeps the centroids (they are refreshed otherwise) and moves the rest.
        """
        if not self._pending:
            return
        names = list(self._pending)
        flat = torch.cat([self._pending[name].flatten() for name in names])
        if reduce is not None:
            flat = reduce(flat)
        parts = flat.split([self._pending[name].numel() for name in names])
        totals = {name: part.view_as(self._pending[name]) for name, part in zip(names, parts, strict=True)}
        self._pending = {}

        counts = totals["counts"]
        fresh_mass = self._mass_of(counts)
        mass = self.mass * (1 - fresh_mass / self.window) + fresh_mass
        rate = torch.where(counts > 0, fresh_mass / mass.clamp_min(1e-12), 0.0)
        per_sample = 1 / counts.clamp_min(1)
        self.recall.lerp_(totals["hits"] * per_sample, rate)
        self.seen += counts.long()
        self.terms.copy_(totals["terms"])
        if move_centroids:
            self.mass.copy_(mass)
            self.probs.lerp_(totals["sums"] * per_sample.unsqueeze(-1), rate.unsqueeze(-1))
            self._refresh_logs()

    @torch.no_grad()
    def fill(self, statistics: ClusterStatistics) -> None:
        """Replace every centroid by the exact one of a pass over the data.

        Raises:
            ValueError: statistics of other classes or temperatures.
        """
        if (statistics.num_classes, statistics.temperatures) != (self.num_classes, self.temperatures):
            raise ValueError(
                f"Expected statistics of {self.num_classes} classes at temperatures {self.temperatures}, got"
                f" {statistics.num_classes} classes at {statistics.temperatures}."
            )
        counts = statistics.counts.to(self.mass)
        self.probs.copy_(statistics.centroids())
        self.recall.copy_(statistics.recalls())
        self.mass.copy_(self._mass_of(counts))
        self._refresh_logs()

    def _mass_of(self, counts: Tensor) -> Tensor:
        """Weight of n samples, the newest weighing 1: the sum of (1 - 1/window)^i for i < n."""
        return -torch.expm1(counts * math.log1p(-1 / self.window)) * self.window

    def _refresh_logs(self) -> None:
        torch.log(self.probs.clamp_min(self.floor), out=self.log_probs)
        self.log_probs.masked_fill_((self.mass == 0).unsqueeze(-1), -torch.inf)


def _after_loading(bank: CentroidBank, _: object) -> None:
    bank._refresh_logs()
