"""Sums and counts of the output clusters, from which every information quantity follows exactly.

A cluster is the set of outputs softmax(z / T) of the samples with one label. Only sums are stored, so one pass over
the data, in batches of any size, gives the same values as one batch of all samples.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import LOWEST
from hf_cmim.functional.inputs import allowed_classes, row_means, without_masked
from hf_cmim.functional.selection import infinite_classes, select_valid
from hf_cmim.functional.temperatures import check_temperatures


class ClusterStatistics:
    """Running sums over the output clusters of `C` classes at `K` temperatures.

    Memory is `(K + 4)` matrices of `C x C` in float64 on the device of the first batch (float32 where the device has
    no float64). Gradients flow through `update` unless it runs under `torch.no_grad()`.

    A masked class (see `hf_cmim.functional.inputs`) has probability 0 in its sample and takes no part in means and
    variances of logits. Only in the separation, where log 0 could occur, it is `exp(LOWEST)` times as probable as the
    largest.

    Args:
        num_classes: number of classes `C`, at least 2.
        temperatures: `K` distinct numbers above 0.
        correct_only: switch to count only samples whose largest logit is at their label.

    Source: one-pass form I(X; Y^ | Y = c) = H(Q_c) - mean H(P_x) of the CMI of arXiv 2309.09123.
    """

    def __init__(self, num_classes: int, temperatures: Sequence[float], correct_only: bool = False) -> None:
        self.num_classes = num_classes
        self.temperatures = check_temperatures(temperatures)
        self.correct_only = correct_only
        self._allocated = False

    def _allocate(self, device: torch.device) -> None:
        self._dtype = torch.float32 if device.type == "mps" else torch.float64
        classes, levels = self.num_classes, len(self.temperatures)

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=self._dtype, device=device)

        self.counts = zeros(classes)
        self._prob_sums = zeros(levels, classes, classes)
        self._entropy_sums = zeros(levels, classes)
        self._normalizer_sums = zeros(levels, classes)
        self._logit_sums = zeros(classes, classes)
        self._square_sums = zeros(classes)
        # Sum of the samples' variances over classes, and the number of samples that have one.
        self._variance_sums = zeros(2)
        self._masked_counts, self._largest_sums = zeros(classes, classes), zeros(classes, classes)
        self._predictions = zeros(classes, classes)
        self._allocated = True

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Args:
            logits: `(..., C)` raw logits of any floating dtype.
            labels: `(...)` integers in [0, C), or -100 to ignore.
        """
        logits, labels = select_valid(logits, labels, self.correct_only)
        if logits.shape[-1] != self.num_classes:
            raise HfCmimError(
                f"Expected logits of {self.num_classes} classes, got {logits.shape[-1]}: they belong to another model."
                " Start new statistics for it."
            )
        if not self._allocated:
            self._allocate(logits.device)
        masked, logits = infinite_classes(logits), logits.to(self._dtype)
        centred = logits - row_means(logits, masked)
        self.counts.index_add_(0, labels, torch.ones_like(labels, dtype=self._dtype))
        # Position of (label, prediction) in the flat confusion matrix.
        cells = labels * self.num_classes + centred.argmax(dim=-1)
        self._predictions.view(-1).index_add_(0, cells, torch.ones_like(cells, dtype=self._dtype))
        self._add_logits(centred, labels, masked)
        for level, temperature in enumerate(self.temperatures):
            scaled = without_masked(centred / temperature, masked)
            normalizers = scaled.logsumexp(dim=-1)
            log_probs = scaled - normalizers.unsqueeze(-1)
            probs = log_probs.exp()
            if masked is not None:
                # 0 * -inf would be nan.
                log_probs = log_probs.masked_fill(masked, 0.0)
            self._prob_sums[level].index_add_(0, labels, probs)
            self._entropy_sums[level].index_add_(0, labels, -(probs * log_probs).sum(dim=-1))
            self._normalizer_sums[level].index_add_(0, labels, normalizers)

    def _add_logits(self, centred: Tensor, labels: Tensor, masked: Tensor | None) -> None:
        """Add the moments of the centred logits `(N, C)` of samples with labels `(N,)`."""
        classes = torch.full_like(centred[:, 0], self.num_classes)
        if masked is not None:
            classes = allowed_classes(masked).squeeze(-1).to(centred)
            self._masked_counts.index_add_(0, labels, masked.to(centred))
            self._largest_sums.index_add_(0, labels, centred.amax(dim=-1, keepdim=True) * masked)
            centred = centred.masked_fill(masked, 0.0)
        squares = centred.square().sum(dim=-1)
        self._logit_sums.index_add_(0, labels, centred)
        self._square_sums.index_add_(0, labels, squares)
        fresh_sums = torch.stack([(squares / classes).sum(), (classes > 1).sum()])
        self._variance_sums = self._variance_sums + fresh_sums

    def _total(self) -> Tensor:
        if not self._allocated or not bool(self.counts.sum() > 0):
            kind = "correctly classified sample" if self.correct_only else "valid sample"
            raise HfCmimError(
                f"Expected at least one {kind}, got none: there is nothing to measure. Check the labels and the"
                " order of the classes."
            )
        return self.counts.sum()

    def centroids(self) -> Tensor:
        """Return the mean output of each class, `(K, C, C)`; rows of classes without a sample are 0."""
        self._total()
        return self._prob_sums / self.counts.clamp_min(1).unsqueeze(-1)

    def cmi(self) -> Tensor:
        """Return I(X; Y^ | Y) at each temperature, `(K,)` nats: mean KL of the outputs to their centroid."""
        total = self._total()
        centroids = self.centroids()
        # The floor makes 0 log 0 = 0, with a finite gradient.
        tiny = torch.finfo(self._dtype).tiny
        centroid_entropies = -(centroids * centroids.clamp_min(tiny).log()).sum(dim=-1)
        differences = (self.counts * centroid_entropies).sum(dim=-1) - self._entropy_sums.sum(dim=-1)
        return (differences / total).clamp_min(0)

    def separation(self) -> Tensor:
        """Return Gamma = E[1{Y != V} H(P_X, P_U)] for an independent copy (U, V) of (X, Y), `(K,)` nats."""
        total = self._total()
        scales = torch.tensor(self.temperatures, dtype=self._dtype, device=self.counts.device).reshape(-1, 1, 1)
        # log p = z / T - normalizer. A masked class counts as the largest logit of its sample plus LOWEST.
        log_prob_sums = (self._logit_sums + self._largest_sums) / scales - self._normalizer_sums.unsqueeze(-1)
        log_prob_sums = log_prob_sums + LOWEST * self._masked_counts
        cross_entropies = -self._prob_sums @ log_prob_sums.transpose(-1, -2)
        same_label = cross_entropies.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
        return (cross_entropies.sum(dim=(-2, -1)) - same_label) / total.square()

    def normalized_cmi(self) -> Tensor:
        """Return NCMI = CMI / Gamma at each temperature, `(K,)`, dimensionless (arXiv 2309.09123).

        Where Gamma is 0, as with samples of one class only, the NCMI is 0.
        """
        separation = self.separation()
        ratio = self.cmi() / torch.where(separation > 0, separation, 1.0)
        return torch.where(separation > 0, ratio, 0.0)

    def within_class_variance(self) -> Tensor:
        """Return the trace of the within-class covariance of centred logits, 0-d, in squared logits."""
        total = self._total()
        allowed = (self.counts.unsqueeze(-1) - self._masked_counts).clamp_min(1)
        explained = (self._logit_sums.square() / allowed).sum()
        return ((self._square_sums.sum() - explained) / total).clamp_min(0)

    def total_variance(self) -> Tensor:
        """Return the trace of the total covariance of centred logits, 0-d, in squared logits."""
        total = self._total()
        allowed = (total - self._masked_counts.sum(dim=0)).clamp_min(1)
        explained = (self._logit_sums.sum(dim=0).square() / allowed).sum()
        return ((self._square_sums.sum() - explained) / total).clamp_min(0)

    def within_total_ratio(self) -> Tensor:
        """Return the within-class variance divided by the total variance of centred logits, 0-d in [0, 1].

        The scale of the logits does not change it. Where the total variance is only rounding, the ratio is 0.
        """
        variance = self.total_variance()
        rounding = 1e-12 * self._square_sums.sum() / self._total()
        ratio = self.within_class_variance() / variance.clamp_min(torch.finfo(self._dtype).tiny)
        return torch.where(variance > rounding, ratio, torch.zeros_like(ratio))

    def root_mean_square(self) -> Tensor:
        """Return the root mean square of the centred logits, 0-d: the model's logit scale.

        Samples in which only one class is not masked have no scale and do not count.
        """
        self._total()
        variances, samples = self._variance_sums
        root: Tensor = (variances / samples.clamp_min(1)).sqrt()
        return root

    def prediction_entropy(self) -> Tensor:
        """Return H(argmax | label), 0-d nats: the limit of the CMI as T goes to 0, which no concentration removes."""
        total = self._total()
        # H(argmax | label) = H(label, argmax) - H(label)
        joint = self._predictions / total
        label_entropy = torch.special.entr(self.counts / total).sum()
        entropy: Tensor = torch.special.entr(joint).sum() - label_entropy
        return entropy.clamp_min(0)

    def recalls(self) -> Tensor:
        """Return the recall of each class, `(C,)` in [0, 1]; 0 for classes without a sample."""
        self._total()
        hits: Tensor = self._predictions.diagonal()
        return hits / self.counts.clamp_min(1)
