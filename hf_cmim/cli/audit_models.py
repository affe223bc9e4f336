"""The models of an audit from the command line, and how each of them sees a sample."""

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
"""What the command line can prepare samples for."""
LONGEST_TEXT = 512
"""Tokens after which a text is cut where its tokenizer knows no limit; ours."""
TOGETHER = 256
"""Samples that are prepared at once."""


def open_classifier(path: str, flag: str, device: torch.device) -> ModelTeacher:
    """Return the classifier in a folder or on the Hub.

    Raises:
        HfCmimError: none there, or none that reads images or texts.
    """
    try:
        teacher = ModelTeacher(path, device=device)
    except OSError as error:
        raise HfCmimError(
            f"Expected {flag} as a folder or Hub id of a classifier, got {path!r}: there is none, or it cannot be"
            " reached. Check the path; an id of the Hub needs a network, or a copy from an earlier run."
        ) from error
    kind_of(teacher)
    return teacher


def kind_of(teacher: ModelTeacher) -> str:
    """Return what a classifier reads, "image" or "text"."""
    name = type(teacher.model).__name__
    task = task_of(name, getattr(getattr(teacher.model, "config", None), "model_type", None))
    for kind, prepared in TASKS.items():
        if task == prepared:
            return kind
    raise HfCmimError(
        f"Expected a classifier of images or texts, got {name}{f' ({task.name})' if task is not None else ''}: the"
        " command line can prepare no other samples. Audit it from Python with hf_cmim.audit.runner.run_audit, which"
        " takes any."
    )


@final
@dataclass(frozen=True)
class View:
    """How a model sees a sample: through its image processor, or its tokenizer.

    Args:
        processor: of the checkpoint.
        kind: "image" or "text".
    """

    processor: Any
    kind: str

    @classmethod
    def of(cls, path: str, kind: str) -> "View":
        """Return the view of the model in a folder or on the Hub.

        Raises:
            HfCmimError: no processor there.
        """
        auto = transformers.AutoImageProcessor if kind == "image" else transformers.AutoTokenizer
        try:
            processor = auto.from_pretrained(path, trust_remote_code=False)
        except (OSError, ValueError) as error:
            what = "an image processor (preprocessor_config.json)" if kind == "image" else "a tokenizer"
            raise HfCmimError(
                f"Expected {what} beside the model in {path}, got none: how it wants its samples is not known, and"
                " other sizes or statistics than it was trained with would spoil its answers. Save the one it was"
                " trained with there: processor.save_pretrained(...)."
            ) from error
        if kind == "text":
            processor.pad_token = processor.pad_token or processor.eos_token  # generative models come without
            processor.model_max_length = min(processor.model_max_length, LONGEST_TEXT)
        return cls(processor, kind)

    def limited_to(self, positions: int | None) -> "View":
        """Return the view that cuts texts to what a model has positions for."""
        if self.kind == "image" or positions is None or positions >= self.processor.model_max_length:
            return self
        processor = copy.deepcopy(self.processor)
        processor.model_max_length = positions
        return View(processor, self.kind)

    def settings(self) -> dict[str, Any]:
        """Return what makes two views the same, wherever they were loaded from."""
        if self.kind == "image":
            values: dict[str, Any] = json.loads(self.processor.to_json_string())
            return values
        return {"vocabulary": self.processor.get_vocab(), "longest": self.processor.model_max_length,
                "special": self.processor.special_tokens_map}  # fmt: skip

    def prepare(self, samples: Sequence[Any]) -> list[dict[str, Any]]:
        """Return what the model is given of each sample. Grey images become RGB, so that one processor fits all."""
        if self.kind == "text":
            _check_texts(samples)
            columns = dict(self.processor(list(samples), truncation=True))
        else:
            columns = dict(self.processor([sample.convert("RGB") for sample in samples], return_tensors="pt"))
        return [{name: values[row] for name, values in columns.items()} for row in range(len(samples))]

    def batch(self, prepared: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return prepared samples as one batch."""
        if self.kind == "text":
            return dict(transformers.DataCollatorWithPadding(self.processor)([dict(each) for each in prepared]))
        return {name: torch.stack([each[name] for each in prepared]) for name in prepared[0]}


@final
class PreparedSamples(Dataset[dict[str, Any]]):
    """Rows as the models see them, prepared once where they fit into memory.

    Args:
        rows: with the two columns.
        columns: names of the samples' and the labels' column.
        numbers: the number of the class that each label stands for.
        views: by name, each different from the others.
        room: bytes that may be kept.
        name: for the progress bar, or "" for none.
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
        """Return a batch at once."""
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
    """Refuse samples that are not texts, which a tokenizer would take for something else."""
    other = next((sample for sample in samples if not isinstance(sample, str)), None)
    if other is not None:
        raise HfCmimError(
            f"Expected texts, got {other!r}, a {type(other).__name__}: the tokenizer reads strings only. Choose the"
            " column with --text-column, or store it as strings."
        )


def _check_not_empty(prepared: Mapping[str, Sequence[Mapping[str, Any]]], column: str) -> None:
    """Refuse texts without a token: models cannot read a text of length 0."""
    for name, samples in prepared.items():
        empty = sum("input_ids" in sample and len(sample["input_ids"]) == 0 for sample in samples)
        if empty:
            raise HfCmimError(
                f"{empty} texts in column {column!r} are empty: the {name}'s tokenizer makes no token of them, and no"
                f" model can read that. Remove them, for instance with dataset.filter(lambda row:"
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
    """Builds new students.

    Args:
        options: with `student` or `student_config`.
        names: of the classes.
        theirs: how the teacher sees a sample; so does a student that brings no view of its own.
        sample: one as the teacher sees it.

    Attributes:
        config: of every student.
        view: how it sees a sample.
    """

    def __init__(
        self, options: argparse.Namespace, names: Sequence[str], theirs: View, sample: Mapping[str, Any]
    ) -> None:
        self.checkpoint: str | None = options.student
        self.kind = theirs.kind
        path = str(options.student or options.student_config)
        if Path(path).suffix == ".json":
            self.view = theirs
            self.config = _config_of(Path(path), theirs, sample)
        else:
            self.config = _loaded_config(path)
            self.view = _own_view(path, theirs)
        if self.kind == "text":
            with torch.device("meta"):
                self.view = self.view.limited_to(usable_positions(self._auto.from_config(self.config)))
        own = class_names_of(self.config) or ()
        is_trained_head = self.checkpoint is not None and sorted(own) == sorted(names)
        ordered = list(own if is_trained_head else names)
        self.config.id2label = dict(enumerate(ordered))
        self.config.label2id = {name: number for number, name in enumerate(ordered)}

    def __call__(self) -> nn.Module:
        """Return a new student; whatever is random in it comes from the generators' present state."""
        config = copy.deepcopy(self.config)
        if self.checkpoint is None:
            student: nn.Module = self._auto.from_config(config)
        else:
            student = self._auto.from_pretrained(self.checkpoint, config=config, ignore_mismatched_sizes=True)
        return student.float()  # a checkpoint in half precision would be trained in it

    @property
    def _auto(self) -> Any:
        return getattr(transformers, TASKS[self.kind].auto_class)

    def check(self, sample: Mapping[str, Any]) -> None:
        """Raise an `HfCmimError` if a student does not take a sample as its view makes it."""
        check_student(self, self.view, len(self.config.id2label), sample)


@torch.no_grad()
def check_student(
    build_student: Callable[[], nn.Module], view: View, num_classes: int, sample: Mapping[str, Any]
) -> None:
    """Raise an `HfCmimError` if a student does not take a sample as its view makes it, or names other classes."""
    batch = view.batch([sample, sample])
    shapes = {name: tuple(value.shape) for name, value in batch.items()}
    try:
        outputs = build_student().eval()(**batch)
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        raise HfCmimError(
            f"Expected a student that takes inputs of {shapes}, got one that does not ({error}): it could not be"
            " trained. Change its configuration (image_size, num_channels, vocab_size, ...), or give it a"
            " processor of its own beside the configuration."
        ) from error
    if outputs["logits"].shape != (2, num_classes):
        raise HfCmimError(
            f"Expected a student with logits of shape (2, {num_classes}) for two samples, got"
            f" {tuple(outputs['logits'].shape)}: it is no classifier of these classes."
        )


def _config_of(path: Path, theirs: View, sample: Mapping[str, Any]) -> Any:
    """Return the configuration in a file, with what the data determine where the file leaves it open."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HfCmimError(f"Expected a configuration in {path}, got none that can be read: {error}.") from error
    name = str(settings.pop("model_type", "")) if isinstance(settings, dict) else ""
    if name not in transformers.CONFIG_MAPPING:
        raise HfCmimError(
            f"Expected the model_type of a transformers model in {path}, got {name!r}: nobody would know what to"
            ' build. For instance {"model_type": "vit", "hidden_size": 64, "num_hidden_layers": 4, ...}.'
        )
    if theirs.kind == "text":
        given = {"vocab_size": len(theirs.processor), "pad_token_id": theirs.processor.pad_token_id}
    else:
        given = {"image_size": tuple(sample["pixel_values"].shape[-2:])}
    known = transformers.AutoConfig.for_model(name)
    settings = {key: value for key, value in given.items() if hasattr(known, key)} | settings
    return transformers.AutoConfig.for_model(name, **settings)


def _loaded_config(path: str) -> Any:
    try:
        return transformers.AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise HfCmimError(
            f"Expected a student's configuration as a folder, Hub id or .json file, got {path!r}: there is none that"
            " transformers knows. Check the path; save_pretrained of a configuration or a model writes one."
        ) from error


def _own_view(path: str, theirs: View) -> View:
    """Return the view saved beside a student, or the teacher's where there is none or it is the same."""
    names = ["preprocessor_config.json"] if theirs.kind == "image" else ["tokenizer.json", "tokenizer_config.json"]
    if Path(path).is_dir() and not any(Path(path, name).is_file() for name in names):
        return theirs
    own = View.of(path, theirs.kind)
    return theirs if own.settings() == theirs.settings() else own
