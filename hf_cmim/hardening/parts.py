"""Records that loss and bank hand to each other: a snapshot of the bank, and the parts of a batch's loss."""

from typing import Any, NamedTuple

from torch import Tensor


class Snapshot(NamedTuple):
    """A bank after its last step, as the loss of the next step reads it; constant in the gradient.

    Attributes:
        log_centroids: log-centroids, `(K, C, C)`: row y of level k is log Q_y at temperature k. A row of -inf is a
            class without a centroid so far; its samples add nothing to the CMI.
        terms: CMI at each temperature in the last step, `(K,)`, nats, or None for that of this batch.
        state: memory of the form: `Scaling` for "scaled", `LabelInformation` for "share", None for "plain".
    """

    log_centroids: Tensor
    terms: Tensor | None = None
    state: Any = None


class Concentration(NamedTuple):
    """The CMI part of a batch's loss.

    Attributes:
        cmi: weighted CMI, 0-d, nats, differentiable.
        cmi_per_temperature: CMI at each temperature, `(K,)`, unweighted, nats, detached.
        sums: numbers that the form adds up over a step, `(S,)`, detached.
        gradient: gradient of the CMI part at weight 1, `(B, C)`, detached; None from the eager backend, of 0 samples
            where no gradient flows.
        probs: tempered outputs, `(K, B, C)`, detached; None or of 0 samples where they are not kept.
    """

    cmi: Tensor
    cmi_per_temperature: Tensor
    sums: Tensor
    gradient: Tensor | None
    probs: Tensor | None


class Parts(NamedTuple):
    """The parts of a batch's loss, with quantities computed on the way that the bank would compute again.

    Attributes:
        ce: cross-entropy, 0-d, nats, differentiable.
        cmi: weighted CMI, 0-d, nats, differentiable; `ce + cmi` is the loss.
        cmi_per_temperature: CMI at each temperature, `(K,)`, unweighted, nats, detached.
        sums: numbers that the form adds up over a step, `(S,)`, detached.
        gradient: as in `Concentration`.
        probs: as in `Concentration`.
        labels: flat labels, `(B,)`, int64; -100 to ignore.
        counted: labels of the samples that enter CMI and centroids, `(B,)`; -100 for the others.
    """

    ce: Tensor
    cmi: Tensor
    cmi_per_temperature: Tensor
    sums: Tensor
    gradient: Tensor | None
    probs: Tensor | None
    labels: Tensor
    counted: Tensor
