"""Models of an audit from the command line."""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import torch
import transformers
from torch import nn

from hf_cmim.class_names import class_names_of
from hf_cmim.data.views import LONGEST_REASON, TASKS, View, kind_of
from hf_cmim.errors import HfCmimError
from hf_cmim.names import one_line
from hf_cmim.positions import usable_positions
from hf_cmim.tasks import LOADING_ERRORS
from hf_cmim.teachers import ModelTeacher

EXAMPLE = '{"model_type": "vit", "hidden_size": 64, "num_hidden_layers": 4, ...}'


def open_classifier(path: str, flag: str, device: torch.device) -> ModelTeacher:
    """Return the classifier in a folder or on the Hub.

    Raises:
        HfCmimError: a path without a classifier, or a classifier of other inputs than images, texts or sounds.
    """
    try:
        teacher = ModelTeacher(path, device=device)
    except OSError as error:
        raise HfCmimError(
            f"No classifier for {flag} at {path!r}: it is no folder or Hub id, or cannot be reached. Check the path; a"
            " Hub id needs a network, or a copy from an earlier run."
        ) from error
    kind_of(teacher.model)
    return teacher


@final
class StudentBuilder:
    """A builder of students from a checkpoint or a configuration.

    Args:
        checkpoint: folder or Hub id of the weights that every student starts from; None for random weights.
        config: configuration of students with random weights; None with a checkpoint.
        names: names of the classes.
        teacher_view: view of the teacher, also used for a student without a view of its own.
        sample: one sample in the teacher's view.

    Attributes:
        config: configuration of every student.
        view: view of the student.
    """

    def __init__(
        self,
        checkpoint: str | None,
        config: str | None,
        names: Sequence[str],
        teacher_view: View,
        sample: Mapping[str, Any],
    ) -> None:
        self.checkpoint = checkpoint
        self.kind = teacher_view.kind
        path = str(checkpoint or config)
        if Path(path).suffix == ".json":
            self.view = teacher_view
            self.config = _config_of(Path(path), teacher_view, sample)
        else:
            self.config = loaded_config(path, "the student")
            self.view = _own_view(path, teacher_view)
        if self.kind == "text" and getattr(self.config, "pad_token_id", None) is None:
            # Classifiers of generative models find the end of each text by it, and come without.
            self.config.pad_token_id = self.view.processor.pad_token_id
        try:
            with torch.device("meta"):
                blueprint = self._auto.from_config(copy.deepcopy(self.config))
        except LOADING_ERRORS as error:
            raise _refused(path, f"{self.kind} classifier", error) from error
        self.view = self.view.limited_to(usable_positions(blueprint))
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


def settings_of(path: Path) -> tuple[str, dict[str, Any]]:
    """Return the model type and all other settings in a .json file, after checking that transformers takes them.

    Raises:
        HfCmimError: no JSON, no model type that transformers knows, or a value that it refuses.
    """
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HfCmimError(
            f"No configuration can be read from {path}: {error}. Give a JSON file such as {EXAMPLE}."
        ) from error
    model_type = settings.pop("model_type", "") if isinstance(settings, dict) else ""
    if not isinstance(model_type, str) or model_type not in transformers.CONFIG_MAPPING:
        raise HfCmimError(
            f"Expected the model_type of a transformers model in {path}, got {model_type!r}: the architecture is"
            f" unknown. For instance {EXAMPLE}."
        )
    try:
        transformers.AutoConfig.for_model(model_type, **settings)
    except LOADING_ERRORS as error:
        raise _refused(path, model_type, error) from error
    return model_type, settings


def _refused(path: str | Path, model: str, error: Exception) -> HfCmimError:
    reason = f"{type(error).__name__}: {one_line(str(error))[:LONGEST_REASON]}"
    return HfCmimError(
        f"transformers makes no {model} of the configuration in {path} ({reason}): there is no model to train. Correct"
        " the setting that it names, or leave it out to get the default of transformers."
    )


def _config_of(path: Path, teacher_view: View, sample: Mapping[str, Any]) -> Any:
    """Return the configuration in a file; sizes that it leaves open come from the data."""
    name, settings = settings_of(path)
    if teacher_view.kind == "text":
        from_data = {"vocab_size": len(teacher_view.processor), "pad_token_id": teacher_view.processor.pad_token_id}
    else:
        from_data = {"image_size": tuple(sample["pixel_values"].shape[-2:])} if "pixel_values" in sample else {}
    default_config = transformers.AutoConfig.for_model(name)
    settings = {key: value for key, value in from_data.items() if hasattr(default_config, key)} | settings
    return transformers.AutoConfig.for_model(name, **settings)


def loaded_config(path: str, flag: str) -> Any:
    """Return the configuration in a folder or on the Hub.

    Args:
        path: folder or Hub id.
        flag: flag of the path, for errors.

    Raises:
        HfCmimError: no configuration, or one that transformers refuses.
    """
    try:
        return transformers.AutoConfig.from_pretrained(path, trust_remote_code=False)
    except OSError as error:
        raise HfCmimError(
            f"No configuration of a model for {flag} at {path!r} ({one_line(str(error))[:LONGEST_REASON]}): it is no"
            " folder, Hub id or .json file, or cannot be reached. Check the path; a Hub id needs a network, or a copy"
            " from an earlier run."
        ) from error
    except LOADING_ERRORS as error:
        raise _refused(path, "model", error) from error


def _own_view(path: str, teacher_view: View) -> View:
    """Return the view saved beside a student, or the teacher's if there is none or both are equal."""
    names = (
        ["tokenizer.json", "tokenizer_config.json"] if teacher_view.kind == "text" else ["preprocessor_config.json"]
    )
    if Path(path).is_dir() and not any(Path(path, name).is_file() for name in names):
        return teacher_view
    student_view = View.of(path, teacher_view.kind)
    return teacher_view if student_view.settings() == teacher_view.settings() else student_view
