"""Builds an audit's students, and sees to it that each is a new one."""

from collections.abc import Callable
from typing import final
from weakref import WeakValueDictionary

from torch import nn

from hf_cmim.errors import HfCmimError


@final
class NewStudents:
    """A builder of students that share no trained weight with an earlier student.

    Args:
        build_student: returns a new student.
    """

    def __init__(self, build_student: Callable[[], nn.Module]) -> None:
        self.build_student = build_student
        # Weights of earlier students by identity; a weight that is gone frees its identity for another.
        self._weights: WeakValueDictionary[int, nn.Parameter] = WeakValueDictionary()

    def __call__(self) -> nn.Module:
        """Return a new student.

        Raises:
            HfCmimError: what was built is no module, or trains a weight that an earlier student trains.
        """
        student = self.build_student()
        if not isinstance(student, nn.Module):
            raise HfCmimError(
                f"build_student returned {type(student).__name__} instead of a torch.nn.Module, so there is no student"
                " to train. Return a new model, for instance build_student=lambda: MyModel(config)."
            )
        weights = [weight for weight in student.parameters() if weight.requires_grad]
        shared = sum(self._weights.get(id(weight)) is weight for weight in weights)
        if shared:
            raise HfCmimError(
                f"build_student returned a model that shares {shared} of its {len(weights)} trained weight tensors"
                " with an earlier student: each student would go on from where the one before it ended, and all arms"
                " of the audit would be alike. build_student returns a new student at each call: build the model"
                " inside it (lambda: MyModel(config)), or return copy.deepcopy(model)."
            )
        self._weights.update({id(weight): weight for weight in weights})
        return student
