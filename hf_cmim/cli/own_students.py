"""Students built by the user's own function."""

from collections.abc import Mapping, Sequence
from typing import Any, final

from torch import nn
from transformers import PretrainedConfig

from hf_cmim.cli.audit_models import check_student
from hf_cmim.cli.extensions import built, load_object
from hf_cmim.data.views import View
from hf_cmim.errors import HfCmimError


@final
class OwnStudents:
    """A builder of students that calls the user's function.

    A student shares the teacher's view of samples. Its classes are those of `config.id2label`; without a config, or
    with one of other classes, they are the classes of the data in their order.

    Args:
        reference: reference PACKAGE.MODULE:NAME of a function without arguments.
        names: class names of the data, in their order.
        teacher_view: view of the teacher.

    Attributes:
        config: configuration of every student.
        view: view of the student.

    Raises:
        HfCmimError: a reference to no function, or to a function that returns no model.
    """

    def __init__(self, reference: str, names: Sequence[str], teacher_view: View) -> None:
        self.reference = reference
        self.view = teacher_view
        self.build = load_object(reference, "--student")
        student = self._built()
        self.config: Any = getattr(student, "config", None) or PretrainedConfig()
        id2label = {int(number): str(name) for number, name in (self.config.id2label or {}).items()}
        student_names = [id2label[number] for number in sorted(id2label)]
        self.names = student_names if sorted(student_names) == sorted(names) else list(names)
        self._name_classes(self.config)

    def __call__(self) -> nn.Module:
        """Return a new student, initialised from the current random state."""
        student: Any = self._built()
        if getattr(student, "config", None) is None:
            student.config = PretrainedConfig()
        self._name_classes(student.config)
        model: nn.Module = student
        return model

    def check(self, sample: Mapping[str, Any]) -> None:
        """Raise an `HfCmimError` if a student cannot read a sample in its view."""
        check_student(self, self.view, len(self.names), sample)

    def _built(self) -> nn.Module:
        if not callable(self.build):
            raise HfCmimError(
                f"--student {self.reference} is no function. Give a function without arguments that returns a student."
            )
        student = built(self.build, {}, self.reference, "--student")
        if not isinstance(student, nn.Module):
            raise HfCmimError(
                f"--student {self.reference} returned {type(student).__name__} instead of a torch.nn.Module, so"
                " there is no student to train. Return a new model."
            )
        return student

    def _name_classes(self, config: Any) -> None:
        config.id2label = dict(enumerate(self.names))
        config.label2id = {name: number for number, name in enumerate(self.names)}
