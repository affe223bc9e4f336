"""The centroid bank: a running mean of each class's output at each temperature, kept as training state."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import IGNORE_INDEX
from hf_cmim.functional.inputs import correct_alone, flatten_samples, masked_classes
from hf_cmim.hardening.forms import FORMS
from hf_cmim.hardening.forms.base import Moved
from hf_cmim.hardening.kernels.operator import tempered_probs
from hf_cmim.hardening.parts import Parts, Snapshot
from hf_cmim.hardening.spec import ObjectiveSpec

FLOOR = 1e-8
"""Smallest probability in a centroid, so that one outlier cannot make the divergence infinite."""
MOVED_ELEMENTS = 2**22
"""Numbers that are moved at once, all temperatures together: small banks whole, large ones level by level; ours."""


class CentroidBank(nn.Module):
    """A bank of class centroids: running means Q_c^T = E[softmax(z / T) | Y = c], fp32.

    A training step asks for a `snapshot` for the loss, and calls `accumulate` for every micro-batch. Once per
    optimizer step, `step` moves the rows of the classes in it. So the loss of a step uses the bank of the step before,
    and 1 x 32 = 4 x 8 = 2 processes x 16.

    The moving average counts samples, not steps: a sample's weight decays by 1 - 1/window with each later sample of
    its class. So the window means the same for every batch size and number of classes. The average is debiased: the
    first samples have equal weights. A class without samples so far has no centroid.

    Args:
        num_classes: number of classes `C`.
        spec: specification of the objective, the same as that of the loss; None for the default.

    Attributes:
        form: form of the objective, with what it remembers.
        probs: centroids, `(K, C, C)`; the row of a class without samples is 0.
        log_probs: their logarithms, `(K, C, C)`, at least log 1e-8; -inf for classes without samples.
        mass: effective number of samples behind each centroid, `(C,)`, at most the window.
        seen: number of samples of each class since the beginning, `(C,)`.
        recall: running share of each class's samples whose largest logit is at their label, `(C,)`.
        terms: CMI at each temperature in the last step, `(K,)`, nats.

    Source: ours. Memory is 2 K C^2 floats: the centroids and, for the loss, their logarithms.
    """

    probs: Tensor
    log_probs: Tensor
    mass: Tensor
    seen: Tensor
    recall: Tensor
    terms: Tensor

    def __init__(self, num_classes: int, spec: ObjectiveSpec | None = None) -> None:
        super().__init__()
        if num_classes < 2:
            raise HfCmimError(f"Expected at least 2 classes, got {num_classes}: one class has nothing to hide.")
        self.spec = ObjectiveSpec() if spec is None else spec
        self.num_classes = num_classes
        self.temperatures = self.spec.temperatures
        levels = len(self.temperatures)
        self.form = FORMS[self.spec.form](self.spec, num_classes)
        self.register_buffer("probs", torch.zeros(levels, num_classes, num_classes))
        self.register_buffer("mass", torch.zeros(num_classes))
        self.register_buffer("seen", torch.zeros(num_classes, dtype=torch.long))
        self.register_buffer("recall", torch.zeros(num_classes))
        self.register_buffer("terms", torch.zeros(levels))
        self.register_buffer("log_probs", torch.full_like(self.probs, -torch.inf), persistent=False)
        self.register_load_state_dict_post_hook(_after_loading)  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        self._pending: list[tuple[Tensor, Tensor, Tensor, Tensor | None]] = []

    def snapshot(self) -> Snapshot:
        """Return the centroids and the state that the loss of the next step reads.

        They share the bank's memory: use them before `step`.
        """
        return Snapshot(self.log_probs, self.terms, self.form.state)

    @torch.no_grad()
    def accumulate(self, logits: Tensor, labels: Tensor, parts: Parts | None = None) -> None:
        """Add the outputs of one micro-batch to the pending step; no gradient flows, nothing moves yet.

        Args:
            logits: `(..., C)` outputs of the training forward; the bank stores a copy until the step.
            labels: `(...)` integers in [0, C), or -100 to ignore.
            parts: result of `CMIMLoss` for this micro-batch. Without it the bank follows the centroids only, which is
                not enough for the form "scaled".

        Raises:
            HfCmimError: logits of another number of classes, or no parts though logits are scaled.
        """
        if parts is None:
            logits, labels = self._checked(logits, labels)
            if self.spec.form == "scaled":
                raise HfCmimError(
                    f"Expected the parts of a loss for logits brought to the scale {self.spec.logit_scale:g}, got"
                    " none: shrinking all logits would reduce the CMI and hide nothing. Call"
                    " parts = loss(logits, labels, bank.snapshot(), weight), then"
                    " bank.accumulate(logits, labels, parts)."
                )
            sums = self.terms.new_zeros(len(self.temperatures) + 3)
            self._pending.append((logits.detach().clone(), labels, sums, None))
            return
        self._check_width(logits)
        sums = torch.cat([parts.cmi_per_temperature, parts.sums]).to(self.terms)
        # A copy, because a compiled model may write its next outputs into the same memory.
        flat = logits.detach().reshape(-1, self.num_classes).clone()
        self._pending.append((flat, parts.labels, sums, parts.probs))

    @torch.no_grad()
    def step(self, gather: Callable[[Tensor, int], Tensor] | None = None) -> None:
        """Move the bank by everything accumulated since the last step.

        With exact centroids from a pass over the data, centroids stay and only the other statistics move.

        Args:
            gather: function that joins a tensor of all processes along its first dimension, padding shorter ones with
                the given number; None on one process.
        """
        if not self._pending:
            return
        logits, labels, sums, probs = self._pending[0]
        if len(self._pending) > 1 or gather is not None:
            logits, labels, sums = (torch.cat(part) for part in list(zip(*self._pending, strict=True))[:3])
            probs, sums = None, sums.view(-1, len(self.temperatures) + 3)
            if gather is not None:
                logits, labels, sums = gather(logits, 0), gather(labels, IGNORE_INDEX), gather(sums, 0)
            sums = sums.sum(dim=0)
        self._pending = []
        valid, hits = self._counts_and_hits(logits, labels)
        self.seen += valid.long()
        counts = valid
        if self.spec.correct_only:
            counts, labels = hits, correct_alone(logits, labels)
        fresh_mass = self._mass_of(counts)
        # Older samples decay by (1 - 1/window)^n = 1 - fresh_mass / window.
        mass = torch.addcmul(self.mass, self.mass, fresh_mass, value=-1 / self.spec.window).add_(fresh_mass)
        rates = fresh_mass / mass.clamp_min(1e-12)
        seen_rates = rates
        if self.spec.correct_only:
            seen_rates = self._mass_of(valid) / self._mass_of(self.seen).clamp_min(1e-12)
        self.recall.lerp_(hits / valid.clamp_min(1), seen_rates)
        self.terms.copy_(torch.where(valid.any(), sums[:-3], self.terms))
        self.form.follow(sums[-3:])
        if self.spec.centroids == "bank":
            self.mass.copy_(mass)
            moved = self.form.begin_move(counts, labels) if self.form.follows_rows else None
            self._move(logits, labels, rates, rates / counts.clamp_min(1), probs, moved)

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
        counts = hits if self.spec.correct_only else valid
        self.probs.zero_()
        self.mass.zero_()
        self.log_probs.fill_(-torch.inf)
        for number, batch in enumerate(batches):
            logits, labels = self._checked(*batch)
            fresh, fresh_hits = self._counts_and_hits(logits, labels)
            valid += fresh
            hits += fresh_hits
            if self.spec.correct_only:
                fresh, labels = fresh_hits, correct_alone(logits, labels)
            if number == 0:
                self.form.start(logits, labels)
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
        self.form.read(self.probs, self.log_probs, counts)

    def _checked(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits, labels = flatten_samples(logits, labels)
        self._check_width(logits)
        return logits, labels

    def _check_width(self, logits: Tensor) -> None:
        if logits.shape[-1] != self.num_classes:
            raise HfCmimError(
                f"Expected logits of {self.num_classes} classes, got {logits.shape[-1]} classes: samples would move"
                " the centroids of others. Build the bank with the model's number of classes."
            )

    def _counts_and_hits(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the number of samples of each class, and of those with the largest logit at their label, `(C,)`."""
        flags = self.mass.new_empty(len(labels), 2)
        torch.ne(labels, IGNORE_INDEX, out=flags[:, 0])
        torch.eq(logits.argmax(dim=1), labels, out=flags[:, 1])
        # Ignored samples are added to class 0, but both of their flags are 0.
        totals = flags.new_zeros(self.num_classes, 2).index_add_(0, labels.clamp_min(0), flags)
        return totals[:, 0], totals[:, 1]

    def _move(
        self,
        logits: Tensor,
        labels: Tensor,
        rates: Tensor,
        shares: Tensor,
        known_probs: Tensor | None = None,
        moved: Moved | None = None,
    ) -> None:
        """Move centroids to (1 - rates) Q + shares * (sum of the class's outputs).

        `rates` and `shares` are `(C,)`, 0 for classes without samples in the batch. With fewer samples than classes,
        only their rows are read and written, once per sample (equal labels write equal rows): the whole bank would
        take longer than the model. `known_probs` are the tempered outputs, if the loss has computed them.
        """
        classes, by_rows = labels.clamp_min(0), len(labels) < self.num_classes
        shares = torch.where(labels != IGNORE_INDEX, shares[classes], 0.0).unsqueeze(1)
        # A class without samples has no floor, so that its logarithm is -inf.
        decays, floors = 1 - rates, torch.where(self.mass > 0, FLOOR, 0.0)
        if by_rows:
            decays, floors = decays[classes], floors[classes]
        decays, floors = decays.unsqueeze(1), floors.unsqueeze(1)
        has_probs = known_probs is not None and known_probs.shape[1] == len(labels)
        masked = None if has_probs else masked_classes(logits)
        step = max(1, MOVED_ELEMENTS // (max(len(labels), 1) * self.num_classes))
        for start in range(0, len(self.temperatures), step):
            levels = slice(start, start + step)
            table, log_table = self.probs[levels], self.log_probs[levels]
            if known_probs is not None and has_probs:
                probs = known_probs[levels].to(table.dtype) * shares
            else:
                probs = tempered_probs(logits, self.temperatures[levels], self.form.multiplier, masked)
                probs = probs.to(table.dtype).mul_(shares)
            if moved is not None:
                self.form.leave(moved, levels, table)
            if by_rows:
                rows = table.index_select(1, classes).mul_(decays)
                table.index_copy_(1, classes, rows).index_add_(1, classes, probs)
                torch.index_select(table, 1, classes, out=rows)
                log_table.index_copy_(1, classes, torch.maximum(rows, floors, out=rows).log_())
            else:
                table.mul_(decays).index_add_(1, classes, probs)
                torch.maximum(table, floors, out=log_table).log_()
            if moved is not None:
                self.form.enter(moved, levels, table, log_table)

    def _mass_of(self, counts: Tensor) -> Tensor:
        """Return the weight of n samples, of which the newest weighs 1: the sum of (1 - 1/window)^i for i < n."""
        return -torch.expm1(counts * math.log1p(-1 / self.spec.window)) * self.spec.window


def _after_loading(bank: CentroidBank, _: object) -> None:
    """Rebuild the logarithms, which a checkpoint does not store."""
    floors = torch.where(bank.mass > 0, FLOOR, 0.0).unsqueeze(1)
    torch.maximum(bank.probs, floors, out=bank.log_probs).log_()
