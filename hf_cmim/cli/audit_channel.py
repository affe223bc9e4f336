"""The flag --channel of an audit: channels that are ready, and channels that are fitted to the audited classifier."""

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch.utils.data import DataLoader

from hf_cmim.channels import AbstractChannel
from hf_cmim.cli.extensions import ChannelFit, channel_of
from hf_cmim.data.prepared import TOGETHER, PreparedSamples
from hf_cmim.data.rows import DataRows
from hf_cmim.data.views import View
from hf_cmim.teachers import ModelTeacher


def fitted_channel(
    fit: ChannelFit, teacher: ModelTeacher, validation: Any, class_numbers: Mapping[str, int], view: View, side: str
) -> AbstractChannel:
    """Return a channel that is fitted to the teacher's answers to the validation data; test data stay unseen.

    Args:
        fit: function from log-probabilities and labels, in the teacher's order of classes, to the channel.
        teacher: audited classifier, without a channel.
        validation: prepared validation samples.
        class_numbers: number of each class name in the labels of the samples.
        view: view of the teacher.
        side: entry of a sample that holds this view.
    """
    fitted: list[AbstractChannel | None] = [None]
    # Only once: rounding on another device would give every process another channel.
    if PartialState().is_main_process:
        names = {number: name for name, number in class_numbers.items()}
        answers, labels = [], []
        for samples in DataLoader(validation, TOGETHER, collate_fn=list):
            answers.append(teacher(view.batch([sample[side] for sample in samples])).cpu())
            labels += [(teacher.class_names or ()).index(names[sample["labels"]]) for sample in samples]
        fitted = [fit(torch.cat(answers), torch.tensor(labels))]
    broadcast_object_list(fitted)
    assert fitted[0] is not None  # the main process has sent it
    return fitted[0]


def opened_channel(word: str, teacher: ModelTeacher, rows: DataRows, view: View) -> AbstractChannel:
    """Return the channel of one word NAME or NAME:{JSON settings}, fitted to the validation rows where it has a fit.

    Args:
        word: name and settings, as for `hf-cmim audit --channel`.
        teacher: classifier, without a channel.
        rows: opened data.
        view: view of the teacher.

    Raises:
        HfCmimError: an unknown channel, or settings that it does not accept.
    """
    channel = channel_of([word])
    if isinstance(channel, AbstractChannel):
        return channel
    numbers = {value: number for number, value in enumerate(rows.classes)}
    columns = (rows.sample_column, rows.label_column)
    validation = PreparedSamples(rows.validation, columns, numbers, {"teacher": view}, room=0)
    class_numbers = {name: number for number, name in enumerate(rows.classes.values())}
    return fitted_channel(channel, teacher, validation, class_numbers, view, "teacher")
