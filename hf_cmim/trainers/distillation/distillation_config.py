"""Settings of the distillation trainer."""

from dataclasses import dataclass, field

from hf_cmim.errors import HfCmimError
from hf_cmim.trainers.shared.component_config import ComponentConfig


@dataclass
class DistillationConfig(ComponentConfig):
    """Settings of `DistillationTrainer`: those of `TrainingArguments`, and those of the attacker.

    The trainer's argument `attack` chooses the method. `label_smoothing_factor` is refused: with it no attack would be
    the one of its paper. Label smoothing is an arm of its own (`LabelSmoothing`).

    Raises:
        HfCmimError: a value outside its range, at construction.
    """

    query_budget: int | None = field(
        default=None,
        metadata={
            "help": "Number of answers that the attacker may pay for; unset: as many as training needs. A repeated"
            " query costs nothing if the answers are precomputed, and is paid again if the teacher answers live."
        },
    )
    compare_with_teacher: bool = field(
        default=True,
        metadata={
            "help": "Ask the teacher about evaluation samples too, if it can answer them, for eval_agreement and"
            " eval_teacher_kl. The student never learns from these answers, and they are not paid for."
        },
    )
    save_correctness: bool = field(
        default=False,
        metadata={
            "help": "Write one bool per evaluation sample, True if the student classified it correctly, in the order"
            " of the data set, to PREFIX_correctness.npy in output_dir."
        },
    )

    def __post_init__(self) -> None:
        """Check every range."""
        super().__post_init__()
        self.check_ranges()

    def check_ranges(self) -> None:
        """Check every range; nothing is derived."""
        if self.query_budget is not None and self.query_budget < 1:
            raise HfCmimError(
                f"Expected a query_budget of at least 1 answer, got {self.query_budget}: the attacker could not ask"
                " anything. Leave it unset for no limit."
            )
        if self.label_smoothing_factor:
            raise HfCmimError(
                f"Expected no label_smoothing_factor, got {self.label_smoothing_factor}: with it no attack would be"
                " the one of its paper. For a student with label smoothing use attack=LabelSmoothing(smoothing=...)."
            )


BlackBoxDistillationConfig = DistillationConfig
"""The same class by a name that is unmistakable beside TRL's `DistillationConfig`, which is for language models."""
