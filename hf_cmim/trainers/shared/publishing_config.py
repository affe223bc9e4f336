"""Settings of publishing that both trainers share."""

from dataclasses import dataclass, field

from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy

from hf_cmim.errors import HfCmimError


@dataclass
class PublishingConfig(TrainingArguments):
    """`TrainingArguments` that by default publish only a model, its certificate and its card.

    Raises:
        HfCmimError: a strategy that uploads whole checkpoints, without the opt-in `hub_whole_checkpoints`.
    """

    # A dataclass shows every field in its repr; TrainingArguments masks the token in its own repr only.
    hub_token: str | None = field(
        default=None, repr=False, metadata=TrainingArguments.__dataclass_fields__["hub_token"].metadata
    )
    hub_overwrite: bool = field(
        default=False,
        metadata={"help": "Push even if the repository on the Hub holds the weights of another model."},
    )
    hub_whole_checkpoints: bool = field(
        default=False,
        metadata={
            "help": "Allow the strategies 'checkpoint' and 'all_checkpoints', which upload whole checkpoints:"
            " optimizer states, the centroids of every class, training arguments, and the trainer's state, which"
            " names the folder of the best checkpoint: give a relative output_dir."
        },
    )

    def __post_init__(self) -> None:
        """Check that whole checkpoints are uploaded only with the opt-in."""
        super().__post_init__()  # type: ignore[no-untyped-call]  # upstream leaves it unannotated
        strategy = HubStrategy(self.hub_strategy)
        uploads_checkpoints = strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS)
        if self.push_to_hub and uploads_checkpoints and not self.hub_whole_checkpoints:
            raise HfCmimError(
                f"Expected hub_whole_checkpoints=True beside hub_strategy={strategy.value!r}, got"
                " False: whole checkpoints hold optimizer states, training arguments and class centroids, which would"
                ' be published unnoticed. Set it to publish them, or use hub_strategy="every_save", which uploads only'
                " the model."
            )
