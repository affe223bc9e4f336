"""A model's view of samples: images, texts and sounds as its processor or tokenizer prepares them."""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
import transformers
from torch import Tensor, nn

from hf_cmim.data.sounds import read_sound
from hf_cmim.errors import HfCmimError
from hf_cmim.names import one_line
from hf_cmim.tasks import AUDIO, IMAGE, LOADING_ERRORS, TEXT, task_of, tasks_of_type

TASKS = {"image": IMAGE, "text": TEXT, "audio": AUDIO}
"""Tasks whose samples can be prepared, by the kind of their input."""
PROCESSORS = {
    "image": ("AutoImageProcessor", "an image processor (preprocessor_config.json)"),
    "text": ("AutoTokenizer", "a tokenizer"),
    "audio": ("AutoFeatureExtractor", "a feature extractor (preprocessor_config.json)"),
}
"""Class that loads the processor of a kind, and its name for errors."""
LONGEST_REASON = 300
"""Largest number of letters of an error of transformers that is shown."""
LONGEST_TEXT = 512
"""Largest number of tokens of a text; ours."""


def kind_of(model: nn.Module) -> str:
    """Return the kind of a classifier's input: "image", "text" or "audio".

    Raises:
        HfCmimError: a classifier of other inputs.
    """
    name = type(model).__name__
    task = task_of(name, getattr(getattr(model, "config", None), "model_type", None))
    for kind, prepared in TASKS.items():
        if task == prepared:
            return kind
    raise HfCmimError(
        f"Expected a classifier of images, texts or sounds, got {name}{f' ({task.name})' if task is not None else ''}:"
        " the command line cannot prepare other samples. Use Python, which supports any: hf_cmim.CMIMTrainer, and"
        " hf_cmim.Audit."
    )


def kind_of_type(model_type: str) -> str:
    """Return the kind of input that classifiers of this type of configuration have: "image", "text" or "audio".

    >>> kind_of_type("bert")
    'text'

    Raises:
        HfCmimError: a type without such classifiers, or with several kinds of them.
    """
    possible = tasks_of_type(model_type)
    kinds = [kind for kind, task in TASKS.items() if task in possible]
    if len(kinds) != 1:
        raise HfCmimError(
            f"Expected a model type with one AutoModel class for images, texts or sounds, got {model_type!r} with"
            f" {', '.join(kinds) or 'none'}: it is unclear how its samples are prepared. Use hf_cmim from Python,"
            " which supports any model."
        )
    return kinds[0]


@final
@dataclass(frozen=True)
class View:
    """A model's view of samples, through its image processor, tokenizer or feature extractor.

    Args:
        processor: processor of the checkpoint.
        kind: kind of the samples: "image", "text" or "audio".
    """

    processor: Any
    kind: str

    @classmethod
    def of(cls, path: str, kind: str) -> "View":
        """Return the view of the model in a folder or on the Hub.

        Raises:
            HfCmimError: a path without a processor, or with a broken one.
        """
        auto_class, missing = PROCESSORS[kind]
        try:
            processor = getattr(transformers, auto_class).from_pretrained(path, trust_remote_code=False)
        except (OSError, *LOADING_ERRORS) as error:
            raise HfCmimError(
                f"Expected {missing} beside the model in {path}, got none that transformers can read"
                f" ({one_line(str(error))[:LONGEST_REASON]}): samples prepared with other sizes or statistics than in"
                " training would spoil its answers. Save the processor of its training there:"
                " processor.save_pretrained(...)."
            ) from error
        if kind == "text":
            # Tokenizers of generative models have no token for padding.
            processor.pad_token = processor.pad_token or processor.eos_token
            processor.model_max_length = min(processor.model_max_length, LONGEST_TEXT)
        return cls(processor, kind)

    def limited_to(self, positions: int | None) -> "View":
        """Return a view that cuts texts to the number of positions of a model."""
        if self.kind != "text" or positions is None or positions >= self.processor.model_max_length:
            return self
        processor = copy.deepcopy(self.processor)
        processor.model_max_length = positions
        return View(processor, self.kind)

    def settings(self) -> dict[str, Any]:
        """Return the settings that two equal views share, wherever they were loaded from."""
        if self.kind != "text":
            values: dict[str, Any] = json.loads(self.processor.to_json_string())
            return values
        return {
            "vocabulary": self.processor.get_vocab(),
            "longest": self.processor.model_max_length,
            "special": self.processor.special_tokens_map,
        }

    def prepare(self, samples: Sequence[Any]) -> list[dict[str, Any]]:
        """Return the model's inputs for each sample; grey images become RGB, so that one processor fits all."""
        if self.kind == "audio":
            return [self._heard(sample) for sample in samples]
        if self.kind == "text":
            _check_texts(samples)
            columns = dict(self.processor(list(samples), truncation=True))
        else:
            columns = dict(self.processor([sample.convert("RGB") for sample in samples], return_tensors="pt"))
        return [{name: values[row] for name, values in columns.items()} for row in range(len(samples))]

    def _heard(self, sample: Any) -> dict[str, Any]:
        rate = self.processor.sampling_rate
        columns = dict(self.processor(read_sound(sample, rate), sampling_rate=rate))
        return {name: torch.as_tensor(values[0]) for name, values in columns.items()}

    def batch(self, prepared: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return prepared samples as one batch."""
        if self.kind == "text":
            return dict(transformers.DataCollatorWithPadding(self.processor)([dict(sample) for sample in prepared]))
        if any(sample[name].shape != value.shape for sample in prepared for name, value in prepared[0].items()):
            # Sounds of different lengths; extractors that make spectrograms of one size never come here.
            columns = {name: [sample[name].numpy() for sample in prepared] for name in prepared[0]}
            return dict(self.processor.pad(columns, padding=True, return_tensors="pt"))
        return {name: torch.stack([sample[name] for sample in prepared]) for name in prepared[0]}


def _check_texts(samples: Sequence[Any]) -> None:
    """Refuse samples that are no strings; a tokenizer would read a list as words or as a pair of texts."""
    no_text = next((sample for sample in samples if not isinstance(sample, str)), None)
    if no_text is not None:
        raise HfCmimError(
            f"Expected texts, got {no_text!r}, a {type(no_text).__name__}: the tokenizer reads only strings. Choose"
            " the column with --text-column, or store it as strings."
        )
