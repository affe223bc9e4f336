"""Wasserstein distillation of logits: what it costs to move the student's other classes to the teacher's."""

import math

import torch
from torch import Tensor

from hf_cmim.attacks.base import AbstractAttack, Temperature, check_temperature, check_weight
from hf_cmim.attacks.class_means import ClassMeans
from hf_cmim.attacks.label_only import label_cross_entropy
from hf_cmim.attacks.relations import centred_logits, unit_vectors
from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import batch_mean, softened_log_probs

SMALLEST_EPSILON = 0.025
"""exp(-cost / epsilon) of the largest cost, 2, is then e^-80, which fp32 still holds."""


def rest_log_probs(logits: Tensor, labels: Tensor, temperature: float | Tensor) -> Tensor:
    """Return the log of softmax(z / T) over the classes other than the label, `(N, C)`, -inf at the label."""
    is_label = torch.arange(logits.shape[-1], device=logits.device) == labels.unsqueeze(-1)
    return softened_log_probs(logits.masked_fill(is_label, -math.inf), temperature)


def sinkhorn_cost(
    student_log_probs: Tensor, teacher_log_probs: Tensor, costs: Tensor, epsilon: float, iterations: int
) -> Tensor:
    """Return the cost <P, costs> of the plan P that Sinkhorn's iterations reach.

    P_ij = exp(u_i - costs_ij / epsilon + v_j), from u = 0: v = log q - log sum_i exp(u_i - costs_ij / epsilon), then
    u = log p - log sum_j exp(v_j - costs_ij / epsilon), again and again. The student's marginal p is exact at the end,
    the teacher's q is only approached, so that after few rounds the cost is below the optimal one. The gradient goes
    through the iterations.

    Args:
        student_log_probs: `(N, C)` log p, -inf allowed.
        teacher_log_probs: `(N, C)` log q, -inf in the same places.
        costs: `(C, C)` symmetric, in [0, 2], 0 on the diagonal; the same for all samples, so that nothing of N C^2 is
            kept.
        epsilon: regularisation, at least .025.
        iterations: rounds, at least 1.

    Returns:
        `(N,)` in units of the costs.

    Source: see `WKD`.

    >>> p, q, costs = torch.tensor([[0.7, 0.3]]), torch.tensor([[0.2, 0.8]]), 1 - torch.eye(2)
    >>> round(sinkhorn_cost(p.log(), q.log(), costs, 0.05, 999).item(), 3)  # half of the mass has to move
    0.5
    """
    kernel = (-costs / epsilon).exp()
    # In logs, less their largest: each product has at least one factor of 1 times at least e^-80.
    log_u = torch.zeros_like(student_log_probs).masked_fill(student_log_probs == -math.inf, -math.inf)
    for _ in range(iterations):
        log_v = teacher_log_probs - _log_product(log_u, kernel)
        log_u = student_log_probs - _log_product(log_v, kernel)
    scaled_v = (log_v - log_v.amax(dim=-1, keepdim=True)).exp()
    # P_ij over its row sum p_i is what of class i goes to class j.
    cost_of_class = (scaled_v @ (kernel * costs)) / (scaled_v @ kernel)
    return (student_log_probs.exp() * cost_of_class).sum(dim=-1)


def _log_product(log_vectors: Tensor, kernel: Tensor) -> Tensor:
    largest = log_vectors.detach().amax(dim=-1, keepdim=True)
    return ((log_vectors - largest).exp() @ kernel).log() + largest


class WKD(AbstractAttack):
    """ce_weight CE(y) - p_y log q_y + gamma Sinkhorn cost between the renormalised other classes of both at T.

    The cost of moving mass from class i to class j is 1 less the correlation of the teacher's mean log-probabilities
    of both classes over the survey, in [0, 2]; a class without a sample correlates with none.

    Args:
        temperature: T of the other classes, > 0, or `Relative`; the target's p_y and q_y are at T = 1.
        gamma: weight of the Sinkhorn cost, at least 0.
        epsilon: regularisation of the transport, at least .025.
        iterations: Sinkhorn's rounds, at least 1.
        ce_weight: weight of the cross-entropy on the labels, at least 0.

    Raises:
        HfCmimError: a number out of its range; at the first loss, if there was no survey.

    Source: the logit part (WKD-L) of Lv et al., NeurIPS 2024, arXiv 2412.08139: the form, epsilon and iterations are
    those of copies of the released code, without a factor T^2; its late cosine decay of gamma is left out. There the
    costs come from the teacher's last layer or features, which a black box does not show; these are ours, and so is
    gamma: on digits (10 classes, a small perceptron, 540 steps, 3 seeds) its gradient is then at first .5 of the
    cross-entropy's, and 100 cost 2 points. A public configuration for CIFAR-100 has 600 at T = 8, and sharpened costs.
    """

    needs_every_class = True

    def __init__(
        self,
        *,
        temperature: Temperature = 4.0,
        gamma: float = 10.0,
        epsilon: float = 0.05,
        iterations: int = 10,
        ce_weight: float = 1.0,
    ) -> None:
        super().__init__(ce_weight)
        check_temperature(temperature)
        check_weight("gamma", gamma)
        if not SMALLEST_EPSILON <= epsilon < math.inf:
            raise HfCmimError(
                f"Expected epsilon of at least {SMALLEST_EPSILON} and finite, got {epsilon}: exp(-cost / epsilon)"
                " would vanish in fp32, and with it every plan. The source uses .05."
            )
        if iterations < 1:
            raise HfCmimError(f"Expected at least 1 iteration, got {iterations}: there would be no plan. Give 10.")
        self.temperature = temperature
        self.gamma = gamma
        self.epsilon = epsilon
        self.iterations = iterations
        self.class_means = ClassMeans()

    @property
    def needs_survey(self) -> bool:
        """Whether it needs a survey: always, for the costs."""
        return True

    def prepare(self, num_classes: int) -> None:
        """Make room for the class means."""
        self.class_means.prepare(num_classes, self.teacher_scale.device)

    @torch.no_grad()
    def survey(self, teacher_log_probs: Tensor, labels: Tensor) -> None:
        """Count a batch of the answers that training will use; see `AttackPart.survey`."""
        super().survey(teacher_log_probs, labels)
        self.class_means.add(centred_logits(teacher_log_probs.double()), labels)

    @torch.no_grad()
    def settle(self) -> None:
        """End the survey."""
        super().settle()
        self.class_means.settle()

    def class_costs(self) -> Tensor:
        """Return the cost of moving mass between two classes, `(C, C)` float64 in [0, 2], 0 on the diagonal.

        Raises:
            HfCmimError: there was no survey.
        """
        self.class_means.check_settled()
        directions = unit_vectors(self.class_means.means)
        costs = (1 - directions @ directions.T).clamp(0, 2)
        return costs.fill_diagonal_(0)

    def distillation(
        self, student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Return `target` and `transport`."""
        temperature = self.resolved(self.temperature)
        target_probs = (-label_cross_entropy(teacher_log_probs, labels)).exp()
        targets = target_probs * label_cross_entropy(student_logits, labels)
        costs = sinkhorn_cost(
            rest_log_probs(student_logits, labels, temperature),
            rest_log_probs(teacher_log_probs, labels, temperature),
            self.class_costs().to(student_logits.dtype),
            self.epsilon,
            self.iterations,
        )
        return {"target": batch_mean(targets), "transport": self.gamma * batch_mean(costs)}
