"""The frozen reference of a defence: a trained classifier, and the order of its classes."""

from torch import nn

from hf_cmim.class_names import class_names_of, default_names
from hf_cmim.defenses.base import AbstractDefense
from hf_cmim.errors import HfCmimError
from hf_cmim.teachers.model import ModelTeacher


def frozen_reference(
    defense: AbstractDefense, reference: ModelTeacher | nn.Module | str | None, model: nn.Module
) -> ModelTeacher | None:
    """Return the reference in evaluation mode, on the device of the model; None for a defence that needs none.

    Args:
        defense: defence to train with.
        reference: trained classifier, its folder or its Hub id, or None.
        model: classifier to train, on its device.

    Raises:
        HfCmimError: a missing reference, the model itself, or a classifier with other classes.
    """
    if not defense.needs_reference:
        return None
    names = class_names_of(model)
    if reference is None:
        raise HfCmimError(
            f"Expected a reference for {defense!r}, got None: the loss compares the model's answers with those of a"
            " trained classifier. Train the same model with cross-entropy first, and pass it or its folder as"
            " reference=..."
        )
    if not isinstance(reference, ModelTeacher):
        if isinstance(reference, nn.Module):
            _check_is_another(reference, model)
            reference = reference.eval()
        # A module without a configuration is taken to have the classes of the model.
        missing_names = names if isinstance(reference, nn.Module) and class_names_of(reference) is None else None
        reference = ModelTeacher(reference, class_names=missing_names)
    _check_is_another(reference.model, model)
    _check_classes(reference, names)
    reference.model.to(next(model.parameters()).device)
    return reference


def _check_is_another(reference: nn.Module, model: nn.Module) -> None:
    trained = {id(parameter) for parameter in model.parameters()}
    if any(id(parameter) in trained for parameter in reference.parameters()):
        raise HfCmimError(
            "Expected a reference with weights of its own, got some of the model in training: it would change at each"
            " step, and the loss would compare the model with itself. Load the reference with from_pretrained, or pass"
            " copy.deepcopy(model)."
        )


def _check_classes(reference: ModelTeacher, names: tuple[str, ...] | None) -> None:
    if names is None:
        return
    reference_names = reference.class_names or default_names(reference.num_classes)
    if len(reference_names) != len(names):
        raise HfCmimError(
            f"Expected a reference of {len(names)} classes like the model, got one of {len(reference_names)}: their"
            " answers cannot be compared. Train the reference on the same labels."
        )
    pairs = enumerate(zip(names, reference_names, strict=True))
    different = [number for number, (name, reference_name) in pairs if name != reference_name]
    if different:
        number = different[0]
        raise HfCmimError(
            f"Expected a reference with the classes of the model in the same order, got {len(different)} other names:"
            f" class {number} of the model is {names[number]!r}, of the reference {reference_names[number]!r}. The"
            " loss would compare different classes. Give both the same id2label."
        )
