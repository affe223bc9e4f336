"""One training batch of an attack: query, answer, loss."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hf_cmim.attacks.composition import Composition
from hf_cmim.attacks.protocols import Components, Query
from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import IGNORE_INDEX
from hf_cmim.trainers.distillation.teacher_queries import TeacherQueries
from hf_cmim.trainers.shared.validation import check_are_logits, check_width, model_logits


def attack_components(
    attack: Composition,
    teacher: TeacherQueries,
    student: nn.Module,
    query: Query,
    index: Tensor | None,
    progress: float,
) -> tuple[Components, Tensor, Any]:
    """Return the components of the attack's loss on a batch, the number of its valid labels, and the outputs.

    Args:
        attack: attack that computes the loss.
        teacher: teacher with its ledger.
        student: model that learns, in training mode.
        query: batch as it was loaded.
        index: `(B,)` positions in the transfer set.
        progress: fraction of the optimizer steps done.

    Returns:
        Components, 0-d, each a mean over the batch's valid labels and over the queries; number of valid labels, 0-d;
        student's outputs for the last query.

    Raises:
        HfCmimError: neither labels nor answers to learn from, or a student that returns probabilities.
    """
    if query.labels is None and (teacher.teacher is None or not attack.needs_teacher):
        raise HfCmimError(
            f"Expected labels for {attack!r}, which asks no teacher, got none in the transfer set: every sample would"
            " count as class 0. Give labelled data, or an attack that learns from a teacher's answers."
        )
    # A query protocol turns one batch into several queries, such as views of the same samples.
    queries = [query] if attack.query_protocol is None else attack.query_protocol(query)
    components: Components = {}
    for protocol_query in queries:
        parts, count, outputs = _one_query(attack, teacher, student, protocol_query, index, progress)
        for name, value in parts.items():
            total = components.get(name, torch.zeros_like(value))
            components[name] = total + value / len(queries)
    return components, count, outputs


def _one_query(
    attack: Composition,
    teacher: TeacherQueries,
    student: nn.Module,
    query: Query,
    index: Tensor | None,
    progress: float,
) -> tuple[Components, Tensor, Any]:
    output_flags = {} if attack.student_protocol is None else {"output_hidden_states": True}
    outputs = student(**query.student_inputs, **output_flags)
    logits = model_logits(outputs)
    # The check waits for the device, so only the first step pays for it.
    if progress == 0:
        check_are_logits(logits)
    check_width(logits, teacher.num_classes)
    if teacher.teacher is None or not attack.needs_teacher:
        log_probs = teacher.uniform(logits)
    else:
        log_probs = teacher.answers(query.teacher_inputs, query.labels, index)
    labels = log_probs.argmax(dim=-1) if query.labels is None else query.labels

    def components_with(labels: Tensor) -> Components:
        loss = partial(attack, teacher_log_probs=log_probs, labels=labels, progress=progress)
        label_components: Components
        if attack.student_protocol is None:
            label_components = loss(logits)
        else:
            label_components = attack.student_protocol(loss, logits, outputs["hidden_states"], labels)
        return label_components

    components = components_with(labels)
    # A mixed sample has two labels: its loss mixes the losses of both in the same shares.
    if query.partner_labels is not None:
        share = query.share
        partner = components_with(query.partner_labels)
        components = {name: share * components[name] + (1 - share) * partner[name] for name in partner}
    return components, (labels != IGNORE_INDEX).sum(), outputs
