"""The flag --defence of an audit: the twin's weights behind output channels, each audited as another teacher."""

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from hf_cmim.channels import AbstractChannel, AbstractFittedChannel
from hf_cmim.cli.extensions import ChannelFit, channel_of, split_settings
from hf_cmim.errors import HfCmimError
from hf_cmim.teachers import ModelTeacher

FLAG = "--defence"


def defences_of(
    words: Sequence[str], control_names: Collection[str], flag: str = FLAG
) -> dict[str, AbstractChannel | ChannelFit]:
    """Return the channel of each defence, or how to fit it, by the defence's name in an audit.

    A name is the channel's own name, followed by its settings where there are some. It does not depend on spaces or on
    the order of settings, so that a continued audit recognises it.

    Args:
        words: channels as NAME, NAME:{JSON settings}, or NAME and {JSON settings} as two words.
        control_names: names of other teachers of the audit.
        flag: flag of the words, for errors.

    Raises:
        HfCmimError: an unknown channel, settings that it does not accept, or a name that is given twice.

    >>> list(defences_of(["argmax", 'top-k:{"renormalized":true,  "k":3}'], ()))
    ['argmax', 'top-k:{"k": 3, "renormalized": true}']
    """
    defences: dict[str, AbstractChannel | ChannelFit] = {}
    for group in _grouped(words):
        channel = channel_of(group, flag)
        name = _name(group, flag)
        if name in defences:
            raise HfCmimError(
                f"{flag} {name} is given twice: the audit would train the same students for both. Remove one."
            )
        if name in control_names:
            raise HfCmimError(
                f"{flag} {name} has the name of a --control: the audit could not tell them apart. Rename the control."
            )
        defences[name] = channel
    return defences


def defended(
    defences: Mapping[str, AbstractChannel | ChannelFit],
    classifier: ModelTeacher,
    fitted: Callable[[ChannelFit, ModelTeacher], AbstractChannel],
) -> dict[str, ModelTeacher]:
    """Return the classifier behind each channel, by name of the defence; all share its weights.

    Args:
        defences: channels, or how to fit them.
        classifier: classifier without a channel.
        fitted: function that fits a channel to a classifier's answers to held-out samples.

    Raises:
        HfCmimError: a channel that does not suit the number of classes.
    """
    channels = {
        name: channel if isinstance(channel, AbstractChannel) else fitted(channel, classifier)
        for name, channel in defences.items()
    }
    return {name: ModelTeacher(classifier.model, channel=channel) for name, channel in channels.items()}


def file_name_of(name: str, channel: AbstractFittedChannel) -> str:
    """Return the name of a fitted channel's file, from the name of its defence.

    >>> from hf_cmim.channels import ClassAnswers
    >>> import torch
    >>> file_name_of('class-answers:{"sharpness": 0.5}', ClassAnswers(torch.eye(2)))
    'class-answers-sharpness-0.5.safetensors'
    """
    words = re.sub(r"[^\w.]+", "-", name).strip("-.")
    return f"{words}{Path(channel.file_name).suffix}"


def _grouped(words: Sequence[str]) -> Iterator[list[str]]:
    """Yield the words of each defence: a name, and its settings where they are words of their own."""
    group: list[str] = []
    for word in words:
        if group and not word.lstrip().startswith("{"):
            yield group
            group = []
        group.append(word)
    if group:
        yield group


def _name(words: Sequence[str], flag: str) -> str:
    name, settings = split_settings(words, flag)
    values = settings[0] if settings else {}
    return f"{name}:{json.dumps(values, sort_keys=True)}" if values else name
