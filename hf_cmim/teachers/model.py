"""A local classifier as a black-box teacher."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel

from hf_cmim.channels.base import AbstractChannel
from hf_cmim.class_names import class_names_of
from hf_cmim.errors import HfCmimError
from hf_cmim.names import safe_text
from hf_cmim.tasks import LOADING_ERRORS, TASKS, task_of
from hf_cmim.teachers.base import INDEX_NAME, AbstractTeacher
from hf_cmim.teachers.fingerprints import digest
from hf_cmim.teachers.safe_checkpoint import check_safe_to_load

ACCOMPANYING = frozenset({"attention_mask", "pixel_mask", "token_type_ids", "position_ids"})
"""Inputs that only describe other inputs; image models accept some of them, too."""
_PASSING_SETTINGS = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "_commit_hash")


@final
class ModelTeacher(AbstractTeacher):
    """A teacher from a model: it answers with the softmax of the logits, in the precision of the weights.

    Autocast does not change the precision. The model's forward receives only inputs that it accepts, floating-point
    ones in the precision of its weights, and never `labels` or `sample_index`. Token classification answers
    `(B, L, C)`.

    Args:
        model_or_path: `PreTrainedModel`, any module that returns logits (a tensor, or an output with `logits`), or a
            folder or Hub id. From a folder or the Hub only safetensors weights are loaded, and no code.
        class_names: names of the classes in the order of the logits; by default those of the config's `id2label`. A
            module without a config needs them.
        channel: change of the answers before the attacker sees them; None for full probabilities.
        device: device to move the model to; by default the model stays on its device.

    Raises:
        HfCmimError: a model in train mode, a head that is not single-label, or a checkpoint that needs pickles, remote
            code or randomly initialised weights.
    """

    def __init__(
        self,
        model_or_path: nn.Module | str | Path,
        *,
        class_names: Sequence[str] | None = None,
        channel: AbstractChannel | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        model = model_or_path if isinstance(model_or_path, nn.Module) else load_classifier(str(model_or_path))
        _check_evaluates(model)
        names = class_names if class_names is not None else _config_names(model)
        super().__init__(len(names), names, returns="logits", channel=channel)
        self.model = model if device is None else model.to(device)
        self._accepted, self._accepts_all = _inputs_of(model)
        self.input_names = self._accepted

    def _answer(self, inputs: Mapping[str, Any], labels: Tensor | None) -> Tensor:
        _check_evaluates(self.model)
        accepted = {
            name: self._adapted(value)
            for name, value in inputs.items()
            if name in self._accepted or (self._accepts_all and name not in ("labels", INDEX_NAME))
        }
        if not accepted.keys() - ACCOMPANYING:
            raise HfCmimError(
                f"Expected inputs that the teacher's forward takes ({', '.join(sorted(self._accepted))}), got"
                f" {', '.join(sorted(inputs)) or 'none'}: the teacher has no input to answer. Rename the columns, or"
                " give the teacher its own view of the batch with teacher_collator, made by its own processor or"
                " tokenizer."
            )
        outputs = self.model(**accepted)
        if isinstance(outputs, Mapping) and "logits" in outputs:
            outputs = outputs["logits"]
        if not isinstance(outputs, Tensor):
            raise HfCmimError(
                f"Expected a model that returns logits, a tensor or an output with 'logits', got"
                f" {type(outputs).__name__}: perhaps a base model without its head. Use a ...Classification class."
            )
        return outputs

    def _adapted(self, value: Any) -> Any:
        """Return an input on the device of the weights, and in their precision if it has floating-point numbers."""
        if not isinstance(value, Tensor):
            return value
        weights = next((weight for weight in self.model.parameters() if weight.is_floating_point()), None)
        # A quantised model may have no floating-point weights: then its inputs stay unchanged.
        if weights is None:
            return value
        return value.to(weights.device, weights.dtype if value.is_floating_point() else value.dtype)

    def _identity(self) -> str:
        """Return a digest of weights, buffers and config; of the code it holds only the name of the class."""
        config = getattr(self.model, "config", None)
        settings = config.to_diff_dict() if isinstance(self.model, PreTrainedModel) and config is not None else {}
        # Class names are part of every teacher's fingerprint, and dtypes are those of the weights.
        ignored = (*_PASSING_SETTINGS, "id2label", "label2id")
        settings = {name: repr(value) for name, value in settings.items() if name not in ignored}
        # Buffers that are not saved can change answers too.
        tensors = self.model.state_dict() | dict(self.model.named_buffers())
        return digest(type(self.model).__qualname__, settings, tensors)


def load_classifier(path: str) -> PreTrainedModel:
    """Load a classifier in evaluation mode from a folder or the Hub: only safetensors, and no code of the repository.

    Args:
        path: folder or Hub id.

    Raises:
        HfCmimError: a checkpoint that needs a pickle or remote code, has no single-label head, or lacks weights.
    """
    check_safe_to_load(path)
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except LOADING_ERRORS as error:
        raise HfCmimError(
            f"Expected a model that transformers knows, got {path}: its configuration is of no known type, is broken"
            f" ({safe_text(str(error))[:200]}), or needs the repository's own code, which could do anything on this"
            " machine and is never run. Build the model from code that you have read, and pass the module."
        ) from error
    architecture = str((config.architectures or ["none"])[0])
    task = task_of(architecture, config.model_type)
    if task is None:
        raise HfCmimError(
            f"Expected the architecture of a classifier (...{', ...'.join(kind.head for kind in TASKS)}), got"
            f" {architecture} in {path}: without a classification head there are no answers. Give a checkpoint of a"
            " classifier, or pass the module."
        )
    try:
        loaded, loading = getattr(transformers, task.auto_class).from_pretrained(
            path, config=config, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    except OSError as error:
        raise HfCmimError(
            f"Expected safetensors weights in {path}, got none that can be read: pickled weights (pytorch_model.bin)"
            " run code when they are loaded and are refused. Convert them once, in a place where that does no harm,"
            " with from_pretrained(...).save_pretrained(...)."
        ) from error
    except LOADING_ERRORS as error:
        raise HfCmimError(
            f"Expected weights and a configuration of one model in {path}, got some that do not fit together"
            f" ({type(error).__name__}: {safe_text(str(error))[:200]}). Save the model again with save_pretrained."
        ) from error
    if loading["missing_keys"]:
        raise HfCmimError(
            f"Expected all weights of {architecture} in {path}, got none for {sorted(loading['missing_keys'])[:4]}:"
            " they would be drawn at random and teach noise. Give the checkpoint of a trained classifier."
        )
    model: PreTrainedModel = loaded.eval()
    return model


def _inputs_of(model: nn.Module) -> tuple[frozenset[str], bool]:
    """Return the names of the inputs that a model can use, and True if its forward takes any other input too."""
    # A PEFT model passes all inputs to the model that it adapts.
    base_of: Any = getattr(model, "get_base_model", None)
    adapted: Any = model if base_of is None else base_of()
    parameters = inspect.signature(adapted.forward).parameters
    names = set(parameters)
    # The heads of transformers name their inputs, and take only settings by **kwargs. A wrapper may take inputs there.
    takes_others = not isinstance(adapted, PreTrainedModel) and any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
    )
    if takes_others:
        wrapped = next((module for module in model.modules() if isinstance(module, PreTrainedModel)), None)
        names |= set() if wrapped is None else set(inspect.signature(wrapped.forward).parameters)
    return frozenset(names - {"labels", INDEX_NAME}), takes_others


def _check_evaluates(model: nn.Module) -> None:
    """Refuse a model with any part in train mode."""
    training = [
        name or type(module).__name__
        for name, module in model.named_modules()
        # XLM and Flaubert share one activation among all models of a process; an activation has no mode.
        if module.training and type(module).__module__ != "transformers.activations"
    ]
    if training:
        raise HfCmimError(
            f"Expected a teacher in evaluation mode, got {len(training)} modules in train mode ({training[0]}, ...):"
            " dropout would blur its answers, and batch statistics would mix the samples. Call .eval() on the model."
        )


def _config_names(model: nn.Module) -> tuple[str, ...]:
    """Return the names that the model's configuration gives."""
    names = class_names_of(model)
    if names is None:
        raise HfCmimError(
            f"Expected class_names for a {type(model).__name__}, which has no config with id2label, got None: its"
            " outputs may be in another order than the student's. Give class_names in the order of the outputs."
        )
    problem = getattr(getattr(model, "config", None), "problem_type", None)
    if problem in ("multi_label_classification", "regression"):
        raise HfCmimError(
            f"Expected a single-label classifier, got problem_type={problem!r}: the softmax of its outputs has no"
            " meaning. Use a single-label head."
        )
    return names
