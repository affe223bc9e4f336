"""Settings of publishing that both trainers share."""

from dataclasses import dataclass, field

from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy

from hf_cmim.errors import HfCmimError


@dataclass
class PublishingConfig(TrainingArguments):
    """`TrainingArguments` that publish a model, its certificate and its card, and nothing else unless asked to.

    Raises:
        HfCmimError: a strategy that uploads whole checkpoints without their opt-in, at construction.
    """

    # A dataclass shows every field in its repr; TrainingArguments masks the token in its own repr only.
    hub_token: str | None = field(
        default=None, repr=False, metadata=TrainingArguments.__dataclass_fields__["hub_token"].metadata
    )
    hub_overwrite: bool = field(
        default=False,
        metadata={"help": "Push even where the repository on the Hub holds the weights of another model."},
    )
    hub_whole_checkpoints: bool = field(
        default=False,
        metadata={
            "help": "Allow the strategies 'checkpoint' and 'all_checkpoints', which upload whole checkpoints:"
            " optimizer states, the centroids of every class, and training arguments, which name folders of this"
            " machine, too."
        },
    )

    def __post_init__(self) -> None:
        """Check that whole checkpoints are meant to leave the machine."""
        super().__post_init__()  # type: ignore[no-untyped-call]  # upstream leaves it unannotated
        strategy = HubStrategy(self.hub_strategy)
        whole = strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS)
        if self.push_to_hub and whole and not self.hub_whole_checkpoints:
            raise HfCmimError(
                f"Expected hub_whole_checkpoints=True beside hub_strategy={strategy.value!r}, got"
                " False: whole checkpoints hold optimizer states, training arguments and class centroids, which would"
                ' be published unseen. Set it if you mean that, or use hub_strategy="every_save", which uploads the'
                " model alone."
            )
