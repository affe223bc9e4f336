"""Stored answers as a black-box teacher, looked up by the position of a sample."""

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from hf_cmim.channels.base import AbstractChannel
from hf_cmim.errors import HfCmimError
from hf_cmim.teachers.answers import Representation
from hf_cmim.teachers.base import INDEX_NAME, AbstractTeacher
from hf_cmim.teachers.fingerprints import digest


@final
class TableTeacher(AbstractTeacher):
    """A teacher from precomputed answers: row i answers sample i of the data set; inputs are not read.

    Args:
        answers: tensor `(N, C)` (`(N,)` for labels), or a `datasets.Dataset`, which stays memory-mapped.
        class_names: names of the classes in the order of the answers.
        returns: kind of the answers.
        column: column of the data set with the answers.
        channel: change of the answers before the attacker sees them; None for full probabilities.
        hides_classes: flag for answers that were cut before they were stored, to the top k for instance.

    Raises:
        HfCmimError: answers of another kind or shape.
    """

    wants_index = True

    def __init__(
        self,
        answers: Any,
        *,
        class_names: Sequence[str],
        returns: Representation = "log_probs",
        column: str = "log_probs",
        channel: AbstractChannel | None = None,
        hides_classes: bool = False,
    ) -> None:
        super().__init__(len(class_names), class_names, returns=returns, channel=channel, hides_classes=hides_classes)
        self.answers = answers if isinstance(answers, Tensor) else _opened(answers, column)
        self.column = column

    def __len__(self) -> int:
        return len(self.answers)

    def _answer(self, inputs: Mapping[str, Any], labels: Tensor | None) -> Tensor:
        index = torch.as_tensor(inputs[INDEX_NAME])
        if index.ndim != 1 or index.is_floating_point():
            raise HfCmimError(
                f"Expected {INDEX_NAME} as (B,) integers, got {tuple(index.shape)} {index.dtype}. Add one position per"
                " sample where the batch is collated."
            )
        index = index.cpu()
        wrong = index[(index < 0) | (index >= len(self))]
        if wrong.numel():
            raise HfCmimError(
                f"Expected {INDEX_NAME} in [0, {len(self)}), got {wrong.tolist()[:8]}: the stored answers belong to"
                " another data set. Use the data set that they were made from, in the same order."
            )
        if isinstance(self.answers, Tensor):
            return self.answers[index.to(self.answers.device)]
        # Copied, because torch warns about numpy's read-only memory.
        return torch.from_numpy(np.array(self.answers[index.tolist()][self.column]))

    def _identity(self) -> str:
        if isinstance(self.answers, Tensor):
            return digest(self.answers)
        return digest(self.answers._fingerprint, self.column)


def _opened(answers: Any, column: str) -> Any:
    """Return a data set with only this column, as arrays."""
    # Only answers in a data set need the library.
    from datasets import Dataset

    if not isinstance(answers, Dataset):
        raise HfCmimError(
            f"Expected answers as a tensor or a datasets.Dataset, got {type(answers).__name__}. Convert them to one of"
            " these."
        )
    if column not in answers.column_names:
        raise HfCmimError(
            f"Expected the answers in column {column!r}, got columns {answers.column_names}. Give the name of their"
            " column as `column`."
        )
    return answers.with_format("numpy", columns=[column])
