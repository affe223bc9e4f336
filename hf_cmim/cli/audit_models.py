"""Models of an audit from the command line, and their views of a sample."""

import argparse
import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
import transformers
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from hf_cmim.class_names import class_names_of
from hf_cmim.errors import HfCmimError
from hf_cmim.positions import usable_positions
from hf_cmim.tasks import IMAGE, TEXT, task_of
from hf_cmim.teachers import ModelTeacher

TASKS = {"image": IMAGE, "text": TEXT}
"""Tasks whose samples the command line can prepare."""
LONGEST_TEXT = 512
"""Largest number of tokens of a text; ours."""
TOGETHER = 256
"""Number of samples that are prepared at once."""


def open_classifier(path: str, flag: str, device: torch.device) -> ModelTeacher:
    """Return the classifier in a folder or on the Hub.

    Raises:
        HfCmimError: a path without a classifier, or a classifier of other inputs than images or texts.
    """
    try:
        teacher = ModelTeacher(path, device=device)
    except OSError as error:
        raise HfCmimError(
            f"No classifier for {flag} at {path!r}: it is no folder or Hub id, or cannot be reached. Check the path; a"
            " Hub id needs a network, or a copy from an earlier run."
        ) from error
    kind_of(teacher)
    return teacher


def kind_of(teacher: ModelTeacher) -> str:
    """Return the kind of a classifier's input, "image" or "text"."""
    name = type(teacher.model).__name__
    task = task_of(name, getattr(getattr(teacher.model, "config", None), "model_type", None))
    for kind, prepared in TASKS.items():
        if task == prepared:
            return kind
    raise HfCmimError(
        f"Expected a classifier of images or texts, got {name}{f' ({task.name})' if task is not None else ''}: the"
        " command line cannot prepare other samples. Audit it from Python with hf_cmim.audit.runner.run_audit, which"
        " supports any."
    )


@final
@dataclass(frozen=True)
class View:
    """A model's view of samples, through its image processor or tokenizer.

    Args:
        processor: processor of the checkpoint.
        kind: kind of the samples, "image" or "text".
    """

    processor: Any
    kind: str

    @classmethod
    def of(cls, path: str, kind: str) -> "View":
        """Return the view of the model in a folder or on the Hub.

        Raises:
            HfCmimError: a path without a processor.
        """
        auto = transformers.AutoImageProcessor if kind == "image" else transformers.AutoTokenizer
        try:
            processor = auto.from_pretrained(path, trust_remote_code=False)
        except (OSError, ValueError) as error:
            missing = "an image processor (preprocessor_config.json)" if kind == "image" else "a tokenizer"
            raise HfCmimError(
                f"Expected {missing} beside the model in {path}, got none: samples prepared with other sizes or"
                " statistics than in training would spoil its answers. Save the processor of its training there:"
                " processor.save_pretrained(...)."
            ) from error
        if kind == "text":
            # Tokenizers of generative models have no token for padding.
            processor.pad_token = processor.pad_token or processor.eos_token
            processor.model_max_length = min(processor.model_max_length, LONGEST_TEXT)
        return cls(processor, kind)

    def limited_to(self, positions: int | None) -> "View":
        """Return a view that cuts texts to the number of positions of a model."""
        if self.kind == "image" or positions is None or positions >= self.processor.model_max_length:
            return self
        processor = copy.deepcopy(self.processor)
        processor.model_max_length = positions
        return View(processor, self.kind)

    def settings(self) -> dict[str, Any]:
        """Return the settings that two equal views share, wherever they were loaded from."""
        if self.kind == "image":
            values: dict[str, Any] = json.loads(self.processor.to_json_string())
            return values
        return {
            "vocabulary": self.processor.get_vocab(),
            "longest": self.processor.model_max_length,
            "special": self.processor.special_tokens_map,
        }

    def prepare(self, samples: Sequence[Any]) -> list[dict[str, Any]]:
        """Return the model's inputs for each sample; grey images become RGB, so that one processor fits all."""
        if self.kind == "text":
            _check_texts(samples)
            columns = dict(self.processor(list(samples), truncation=True))
        else:
            columns = dict(self.processor([sample.convert("RGB") for sample in samples], return_tensors="pt"))
        return [{name: values[row] for name, values in columns.items()} for row in range(len(samples))]

    def batch(self, prepared: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return prepared samples as one batch."""
        if self.kind == "text":
            return dict(transformers.DataCollatorWithPadding(self.processor)([dict(sample) for sample in prepared]))
        return {name: torch.stack([sample[name] for sample in prepared]) for name in prepared[0]}


@final
class PreparedSamples(Dataset[dict[str, Any]]):
    """Rows in the models' views, prepared once if they fit into memory.

    Args:
        rows: rows with the two columns.
        columns: names of the sample column and the label column.
        numbers: number of the class for each label.
        views: different views by name.
        room: memory for prepared samples, in bytes.
        name: name for the progress bar, or "" for no bar.
    """

    def __init__(
        self,
        rows: Any,
        columns: tuple[str, str],
        numbers: Mapping[Any, int],
        views: Mapping[str, View],
        *,
        room: float,
        name: str = "",
    ) -> None:
        self.rows = rows
        self.columns = columns
        self.numbers = numbers
        self.views = views
        self._kept: list[dict[str, Any]] | None = None
        if _size_of(self[0]) * len(self) <= room:
            starts = tqdm(range(0, len(self), TOGETHER), desc=f"Preparing the {name}", leave=False, disable=not name)
            batches = (range(start, min(start + TOGETHER, len(self))) for start in starts)
            self._kept = [sample for positions in batches for sample in self.__getitems__(list(positions))]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> dict[str, Any]:
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: list[int]) -> list[dict[str, Any]]:
        """Return several samples at once."""
        if self._kept is not None:
            return [self._kept[position] for position in positions]
        rows = self.rows[positions]
        prepared = {name: view.prepare(rows[self.columns[0]]) for name, view in self.views.items()}
        _check_not_empty(prepared, self.columns[0])
        labels = [self.numbers[label] for label in rows[self.columns[1]]]
        return [
            {"labels": label, **{name: samples[row] for name, samples in prepared.items()}}
            for row, label in enumerate(labels)
        ]


def _check_texts(samples: Sequence[Any]) -> None:
    """Refuse samples that are no strings; a tokenizer would read a list as words or as a pair of texts."""
    no_text = next((sample for sample in samples if not isinstance(sample, str)), None)
    if no_text is not None:
        raise HfCmimError(
            f"Expected texts, got {no_text!r}, a {type(no_text).__name__}: the tokenizer reads only strings. Choose"
            " the column with --text-column, or store it as strings."
        )


def _check_not_empty(prepared: Mapping[str, Sequence[Mapping[str, Any]]], column: str) -> None:
    """Refuse texts without a token, which models cannot read."""
    for name, samples in prepared.items():
        empty = sum("input_ids" in sample and len(sample["input_ids"]) == 0 for sample in samples)
        if empty:
            raise HfCmimError(
                f"{empty} texts in column {column!r} are empty: the {name}'s tokenizer makes no tokens of them, and"
                f" the model cannot read them. Remove them, for instance with dataset.filter(lambda row:"
                f" row[{column!r}].strip()), and save the data again."
            )


def _size_of(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(map(_size_of, value.values()))
    return 64 * len(value) if isinstance(value, list) else 64  # Python's numbers, with room to spare


@final
class StudentBuilder:
    """A builder of students from a checkpoint or a configuration.

    Args:
        options: flags with `student` or `student_config`.
        names: names of the classes.
        teacher_view: view of the teacher, also used for a student without a view of its own.
        sample: one sample in the teacher's view.

    Attributes:
        config: configuration of every student.
        view: view of the student.
    """

    def __init__(
        self, options: argparse.Namespace, names: Sequence[str], teacher_view: View, sample: Mapping[str, Any]
    ) -> None:
        self.checkpoint: str | None = options.student
        self.kind = teacher_view.kind
        path = str(options.student or options.student_config)
        if Path(path).suffix == ".json":
            self.view = teacher_view
            self.config = _config_of(Path(path), teacher_view, sample)
        else:
            self.config = _loaded_config(path)
            self.view = _own_view(path, teacher_view)
        if self.kind == "text":
            with torch.device("meta"):
                self.view = self.view.limited_to(usable_positions(self._auto.from_config(self.config)))
        # A trained head keeps its order of classes; a new head takes the order of the data.
        student_names = class_names_of(self.config) or ()
        is_trained_head = self.checkpoint is not None and sorted(student_names) == sorted(names)
        ordered = list(student_names if is_trained_head else names)
        self.config.id2label = dict(enumerate(ordered))
        self.config.label2id = {name: number for number, name in enumerate(ordered)}

    def __call__(self) -> nn.Module:
        """Return a new student, initialised from the current random state."""
        config = copy.deepcopy(self.config)
        if self.checkpoint is None:
            student: nn.Module = self._auto.from_config(config)
        else:
            student = self._auto.from_pretrained(self.checkpoint, config=config, ignore_mismatched_sizes=True)
        # A checkpoint in half precision would otherwise be trained in half precision.
        return student.float()

    @property
    def _auto(self) -> Any:
        return getattr(transformers, TASKS[self.kind].auto_class)

    def check(self, sample: Mapping[str, Any]) -> None:
        """Raise an `HfCmimError` if a student cannot read a sample in its view."""
        check_student(self, self.view, len(self.config.id2label), sample)


@torch.no_grad()
def check_student(
    build_student: Callable[[], nn.Module], view: View, num_classes: int, sample: Mapping[str, Any]
) -> None:
    """Raise an `HfCmimError` if a student cannot read a sample in its view, or has another number of classes."""
    batch = view.batch([sample, sample])
    shapes = {name: tuple(value.shape) for name, value in batch.items()}
    try:
        outputs = build_student().eval()(**batch)
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        raise HfCmimError(
            f"The student cannot read inputs of shapes {shapes} ({error}), so it cannot be trained. Change its"
            " configuration (image_size, num_channels, vocab_size, ...), or save its own processor beside the"
            " configuration."
        ) from error
    if outputs["logits"].shape != (2, num_classes):
        raise HfCmimError(
            f"Expected a student with logits of shape (2, {num_classes}) for two samples, got"
            f" {tuple(outputs['logits'].shape)}: it has other classes. Build it with num_labels={num_classes}."
        )


def _config_of(path: Path, teacher_view: View, sample: Mapping[str, Any]) -> Any:
    """Return the configuration in a file; sizes that it leaves open come from the data."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HfCmimError(f"No configuration can be read from {path}: {error}.") from error
    name = str(settings.pop("model_type", "")) if isinstance(settings, dict) else ""
    if name not in transformers.CONFIG_MAPPING:
        raise HfCmimError(
            f"Expected the model_type of a transformers model in {path}, got {name!r}: the architecture is unknown."
            ' For instance {"model_type": "vit", "hidden_size": 64, "num_hidden_layers": 4, ...}.'
        )
    if teacher_view.kind == "text":
        from_data = {"vocab_size": len(teacher_view.processor), "pad_token_id": teacher_view.processor.pad_token_id}
    else:
        from_data = {"image_size": tuple(sample["pixel_values"].shape[-2:])}
    default_config = transformers.AutoConfig.for_model(name)
    settings = {key: value for key, value in from_data.items() if hasattr(default_config, key)} | settings
    return transformers.AutoConfig.for_model(name, **settings)


def _loaded_config(path: str) -> Any:
    try:
        return transformers.AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise HfCmimError(
            f"Expected a student's configuration as a folder, Hub id or .json file, got {path!r}: transformers cannot"
            " read one there. Check the path; save_pretrained of a configuration or a model writes one."
        ) from error


def _own_view(path: str, teacher_view: View) -> View:
    """Return the view saved beside a student, or the teacher's if there is none or both are equal."""
    names = (
        ["preprocessor_config.json"] if teacher_view.kind == "image" else ["tokenizer.json", "tokenizer_config.json"]
    )
    if Path(path).is_dir() and not any(Path(path, name).is_file() for name in names):
        return teacher_view
    student_view = View.of(path, teacher_view.kind)
    return teacher_view if student_view.settings() == teacher_view.settings() else student_view
