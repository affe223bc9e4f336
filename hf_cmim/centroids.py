"""The centroid bank: a running mean of each class's output at each temperature, kept as training state."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from hf_cmim.errors import HfCmimError
from hf_cmim.functional.blocks import tempered_probs
from hf_cmim.functional.divergence import IGNORE_INDEX
from hf_cmim.functional.inputs import correct_alone, flatten_samples
from hf_cmim.functional.label_information import LabelFollower, LabelInformation, MovedRows
from hf_cmim.functional.masking import masked_classes, without_masked
from hf_cmim.functional.scaling import SMALLEST_SPREAD, Scaling, spread_of
from hf_cmim.functional.temperatures import check_temperatures

MOVED_ELEMENTS = 2**22
"""Numbers that are moved at once, all temperatures together: small banks whole, large ones level by level; ours."""


class CentroidBank(nn.Module):
    """A bank of class centroids: running means Q_c^T = E[softmax(z / T) | Y = c], fp32.

    Call `accumulate` for every micro-batch. Once per optimizer step, `step` moves the rows of the classes in it. So
    the loss of a step uses the bank of the step before, and 1 x 32 = 4 x 8 = 2 processes x 16.

    The moving average counts samples, not steps: a sample's weight decays by 1 - 1/window with each later sample of
    its class. So the window means the same for every batch size and number of classes. The average is debiased: the
    first samples have equal weights. A class without samples so far has no centroid.

    Args:
        num_classes: number of classes `C`.
        temperatures: `K` distinct numbers above 0.
        window: number of samples of a class after which an older sample weighs 1/e of the newest, above 1.
        floor: smallest probability in a centroid, so that one outlier cannot make the divergence infinite.
        logit_scale: root mean square of a sample's centred logits to which larger logits are scaled down. One factor
            for all samples follows their running spread. The loss then needs `scaling`. 0 leaves the logits unscaled.
        follows_label: switch to follow the information of the centroids about the label, for the weighting
            "information".
        correct_only: switch to move centroids only by samples whose largest logit is at their label.

    Attributes:
        probs: centroids, `(K, C, C)`; the row of a class without samples is 0.
        mass: effective number of samples behind each centroid, `(C,)`, at most `window`.
        seen: number of samples of each class since the beginning, `(C,)`.
        recall: running share of each class's samples whose largest logit is at their label, `(C,)`.
        terms: CMI at each temperature in the last step, `(K,)`, nats.
        spread: running mean over samples of the variance of their logits over the classes, 0-d.
        spread_mass: effective number of samples behind `spread`, 0-d, at most `window`.
        multiplier, outward: values of `Scaling`, 0-d; 1 and 0 before the first step.

    Source: ours. Memory is 2 K C^2 floats: the centroids and, for the loss, their logarithms.
    """

    probs: Tensor
    log_probs: Tensor
    mass: Tensor
    seen: Tensor
    recall: Tensor
    terms: Tensor
    spread: Tensor
    spread_mass: Tensor
    multiplier: Tensor
    outward: Tensor

    def __init__(
        self,
        num_classes: int,
        temperatures: Sequence[float],
        window: float = 500.0,
        floor: float = 1e-8,
        logit_scale: float = 0.0,
        follows_label: bool = False,
        correct_only: bool = False,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise HfCmimError(f"Expected at least 2 classes, got {num_classes}: one class has nothing to hide.")
        if not 1 < window < math.inf:
            raise HfCmimError(
                f"Expected a window above 1 sample a class and finite, got {window}: a window of 1 averages nothing,"
                " and with an infinite window the centroids never forget the untrained model. Start near 500."
            )
        check_logit_scale(logit_scale)
        self.logit_scale = logit_scale
        self.correct_only = correct_only
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
        for name, value in (("spread", 0.0), ("spread_mass", 0.0), ("multiplier", 1.0), ("outward", 0.0)):
            self.register_buffer(name, torch.tensor(value))
        self.label = LabelFollower(levels, num_classes) if follows_label else None
        self.register_buffer("log_probs", torch.full_like(self.probs, -torch.inf), persistent=False)
        self.register_load_state_dict_post_hook(_after_loading)  # type: ignore[no-untyped-call]
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []

    @property
    def log_centroids(self) -> Tensor:
        """Log-centroids, `(K, C, C)`, at least log(floor); -inf for classes without samples, which add no loss."""
        return self.log_probs

    @property
    def scaling(self) -> Scaling | None:
        """Scaling of the logits for the loss; None if they are not scaled."""
        return Scaling(self.multiplier, self.outward) if self.logit_scale else None

    @property
    def label_information(self) -> LabelInformation | None:
        """Information of the centroids about the label, with class frequencies so far; None if it is not followed."""
        return None if self.label is None else self.label.information

    @torch.no_grad()
    def accumulate(self, logits: Tensor, labels: Tensor, components: Mapping[str, Tensor] | None = None) -> None:
        """Add the outputs of one micro-batch to the pending step; no gradient flows, nothing moves yet.

        Args:
            logits: `(..., C)` outputs of the training forward, not scaled; the bank stores a copy until the step.
            labels: `(...)` integers in [0, C), or -100 to ignore.
            components: result of `CMIMLoss` for this micro-batch. The bank stores its `cmi_per_temperature` (for
                reductions other than the mean) and `scale_sums`, to add them up over the step.

        Raises:
            HfCmimError: logits of another number of classes, or no `scale_sums` though logits are scaled.
        """
        logits, labels = self._checked(logits, labels)
        components = components or {}
        if self.logit_scale and "scale_sums" not in components:
            raise HfCmimError(
                f"Expected components with scale_sums for logits brought to the scale {self.logit_scale:g}, got"
                f" {sorted(components)}: shrinking all logits would reduce the CMI and hide nothing. Call the loss"
                " with scaling=bank.scaling, and pass its components."
            )
        terms = components.get("cmi_per_temperature", torch.zeros_like(self.terms)).detach()
        scale_sums = components.get("scale_sums", terms.new_zeros(3)).detach()
        # A copy, because a compiled model may write its next outputs into the same memory.
        self._pending.append((logits.detach().clone(), labels, torch.cat([terms, scale_sums.to(terms)])))

    @torch.no_grad()
    def step(self, gather: Callable[[Tensor, int], Tensor] | None = None, move_centroids: bool = True) -> None:
        """Move the bank by everything accumulated since the last step.

        Args:
            gather: function that joins a tensor of all processes along its first dimension, padding shorter ones with
                the given number; None on one process.
            move_centroids: switch to move the centroids. With False only the other statistics move, because a pass
                over the data refreshes the centroids.
        """
        if not self._pending:
            return
        parts = zip(*self._pending, strict=True)
        logits, labels, shares = (part[0] if len(part) == 1 else torch.cat(part) for part in parts)
        self._pending, shares = [], shares.view(-1, len(self.temperatures) + 3)
        if gather is not None:
            logits, labels, shares = gather(logits, 0), gather(labels, IGNORE_INDEX), gather(shares, 0)
        valid, hits = self._counts_and_hits(logits, labels)
        self.seen += valid.long()
        counts = valid
        if self.correct_only:
            counts, labels = hits, correct_alone(logits, labels)
        fresh_mass = self._mass_of(counts)
        # Older samples decay by (1 - 1/window)^n = 1 - fresh_mass / window.
        mass = torch.addcmul(self.mass, self.mass, fresh_mass, value=-1 / self.window).add_(fresh_mass)
        rates = fresh_mass / mass.clamp_min(1e-12)
        seen_rates = self._mass_of(valid) / self._mass_of(self.seen).clamp_min(1e-12) if self.correct_only else rates
        self.recall.lerp_(hits / valid.clamp_min(1), seen_rates)
        # Each micro-batch contributes its CMI at each temperature, then three sums of the scale.
        totals = shares.sum(dim=0)
        self.terms.copy_(torch.where(valid.any(), totals[:-3], self.terms))
        self._follow_scale(*totals[-3:])
        if move_centroids:
            self.mass.copy_(mass)
            moved = None if self.label is None else self.label.begin_move(counts, labels)
            self._move(logits, labels, rates, rates / counts.clamp_min(1), moved)

    @torch.no_grad()
    def fill(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Replace every centroid by the exact class mean over the data.

        If logits are scaled and no step has set the scale yet, the first batch sets it.

        Args:
            batches: pairs of logits `(..., C)` and labels `(...)` in [0, C) or -100, of all processes.

        Raises:
            HfCmimError: no valid sample, or logits of another number of classes.
        """
        valid, hits = torch.zeros_like(self.mass), torch.zeros_like(self.mass)
        counts = hits if self.correct_only else valid
        self.probs.zero_()
        self.mass.zero_()
        self.log_probs.fill_(-torch.inf)
        for number, batch in enumerate(batches):
            logits, labels = self._checked(*batch)
            fresh, fresh_hits = self._counts_and_hits(logits, labels)
            valid += fresh
            hits += fresh_hits
            if self.correct_only:
                fresh, labels = fresh_hits, correct_alone(logits, labels)
            if number == 0 and self.logit_scale and not bool(self.spread_mass):
                raised = logits.to(self.spread.dtype)
                self._follow_scale(self.outward, *spread_of(raised, labels, masked_classes(raised)))
            self.mass.copy_(self._mass_of(counts))
            # With these rates the running mean is the plain mean of all samples so far.
            per_sample = 1 / counts.clamp_min(1)
            self._move(logits, labels, fresh * per_sample, per_sample)
        if not bool(valid.any()):
            raise HfCmimError(
                "Expected at least one valid sample to fill the centroids, got none: the bank is now empty, and the"
                " CMI would stay 0. Check for labels that are all -100."
            )
        self.recall.copy_(hits / valid.clamp_min(1))
        if self.label is not None:
            self.label.read(self.probs, self.log_probs, counts)

    def _checked(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits, labels = flatten_samples(logits, labels)
        if logits.shape[1] != self.num_classes:
            raise HfCmimError(
                f"Expected logits of {self.num_classes} classes, got {logits.shape[1]} classes: samples would move the"
                " centroids of others. Build the bank with the model's number of classes."
            )
        return logits, labels

    def shown(self, logits: Tensor) -> Tensor:
        """Return the logits that enter the centroids: scaled if the bank scales, with masked classes at -inf."""
        unmasked = without_masked(logits, masked_classes(logits))
        return unmasked.to(self.multiplier.dtype) * self.multiplier if self.logit_scale else unmasked

    def _follow_scale(self, pull: Tensor, variances: Tensor, count: Tensor) -> None:
        """Update the multiplier from the spread of a step's logits, and `outward` from the pull on them.

        Fast-growing logits would make both too large for the next step: the CMI would pull them harder, and the
        correction would drive them further out. So the multiplier uses the larger of the running spread and the
        step's spread. The correction shrinks by the running spread divided by this larger one.
        """
        if not self.logit_scale:
            return
        spread = (variances / count.clamp_min(1)).clamp_min(SMALLEST_SPREAD)
        fresh_mass = self._mass_of(count)
        self.spread_mass.addcmul_(self.spread_mass, fresh_mass, value=-1 / self.window).add_(fresh_mass)
        self.spread.lerp_(spread, fresh_mass / self.spread_mass.clamp_min(1e-12))
        largest = torch.maximum(self.spread, spread)
        multiplier = (self.logit_scale * largest.rsqrt()).clamp_max(1.0)
        outward = pull / spread * (self.spread / largest)
        # A step without valid samples does not change the scale.
        self.multiplier.copy_(torch.where(count > 0, multiplier, self.multiplier))
        self.outward.copy_(torch.where(count > 0, outward, self.outward))

    def _counts_and_hits(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the number of samples of each class, and of those with the largest logit at their label, `(C,)`."""
        flags = self.mass.new_empty(len(labels), 2)
        torch.ne(labels, IGNORE_INDEX, out=flags[:, 0])
        torch.eq(logits.argmax(dim=1), labels, out=flags[:, 1])
        # Ignored samples are added to class 0, but both of their flags are 0.
        totals = flags.new_zeros(self.num_classes, 2).index_add_(0, labels.clamp_min(0), flags)
        return totals[:, 0], totals[:, 1]

    def _move(
        self, logits: Tensor, labels: Tensor, rates: Tensor, shares: Tensor, moved: MovedRows | None = None
    ) -> None:
        """Move centroids to (1 - rates) Q + shares * (sum of the class's outputs).

        `rates` and `shares` are `(C,)`, 0 for classes without samples in the batch. With fewer samples than classes,
        only their rows are read and written, once per sample (equal labels write equal rows): the whole bank would
        take longer than the model.
        """
        classes, by_rows = labels.clamp_min(0), len(labels) < self.num_classes
        shares = torch.where(labels != IGNORE_INDEX, shares[classes], 0.0).unsqueeze(1)
        # A class without samples has no floor, so that its logarithm is -inf.
        decays, floors = 1 - rates, torch.where(self.mass > 0, self.floor, 0.0)
        if by_rows:
            decays, floors = decays[classes], floors[classes]
        decays, floors = decays.unsqueeze(1), floors.unsqueeze(1)
        multiplier, masked = self.multiplier if self.logit_scale else None, masked_classes(logits)
        step = max(1, MOVED_ELEMENTS // (max(len(labels), 1) * self.num_classes))
        for start in range(0, len(self.temperatures), step):
            levels = slice(start, start + step)
            table, log_table = self.probs[levels], self.log_probs[levels]
            probs = tempered_probs(logits, self.temperatures[levels], multiplier, masked)
            probs = probs.to(table.dtype).mul_(shares)
            if self.label is not None and moved is not None:
                self.label.leave(moved, levels, table)
            if by_rows:
                rows = table.index_select(1, classes).mul_(decays)
                table.index_copy_(1, classes, rows).index_add_(1, classes, probs)
                torch.index_select(table, 1, classes, out=rows)
                log_table.index_copy_(1, classes, torch.maximum(rows, floors, out=rows).log_())
            else:
                table.mul_(decays).index_add_(1, classes, probs)
                torch.maximum(table, floors, out=log_table).log_()
            if self.label is not None and moved is not None:
                self.label.enter(moved, levels, table, log_table)

    def _mass_of(self, counts: Tensor) -> Tensor:
        """Return the weight of n samples, of which the newest weighs 1: the sum of (1 - 1/window)^i for i < n."""
        return -torch.expm1(counts * math.log1p(-1 / self.window)) * self.window


def check_logit_scale(logit_scale: float) -> None:
    """Raise an `HfCmimError` unless the scale is a finite number of at least 0."""
    if not 0 <= logit_scale < math.inf:
        raise HfCmimError(
            f"Expected a logit_scale of at least 0 and finite, got {logit_scale}: a classifier trained with"
            " cross-entropy has about 4; 0 leaves the logits as they are."
        )


def _after_loading(bank: CentroidBank, _: object) -> None:
    """Rebuild the values that a checkpoint does not store."""
    floors = torch.where(bank.mass > 0, bank.floor, 0.0).unsqueeze(1)
    torch.maximum(bank.probs, floors, out=bank.log_probs).log_()
    # Checkpoints of another weighting or of an earlier release have no counts.
    if bank.label is not None and not bank.label.counts.any():
        bank.label.read(bank.probs, bank.log_probs, bank.seen)
