"""The optimizer of a student, with the attack's own parameters and the optimizer that an attack may bring."""

from collections.abc import Callable, Collection, Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from hf_cmim.attacks.composition import Composition


def weight_decay_groups(
    parameters: Iterable[tuple[str, Tensor]], decayed_names: Collection[str], weight_decay: float
) -> list[dict[str, Any]]:
    """Return the two groups of `Trainer`: trained parameters with weight decay, and biases and norms without.

    Args:
        parameters: pairs of name and parameter.
        decayed_names: names of the parameters with weight decay.
        weight_decay: their weight decay.
    """
    decayed: dict[str, Any] = {"params": [], "weight_decay": weight_decay}
    undecayed: dict[str, Any] = {"params": [], "weight_decay": 0.0}
    for name, parameter in parameters:
        if parameter.requires_grad:
            (decayed if name in decayed_names else undecayed)["params"].append(parameter)
    return [decayed, undecayed]


def attack_optimizer(
    attack: Composition,
    model: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    decayed_names: Collection[str],
    new_optimizer: Callable[[nn.Module], Optimizer],
) -> Optimizer:
    """Return the optimizer of a student and, at the attack's rates, of the attack's own parameters.

    Args:
        attack: attack, whose heads are already attached to the model.
        model: student.
        learning_rate: learning rate of the student.
        weight_decay: weight decay of its decayed parameters.
        decayed_names: names of the parameters with weight decay.
        new_optimizer: function that builds Trainer's optimizer of a model.
    """
    if attack.optimizer_protocol is None:
        optimizer = new_optimizer(model)
    else:
        groups = weight_decay_groups(model.named_parameters(), decayed_names, weight_decay)
        optimizer = attack.optimizer_protocol.build_optimizer(groups, learning_rate)
        learning_rate = optimizer.defaults["lr"]
    for group in attack.parameter_groups(learning_rate):
        optimizer.add_param_group(group)
    return optimizer
