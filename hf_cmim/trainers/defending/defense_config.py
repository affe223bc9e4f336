"""Settings of the trainer of defences."""

from dataclasses import dataclass

from hf_cmim.errors import HfCmimError
from hf_cmim.trainers.shared.component_config import ComponentConfig


@dataclass
class DefenseConfig(ComponentConfig):
    """Settings of `DefenseTrainer`: those of `TrainingArguments`, and those of publishing.

    The trainer's argument `defense` chooses the method and its settings. `label_smoothing_factor` is refused: with it
    no defence would be the one of its paper. Label smoothing itself is a defence of plain `Trainer`.

    Raises:
        HfCmimError: a value outside its range, at construction.
    """

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        self.check_ranges()

    def check_ranges(self) -> None:
        """Raise an `HfCmimError` for settings that would change the loss of a defence."""
        if self.label_smoothing_factor:
            raise HfCmimError(
                f"Expected no label_smoothing_factor, got {self.label_smoothing_factor}: with it no defence would be"
                " the one of its paper. For a classifier with label smoothing use plain Trainer."
            )
