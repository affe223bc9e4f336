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
"""Numbers of all temperatures that are moved at once: small banks in one go, large ones level by level; ours."""


class CentroidBank(nn.Module):
    """Running class centroids Q_c^T = E[softmax(z / T) | Y = c], fp32.

    Micro-batches `accumulate`; once per optimizer step `step` moves the rows of the classes present. So the loss of a
    step sees the bank as the step before left it, and 1 x 32 = 4 x 8 = 2 processes x 16.

    The moving average counts samples, not steps: a sample's weight decays by 1 - 1/window with each later sample of
    its class, so batch size and class count do not change what the window means. The first samples are averaged
    plainly (the average is debiased); a class not seen yet has no centroid.

    Args:
        num_classes: `C`.
        temperatures: `K` distinct numbers above 0.
        window: samples of a class after which an older sample weighs 1/e of the newest, > 1.
        floor: smallest probability a centroid shows, so that one outlier cannot make the divergence infinite.
        logit_scale: root mean square of a sample's logits around their mean to which larger logits are brought, by one
            factor for all that follows their running spread; 0 leaves all. The loss must then be given `scaling`.
        follows_label: whether to keep what the centroids say of the label, for the weighting "information".
        correct_only: whether only samples whose largest logit is at their label move centroids.

    Attributes:
        probs: `(K, C, C)` centroids; row c of a class not seen is 0.
        mass: `(C,)` effective number of samples behind each centroid, at most `window`.
        seen: `(C,)` samples counted since the beginning.
        recall: `(C,)` running share of each class's samples whose largest logit is at their label.
        terms: `(K,)` CMI at each temperature in the last step, nats.
        spread: 0-d running mean over all samples of the variance of their logits over the classes.
        spread_mass: 0-d effective number of samples behind it, at most `window`.
        multiplier, outward: 0-d, see `Scaling`; 1 and 0 before the first step.

    Source: ours. Memory is 2 K C^2 floats: the centroids and, ready for the loss, their logarithms.
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
                f"Expected a window above 1 sample a class and finite, got {window}: with 1 nothing is averaged, and"
                " without end the centroids never leave the untrained model behind. Start near 500."
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
        """`(K, C, C)` log centroids, floored; -inf in the rows of classes not seen yet, which then weigh nothing."""
        return self.log_probs

    @property
    def scaling(self) -> Scaling | None:
        """How the loss is to scale its logits, None where they are left."""
        return Scaling(self.multiplier, self.outward) if self.logit_scale else None

    @property
    def label_information(self) -> LabelInformation | None:
        """What the centroids say of the label, each class as frequent as so far; None where it is not followed."""
        return None if self.label is None else self.label.information

    @torch.no_grad()
    def accumulate(self, logits: Tensor, labels: Tensor, components: Mapping[str, Tensor] | None = None) -> None:
        """Add the outputs of one micro-batch to the pending step; no gradient flows, nothing moves yet.

        Args:
            logits: `(..., C)` outputs of the training forward, not scaled; a copy is kept until the step.
            labels: `(...)` integers in [0, C), or -100 to ignore.
            components: what `CMIMLoss` returned for this micro-batch: of it `cmi_per_temperature` (for reductions
                other than the mean) and `scale_sums` are kept, as shares of the step's.

        Raises:
            HfCmimError: logits of another number of classes, or no `scale_sums` though logits are scaled.
        """
        logits, labels = self._checked(logits, labels)
        components = components or {}
        if self.logit_scale and "scale_sums" not in components:
            raise HfCmimError(
                f"Expected components with scale_sums for logits brought to the scale {self.logit_scale:g}, got"
                f" {sorted(components)}: the CMI would be met by shrinking all logits, which hides nothing. Call the"
                " loss with scaling=bank.scaling, and hand its components over."
            )
        terms = components.get("cmi_per_temperature", torch.zeros_like(self.terms)).detach()
        scale_sums = components.get("scale_sums", terms.new_zeros(3)).detach()
        # A copy, because a compiled model may write its next outputs into the same memory.
        self._pending.append((logits.detach().clone(), labels, torch.cat([terms, scale_sums.to(terms)])))

    @torch.no_grad()
    def step(self, gather: Callable[[Tensor, int], Tensor] | None = None, move_centroids: bool = True) -> None:
        """Move the bank by everything accumulated since the last step.

        Args:
            gather: joins a tensor of all processes along its first dimension, lengths made equal with the given
                filling; None on one process.
            move_centroids: False keeps the centroids (they are refreshed otherwise) and moves the rest.
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
        counts, labels = (hits, correct_alone(logits, labels)) if self.correct_only else (valid, labels)
        fresh_mass = self._mass_of(counts)
        mass = torch.addcmul(self.mass, self.mass, fresh_mass, value=-1 / self.window).add_(fresh_mass)
        rates = fresh_mass / mass.clamp_min(1e-12)
        seen_rates = self._mass_of(valid) / self._mass_of(self.seen).clamp_min(1e-12) if self.correct_only else rates
        self.recall.lerp_(hits / valid.clamp_min(1), seen_rates)
        totals = shares.sum(dim=0)
        self.terms.copy_(torch.where(valid.any(), totals[:-3], self.terms))
        self._follow_scale(*totals[-3:])
        if move_centroids:
            self.mass.copy_(mass)
            moved = None if self.label is None else self.label.begin_move(counts, labels)
            self._move(logits, labels, rates, rates / counts.clamp_min(1), moved)

    @torch.no_grad()
    def fill(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Replace every centroid by the exact one of a pass over the data.

        Where logits are scaled and no step has said how, the first batch says it.

        Args:
            batches: logits `(..., C)` and labels `(...)` in [0, C) or -100, of all processes.

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
            per_sample = 1 / counts.clamp_min(1)
            self._move(logits, labels, fresh * per_sample, per_sample)
        if not bool(valid.any()):
            raise HfCmimError(
                "Expected at least one valid sample to fill the centroids, got none: the bank is empty now, and the"
                " CMI would stay 0. Look for labels that are all -100."
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
        """Return logits as the centroids see them: scaled, if they are to be, with masked classes at -inf."""
        shown = without_masked(logits, masked_classes(logits))
        return shown.to(self.multiplier.dtype) * self.multiplier if self.logit_scale else shown

    def _follow_scale(self, pull: Tensor, variances: Tensor, count: Tensor) -> None:
        """Let the multiplier follow the spread of a step's logits, and keep how strongly they were pulled together.

        Where logits grow fast, both are already too large for the next step: stretched logits would be pulled
        harder, and what takes the pull away would drive them on. So the larger of the running spread and the step's
        own says the multiplier, and what is taken away shrinks as the step's exceeds the running one.
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
        # A step without a sample that counts says nothing of the scale.
        self.multiplier.copy_(torch.where(count > 0, multiplier, self.multiplier))
        self.outward.copy_(torch.where(count > 0, outward, self.outward))

    def _counts_and_hits(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Samples of each class, and those whose largest logit is at their label, `(C,)` each."""
        flags = self.mass.new_empty(len(labels), 2)
        torch.ne(labels, IGNORE_INDEX, out=flags[:, 0])
        torch.eq(logits.argmax(dim=1), labels, out=flags[:, 1])
        both = flags.new_zeros(self.num_classes, 2).index_add_(0, labels.clamp_min(0), flags)
        return both[:, 0], both[:, 1]

    def _move(
        self, logits: Tensor, labels: Tensor, rates: Tensor, shares: Tensor, moved: MovedRows | None = None
    ) -> None:
        """Move centroids to (1 - rates) Q + shares * (sum of the class's outputs); both `(C,)`, 0 for classes absent.

        Of a large table only the rows of classes present are read and written, once for each sample (equal labels
        write equal rows): all of it would take longer than the model.
        """
        own, fewer = labels.clamp_min(0), len(labels) < self.num_classes
        shares = torch.where(labels != IGNORE_INDEX, shares[own], 0.0).unsqueeze(1)
        kept, floors = 1 - rates, torch.where(self.mass > 0, self.floor, 0.0)  # log 0 for a class not seen
        kept, floors = (each[own].unsqueeze(1) if fewer else each.unsqueeze(1) for each in (kept, floors))
        multiplier, masked = self.multiplier if self.logit_scale else None, masked_classes(logits)
        step = max(1, MOVED_ELEMENTS // (max(len(labels), 1) * self.num_classes))
        for start in range(0, len(self.temperatures), step):
            levels = slice(start, start + step)
            table, log_table = self.probs[levels], self.log_probs[levels]
            probs = tempered_probs(logits, self.temperatures[levels], multiplier, masked)
            probs = probs.to(table.dtype).mul_(shares)
            if self.label is not None and moved is not None:
                self.label.leave(moved, levels, table)
            if fewer:
                rows = table.index_select(1, own).mul_(kept)
                table.index_copy_(1, own, rows).index_add_(1, own, probs)
                torch.index_select(table, 1, own, out=rows)
                log_table.index_copy_(1, own, torch.maximum(rows, floors, out=rows).log_())
            else:
                table.mul_(kept).index_add_(1, own, probs)
                torch.maximum(table, floors, out=log_table).log_()
            if self.label is not None and moved is not None:
                self.label.enter(moved, levels, table, log_table)

    def _mass_of(self, counts: Tensor) -> Tensor:
        """Weight of n samples, the newest weighing 1: the sum of (1 - 1/window)^i for i < n."""
        return -torch.expm1(counts * math.log1p(-1 / self.window)) * self.window


def check_logit_scale(logit_scale: float) -> None:
    """Raise an `HfCmimError` unless it is a finite number of at least 0."""
    if not 0 <= logit_scale < math.inf:
        raise HfCmimError(
            f"Expected a logit_scale of at least 0 and finite, got {logit_scale}: a classifier trained with"
            " cross-entropy has about 4; 0 leaves the logits as they are."
        )


def _after_loading(bank: CentroidBank, _: object) -> None:
    floors = torch.where(bank.mass > 0, bank.floor, 0.0).unsqueeze(1)
    torch.maximum(bank.probs, floors, out=bank.log_probs).log_()
    if bank.label is not None and not bank.label.counts.any():  # of another weighting, or of an earlier release
        bank.label.read(bank.probs, bank.log_probs, bank.seen)
