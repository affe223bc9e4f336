"""Settings that both trainers share, without those of publishing."""

from dataclasses import dataclass

from transformers.utils import logging

from hf_cmim.trainers.shared.metric_directions import is_falling
from hf_cmim.trainers.shared.publishing_config import PublishingConfig

logger = logging.get_logger(__name__)


@dataclass
class ComponentConfig(PublishingConfig):
    """Settings of any `ComponentTrainer`; `greater_is_better` follows from the metric's name where it is unset."""

    def __post_init__(self) -> None:
        """Choose the direction of `metric_for_best_model`, and warn if the user's direction keeps the worst model."""
        falls = None if self.metric_for_best_model is None else is_falling(self.metric_for_best_model)
        if falls is not None and self.greater_is_better is None:
            self.greater_is_better = not falls
        elif falls is not None and self.greater_is_better == falls:
            logger.warning(
                f"greater_is_better={self.greater_is_better} with"
                f" metric_for_best_model={self.metric_for_best_model!r}, of which"
                f" {'less' if falls else 'more'} is better: the worst model would be kept as the best. Leave"
                " greater_is_better unset."
            )
        super().__post_init__()

    def check_ranges(self) -> None:
        """Check every range; called again when a search changes settings.

        Raises:
            HfCmimError: a setting outside its range.
        """
