"""Folder of a search within an accuracy budget: a subfolder per model, and a record beside it once it is finished."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hf_cmim.errors import HfCmimError
from hf_cmim.plain_data import read_json
from hf_cmim.trainers.hardening.budget_report import TrainedModel
from hf_cmim.trainers.hardening.cmim_config import CMIMConfig
from hf_cmim.whole_files import write_whole

SEARCH_NAME = "search.json"
"""File with the settings that all models of a folder share."""
COMPARED = (
    "num_train_epochs",
    "max_steps",
    "learning_rate",
    "lr_scheduler_type",
    "weight_decay",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "label_smoothing_factor",
    "class_weights",
    "seed",
    "data_seed",
)
"""Settings that two models of one search must share: another value would be compared as an effect of the CMI."""


@dataclass(frozen=True)
class SearchFolder:
    """Folder of a search.

    Attributes:
        folder: path of the folder.
    """

    folder: Path

    def open(self, args: CMIMConfig, num_train: int, num_validation: int) -> None:
        """Write the settings of a new search, or compare them with those of a search that is continued.

        Raises:
            HfCmimError: the folder holds models of other settings or data.
        """
        values = args.to_dict()  # type: ignore[no-untyped-call]  # upstream leaves it unannotated
        settings: dict[str, Any] = {name: values[name] for name in COMPARED}
        settings |= {"training samples": num_train, "validation samples": num_validation}
        path = self.folder / SEARCH_NAME
        if not path.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(settings, indent=1))
            return
        earlier = read_json(path, f"the search's {path}")
        changed = [name for name in settings if not isinstance(earlier, dict) or earlier.get(name) != settings[name]]
        if changed:
            before = {name: earlier.get(name) for name in changed} if isinstance(earlier, dict) else earlier
            now = {name: settings[name] for name in changed}
            raise HfCmimError(
                f"{self.folder} holds models of another search: {', '.join(changed)} was {before} and is {now}. Their"
                " accuracies cannot be compared. Choose another output_dir, or delete the folder."
            )

    def record(self, name: str) -> TrainedModel | None:
        """Return the record of a finished model, or None."""
        path = self._path(name)
        if not path.is_file():
            return None
        values = read_json(path, f"the model's {path}")
        if not isinstance(values, dict) or values.keys() != TrainedModel.__dataclass_fields__.keys():
            raise HfCmimError(
                f"{path} is no record of this version: the model cannot be compared. Delete it; the model is then"
                " trained again."
            )
        return TrainedModel(**values)

    def write(self, record: TrainedModel) -> None:
        """Mark a model as finished."""
        write_whole(self._path(record.name), json.dumps(asdict(record), indent=1))

    def _path(self, name: str) -> Path:
        # Beside the model's folder: a verifier refuses files there that no certificate covers.
        return self.folder / f"{name}.json"
