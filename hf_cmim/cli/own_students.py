"""Students that a function of the user's builds."""

from collections.abc import Mapping, Sequence
from typing import Any, final

from torch import nn
from transformers import PretrainedConfig

from hf_cmim.cli.audit_models import View, check_student
from hf_cmim.cli.extensions import built, load_object
from hf_cmim.errors import HfCmimError


@final
class OwnStudents:
    """Builds students by a function of the user's.

    A student sees samples as the teacher does. Its classes are those that `config.id2label` names; where it has no
    config, or one that names other classes, they are the data's, in the data's order.

    Args:
        reference: PACKAGE.MODULE:NAME of a function without arguments.
        names: classes of the data, in their order.
        theirs: how the teacher sees a sample.

    Attributes:
        config: of every student.
        view: how it sees a sample.

    Raises:
        HfCmimError: no such function, or one that returns no model.
    """

    def __init__(self, reference: str, names: Sequence[str], theirs: View) -> None:
        self.reference = reference
        self.view = theirs
        self.build = load_object(reference, "--student")
        student = self._built()
        self.config: Any = getattr(student, "config", None) or PretrainedConfig()
        numbered = self.config.id2label or {}
        own = [str(name) for _, name in sorted((int(number), name) for number, name in numbered.items())]
        self.names = own if sorted(own) == sorted(names) else list(names)
        self._name_classes(self.config)

    def __call__(self) -> nn.Module:
        """Return a new student; whatever is random in it comes from the generators' present state."""
        student: Any = self._built()
        if getattr(student, "config", None) is None:
            student.config = PretrainedConfig()
        self._name_classes(student.config)
        model: nn.Module = student
        return model

    def check(self, sample: Mapping[str, Any]) -> None:
        """Raise an `HfCmimError` if a student does not take a sample as its view makes it."""
        check_student(self, self.view, len(self.names), sample)

    def _built(self) -> nn.Module:
        if not callable(self.build):
            raise HfCmimError(f"--student {self.reference} is no function that builds a student.")
        student = built(self.build, {}, self.reference, "--student")
        if not isinstance(student, nn.Module):
            raise HfCmimError(
                f"--student {self.reference} returned {type(student).__name__} instead of a torch.nn.Module: there is"
                " no student to train."
            )
        return student

    def _name_classes(self, config: Any) -> None:
        config.id2label = dict(enumerate(self.names))
        config.label2id = {name: number for number, name in enumerate(self.names)}
