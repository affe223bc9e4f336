"""Wasserstein distillation (WKD) of logits: the cost of moving the student's probabilities to the teacher's."""

import math

import torch
from torch import Tensor

from hf_cmim.attacks.base import AbstractAttack, Temperature, check_temperature, check_weight
from hf_cmim.attacks.class_means import ClassMeans, ClassMeansSurvey
from hf_cmim.attacks.label_only import label_cross_entropy
from hf_cmim.attacks.relations import centred_logits, unit_vectors
from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import batch_mean, softened_log_probs

SMALLEST_EPSILON = 0.025
"""Smallest regularisation: exp(-cost / epsilon) at the largest cost is then e^-35, far below FLOOR."""
FLOOR = 1e-8
"""Constant in both denominators of Sinkhorn's iterations; the source's."""


def rest_log_probs(logits: Tensor, labels: Tensor, temperature: float | Tensor) -> Tensor:
    """Return log softmax(z / T) over the classes other than the label, `(N, C)`; -inf at the label."""
    is_label = torch.arange(logits.shape[-1], device=logits.device) == labels.unsqueeze(-1)
    return softened_log_probs(logits.masked_fill(is_label, -math.inf), temperature)


def sinkhorn_cost(
    student_log_probs: Tensor, teacher_log_probs: Tensor, costs: Tensor, epsilon: float, iterations: int
) -> Tensor:
    """Return the cost <P, costs> of the transport plan P after some of Sinkhorn's iterations.

    P_ij = u_i K_ij v_j with K = exp(-costs / epsilon). Starting from equal u, which sum to 1, the iterations alternate
    between v = q / (K u + 1e-8) and u = p / (K v + 1e-8). At the end the student's marginal p is nearly exact and the
    teacher's q approximate: after few iterations the cost is below the optimal one. The gradient passes through the
    iterations.

    Args:
        student_log_probs: `(N, C)` log p, -inf for a class that takes no part.
        teacher_log_probs: `(N, C)` log q, -inf in the same places.
        costs: `(C, C)` symmetric costs, at least 0, 0 on the diagonal. All samples share them, which avoids tensors of
            N C^2 values.
        epsilon: regularisation, at least .025.
        iterations: number of iterations, at least 1.

    Returns:
        Costs `(N,)`, in units of `costs`.

    Source: see `WKD`.

    >>> p, q, costs = torch.tensor([[0.7, 0.3]]), torch.tensor([[0.2, 0.8]]), 1 - torch.eye(2)
    >>> round(sinkhorn_cost(p.log(), q.log(), costs, 0.1, 999).item(), 3)  # half of the mass has to move
    0.5
    """
    kernel = (-costs / epsilon).exp()
    student_probs, teacher_probs = student_log_probs.exp(), teacher_log_probs.exp()
    takes_part = (student_log_probs > -math.inf).to(student_probs.dtype)
    u = takes_part / takes_part.sum(dim=-1, keepdim=True)
    for _ in range(iterations):
        v = teacher_probs / (u @ kernel + FLOOR)
        u = student_probs / (v @ kernel + FLOOR)
    return (u * (v @ (kernel * costs))).sum(dim=-1)


class WKD(ClassMeansSurvey, AbstractAttack):
    """Distillation by the cost of transporting probability between classes, which is low for similar classes.

    ce_weight CE(y) - p_y log q_y + gamma Sinkhorn cost between the renormalised other classes of both at T. The cost
    of moving mass from class i to class j is 1 - exp(-d), where d is 1 minus the correlation of the teacher's mean
    log-probabilities of the two classes in the survey. A class without a surveyed sample is uncorrelated with all
    others.

    Args:
        temperature: temperature T of the other classes, > 0, or `Relative`; the target's p_y and q_y are at T = 1.
        gamma: weight of the Sinkhorn cost, at least 0.
        epsilon: regularisation of the transport, at least .025.
        iterations: number of Sinkhorn's iterations, at least 1.
        ce_weight: weight of the cross-entropy on the labels, at least 0.

    Raises:
        HfCmimError: a number is out of its range; or, at the first loss, the answers were not surveyed.

    Strength: not known: no table of ours singles it out.

    Source: the logit part (WKD-L) of Lv et al., NeurIPS 2024, arXiv 2412.08139. The form, epsilon and iterations are
    those of copies of the released code, without a factor T^2, and so are the constant 1e-8 in the denominators of the
    iterations and the sharpening exp(-s d) of the costs, with s = 1 (2 in some of its configurations). Its cosine
    decay of gamma, late and only on CIFAR-100, is left out. There the costs come from the teacher's last layer or
    features, which a black box does not reveal. The costs here are ours, and so is gamma: on digits (10 classes, a
    small perceptron, 540 steps, 3 seeds) the term's gradient is at first .5 of the cross-entropy's, and gamma = 100
    cost 2 points (measured before costs were sharpened). A public configuration for CIFAR-100 has 600 at T = 8.
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
                f"Expected epsilon of at least {SMALLEST_EPSILON} and finite, got {epsilon}. exp(-cost / epsilon)"
                f" would be far below {FLOOR}, the constant beside it: no mass would move. The source uses .05."
            )
        if iterations < 1:
            raise HfCmimError(
                f"Expected at least 1 iteration, got {iterations}. There would be no transport plan. The source uses"
                " 10."
            )
        self.temperature = temperature
        self.gamma = gamma
        self.epsilon = epsilon
        self.iterations = iterations
        self.class_means = ClassMeans()

    @property
    def needs_survey(self) -> bool:
        """True: the costs come from a survey."""
        return True

    def averaged(self, teacher_log_probs: Tensor) -> Tensor:
        """Return centred logits, `(N, C)` float64."""
        return centred_logits(teacher_log_probs.double())

    def class_costs(self) -> Tensor:
        """Return the costs of moving mass between classes, `(C, C)` float64 in [0, .87], 0 on the diagonal.

        Raises:
            HfCmimError: the answers were not surveyed.
        """
        self.class_means.check_settled()
        directions = unit_vectors(self.class_means.means)
        distances = (1 - directions @ directions.T).clamp(0, 2)
        return (1 - (-distances).exp()).fill_diagonal_(0)

    def distillation(
        self, student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Return the components `target` and `transport`."""
        temperature = self.resolved(self.temperature)
        target_probs = (-label_cross_entropy(teacher_log_probs, labels)).exp()
        target_losses = target_probs * label_cross_entropy(student_logits, labels)
        transport_costs = sinkhorn_cost(
            rest_log_probs(student_logits, labels, temperature),
            rest_log_probs(teacher_log_probs, labels, temperature),
            self.class_costs().to(student_logits.dtype),
            self.epsilon,
            self.iterations,
        )
        return {"target": batch_mean(target_losses), "transport": self.gamma * batch_mean(transport_costs)}
