"""Probes with one untrained student and one batch: hidden states, memory, and queries that cannot be made."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from hf_cmim.attacks.composition import Composition
from hf_cmim.attacks.protocols import Query
from hf_cmim.audit.engine.pool import StudentPool
from hf_cmim.audit.engine.student import student_inputs
from hf_cmim.errors import HfCmimError
from hf_cmim.teachers.base import INDEX_NAME
from hf_cmim.trainers.distillation.transfer_data import TEACHER_VIEW
from hf_cmim.trainers.shared.components import unchanged_random_states


def _untrained_with_inputs(pool: StudentPool) -> tuple[nn.Module, dict[str, Any]]:
    """Return an untrained student and its inputs of one training batch."""
    batch = next(pool.batches.ordered(pool.transfer_set))
    size = pool.args.per_device_train_batch_size
    inputs = {
        name: value[:size] if isinstance(value, Tensor) else value for name, value in student_inputs(batch).items()
    }
    return pool.untrained(0), inputs


def shows_hidden_states(pool: StudentPool) -> bool:
    """Return True if a student returns its hidden states on request."""
    model, inputs = _untrained_with_inputs(pool)
    try:
        with torch.no_grad():
            return model.eval()(**inputs, output_hidden_states=True)["hidden_states"] is not None
    except (KeyError, TypeError):
        return False


def query_obstacle(pool: StudentPool, attack: Composition) -> str:
    """Return the reason why an attack cannot make its queries from these inputs, or ""; texts cannot be mixed."""
    if attack.query_protocol is None:
        return ""
    batch = next(pool.batches.ordered(pool.transfer_set))
    labels = batch.pop("labels")
    batch.pop(INDEX_NAME)
    view = batch.pop(TEACHER_VIEW, batch)
    try:
        with unchanged_random_states(pool.args.device):
            copy.deepcopy(attack.query_protocol)(Query(batch, view, labels))
    except HfCmimError:
        return "its queries cannot be made from these inputs"
    return ""


def bytes_of_student(pool: StudentPool) -> tuple[int, int]:
    """Return the bytes of a student's weights and buffers, and of the activations saved for its backward pass."""
    model, inputs = _untrained_with_inputs(pool)
    saved_bytes: dict[int, int] = {}

    def record(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved_bytes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        unchanged_random_states(pool.args.device),
        torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor),
    ):
        outputs = model.train()(**inputs)
    weight_pointers = {value.untyped_storage().data_ptr() for value in model.state_dict().values()}
    weights = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    # The outputs keep all saved storages alive up to here, so that no address is used twice.
    del outputs
    return weights, sum(size for pointer, size in saved_bytes.items() if pointer not in weight_pointers)
