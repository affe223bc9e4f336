"""What one untrained student and one batch show: hidden states, memory, and queries that cannot be made."""

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn

from hf_cmim.attacks.composition import Composition
from hf_cmim.attacks.protocols import Query
from hf_cmim.attacks.teacher_free import CrossEntropy
from hf_cmim.audit.pool import StudentPool
from hf_cmim.audit.pooled import PooledArm
from hf_cmim.audit.student import student_inputs
from hf_cmim.errors import HfCmimError
from hf_cmim.teachers.base import INDEX_NAME
from hf_cmim.trainers.components import unchanged_random_states
from hf_cmim.trainers.transfer_data import TEACHER_VIEW


def _asked(pool: StudentPool) -> tuple[nn.Module, dict[str, Any]]:
    """Return an untrained student and what it sees of a training batch."""
    student = pool.student(PooledArm("asked", Composition(CrossEntropy()), None), 0)
    batch = next(pool.ordered_batches(student, pool.transfer_set))
    size = pool.args.per_device_train_batch_size
    return cast(nn.Module, student.model), {
        name: value[:size] if isinstance(value, Tensor) else value for name, value in student_inputs(batch).items()
    }


def shows_hidden_states(pool: StudentPool) -> bool:
    """Return whether a student gives its hidden states when asked."""
    model, inputs = _asked(pool)
    try:
        with torch.no_grad():
            return model.eval()(**inputs, output_hidden_states=True)["hidden_states"] is not None
    except (KeyError, TypeError):
        return False


def query_obstacle(pool: StudentPool, attack: Composition) -> str:
    """Return why an attack cannot make its queries from these inputs (texts have no mixture), or nothing."""
    if attack.query_protocol is None:
        return ""
    student = pool.student(PooledArm("asked", Composition(CrossEntropy()), None), 0)
    batch = next(pool.ordered_batches(student, pool.transfer_set))
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
    """Return the bytes of a student's weights and buffers, and of what its forward pass keeps for the backward."""
    model, inputs = _asked(pool)
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with unchanged_random_states(pool.args.device), torch.autograd.graph.saved_tensors_hooks(note, lambda it: it):
        outputs = model.train()(**inputs)
    own = {value.untyped_storage().data_ptr() for value in model.state_dict().values()}
    weights = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    del outputs  # until here, so that no storage was used twice
    return weights, sum(size for pointer, size in kept.items() if pointer not in own)
