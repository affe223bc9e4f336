"""Flags of labelled data for training scripts, and a Hub that is out of reach, noticed at once."""

import socket
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import final
from urllib.parse import urlsplit

from huggingface_hub import constants

from hf_cmim.data.rows import DataRows, DataSource, open_rows
from hf_cmim.errors import HfCmimError

SMOKE_TRAINING, SMOKE_EVALUATION = 256, 128
"""Largest numbers of samples with `--smoke`."""


@final
@dataclass
class DataArguments:
    """Flags of labelled data: which data set, which columns, how much of it.

    Pass it to `hf_cmim.script_arguments`, or to `transformers.HfArgumentParser`, beside your own dataclasses.

    Example:
        >>> DataArguments(dataset_name="data.csv", max_train_samples=100).source().max_train_samples
        100
    """

    _argument_group_name = "data"

    dataset_name: str = field(default="", metadata={"help": "Hub id, folder or parquet, csv or json file."})
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of data that have several."})
    image_column: str | None = field(default=None, metadata={"help": "Unset: the one column of images, or 'image'."})
    text_column: str | None = field(default=None, metadata={"help": "Unset: the one column of texts, or 'text'."})
    label_column: str | None = field(
        default=None, metadata={"help": "Class labels, numbers or strings. Unset: the one ClassLabel, or 'label'."}
    )
    train_split: str = field(default="train", metadata={"help": "Split to train on or to ask about."})
    test_split: str | None = field(
        default=None, metadata={"help": "Split used once, at the end. Unset: test, else held out of the train split."}
    )
    validation_share: float = field(default=0.1, metadata={"help": "Share of the train split held out for choices."})
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Train on, or ask about, at most this many."}
    )
    max_eval_samples: int | None = field(default=None, metadata={"help": "Validate and test on at most this many."})
    rest_as_test: bool = field(default=False, metadata={"help": "Also test on unused rows of the train split."})
    smoke: bool = field(
        default=False, metadata={"help": "256 samples and 4 steps, to see if everything fits together."}
    )

    def source(self) -> DataSource:
        """Return the description of these data."""
        train, evaluation = self.max_train_samples, self.max_eval_samples
        if self.smoke:
            train = min(train or SMOKE_TRAINING, SMOKE_TRAINING)
            evaluation = min(evaluation or SMOKE_EVALUATION, SMOKE_EVALUATION)
        return DataSource.of(
            self,
            dataset=self.dataset_name,
            test_share=self.validation_share,
            max_train_samples=train,
            max_validation_samples=evaluation,
            max_test_samples=evaluation,
        )

    def open(self, kind: str) -> DataRows:
        """Return training, validation and test rows with their columns and classes.

        Args:
            kind: kind of the samples: "image", "text" or "audio".

        Raises:
            HfCmimError: no data set, a Hub out of reach, or data that cannot be used.
        """
        if not self.dataset_name:
            raise HfCmimError(
                "Missing --dataset_name: labelled data are needed. Give a Hub id, a folder, or a parquet, csv or json"
                " file."
            )
        check_reachable(self.dataset_name, "--dataset_name")
        return open_rows(self.source(), kind)


def check_reachable(name: str, flag: str) -> None:
    """Raise an `HfCmimError` at once if `name` is no local path and the Hub cannot be reached.

    The Hub's own clients retry for up to a minute first. Offline (`HF_HUB_OFFLINE=1`) the cache answers at once, and
    only a proxy knows what is behind it: then nothing is checked.

    Args:
        name: path or Hub id.
        flag: flag with this value, for the error.
    """
    hub, proxies = urlsplit(constants.ENDPOINT), urllib.request.getproxies()
    if constants.HF_HUB_OFFLINE or hub.scheme in proxies or "all" in proxies or Path(name).exists():
        return
    port = hub.port or (80 if hub.scheme == "http" else 443)
    try:
        socket.create_connection((str(hub.hostname), port), timeout=5).close()
    except OSError as error:
        raise HfCmimError(
            f"{flag} {name!r} is no local path, and {constants.ENDPOINT} cannot be reached ({error}): nothing can be"
            f" downloaded. Give a local path with {flag}. Files that this machine has downloaded before are found with"
            " HF_HUB_OFFLINE=1 before the command. To copy a data set on a machine with a network: hf download NAME"
            " --repo-type dataset --local-dir PATH."
        ) from error
