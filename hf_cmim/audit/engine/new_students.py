"""Construction of an audit's students, with a check that each one is new."""

from collections.abc import Callable
from typing import final
from weakref import WeakValueDictionary

from torch import nn

from hf_cmim.errors import HfCmimError


@final
class NewStudents:
    """A builder of students that share no trained weight with earlier students.

    Args:
        build_student: function that returns a new student.
    """

    def __init__(self, build_student: Callable[[], nn.Module]) -> None:
        self.build_student = build_student
        # Weights of earlier students by id. Weak references: the id of a deleted weight may be reused by a new one.
        self._weights: WeakValueDictionary[int, nn.Parameter] = WeakValueDictionary()

    def __call__(self) -> nn.Module:
        """Return a new student.

        Raises:
            HfCmimError: a result that is no module, or that trains a weight of an earlier student.
        """
        student = self.build_student()
        if not isinstance(student, nn.Module):
            raise HfCmimError(
                f"build_student returned {type(student).__name__} instead of a torch.nn.Module, so there is no student"
                " to train. Return a new model, for instance build_student=lambda: MyModel(config)."
            )
        weights = [weight for weight in student.parameters() if weight.requires_grad]
        num_shared = sum(self._weights.get(id(weight)) is weight for weight in weights)
        if num_shared:
            raise HfCmimError(
                f"build_student returned a model that shares {num_shared} of its {len(weights)} trained weight tensors"
                " with an earlier student: each student would continue the training of the one before it, and all arms"
                " of the audit would be alike. Build the model inside build_student (lambda: MyModel(config)), or"
                " return copy.deepcopy(model)."
            )
        self._weights.update({id(weight): weight for weight in weights})
        return student
