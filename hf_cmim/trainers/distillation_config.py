"""Settings of the distillation trainer."""

from dataclasses import dataclass, field

from hf_cmim.errors import HfCmimError
from hf_cmim.trainers.component_config import ComponentConfig


@dataclass
class DistillationConfig(ComponentConfig):
    """Settings of `DistillationTrainer`: those of `TrainingArguments` and the attacker's own.

    What is distilled, and how, is the trainer's `attack`. `label_smoothing_factor` is refused: it would act on no
    attack as its paper means it; label smoothing is an arm of its own (`LabelSmoothing`).

    Raises:
        HfCmimError: a value outside its range, at construction.
    """

    query_budget: int | None = field(
        default=None,
        metadata={
            "help": "Answers the attacker may pay for; unset: as many as training needs. A sample asked again with the"
            " same inputs is paid once where the answers are precomputed, each time where the teacher answers live."
        },
    )
    compare_with_teacher: bool = field(
        default=True,
        metadata={
            "help": "Ask the teacher about evaluation samples too, where it can answer them, for eval_agreement and"
            " eval_teacher_kl. These answers are measured with, never learned from, and not paid for."
        },
    )
    save_correctness: bool = field(
        default=False,
        metadata={
            "help": "Write which evaluation samples the student got right, in the order of the data set, to"
            " PREFIX_correctness.npy in output_dir."
        },
    )

    def __post_init__(self) -> None:
        """Check every range."""
        super().__post_init__()
        self.derive()

    def derive(self) -> None:
        """Check every range; nothing is derived."""
        if self.query_budget is not None and self.query_budget < 1:
            raise HfCmimError(
                f"Expected a query_budget of at least 1 answer, got {self.query_budget}: nothing could be asked. Leave"
                " it unset for no limit."
            )
        if self.label_smoothing_factor:
            raise HfCmimError(
                f"Expected no label_smoothing_factor, got {self.label_smoothing_factor}: it would smooth the labels"
                " under every attack, or under none, and the comparison would not be the paper's. For the label"
                " smoothing student use attack=LabelSmoothing(smoothing=...)."
            )
