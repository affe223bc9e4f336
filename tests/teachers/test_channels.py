"""Any teacher behind a channel, and class answers fitted to a teacher."""

import pytest
import torch

from hf_cmim.channels import Argmax, ClassAnswers, Rounded, TopK
from hf_cmim.errors import HfCmimError
from hf_cmim.teachers import (
    ArgmaxNull,
    ChannelTeacher,
    FunctionTeacher,
    LabelOnlyTeacher,
    TableTeacher,
    fit_class_answers,
)

NAMES = tuple("abc")
LOG_PROBS = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)).mul(2).log_softmax(-1)
LABELS = torch.randint(0, 3, (60,), generator=torch.Generator().manual_seed(1))
POSITIONS = {"sample_index": torch.arange(60)}


def table(**changes):
    return TableTeacher(LOG_PROBS, class_names=NAMES, **changes)


def test_answers_pass_the_channel_after_the_teachers_own():
    """Catches a channel that is dropped, and two that are applied in the other order."""
    assert torch.equal(ChannelTeacher(table(), Rounded(1))(POSITIONS), Rounded(1)(LOG_PROBS))
    both = ChannelTeacher(table(channel=TopK(1)), Rounded(1))(POSITIONS)
    assert torch.equal(both, Rounded(1)(TopK(1)(LOG_PROBS)))
    assert not torch.equal(both, TopK(1)(Rounded(1)(LOG_PROBS)))


def test_the_wrapper_is_like_its_teacher():
    """Catches a wrapper that needs other inputs than its teacher, or hides that classes are hidden."""
    wrapped = ChannelTeacher(table(), Rounded(2))
    assert (wrapped.wants_index, wrapped.wants_labels, wrapped.class_names) == (True, False, NAMES)
    assert not wrapped.hides_classes
    assert ChannelTeacher(table(), Argmax()).hides_classes
    assert ChannelTeacher(table(channel=TopK(1)), Rounded(2)).hides_classes
    assert ChannelTeacher(LabelOnlyTeacher(3, confidence=0.9), Rounded(2)).wants_labels
    assert ChannelTeacher(ArgmaxNull(table(), confidence=0.9), Rounded(2)).wants_index


def test_fingerprints_tell_teachers_and_channels_apart():
    """Catches a cache that is taken for that of another channel."""
    teachers = [
        table(),
        ChannelTeacher(table(), Rounded(1)),
        ChannelTeacher(table(), Rounded(2)),
        ChannelTeacher(TableTeacher(LOG_PROBS.flip(0), class_names=NAMES), Rounded(1)),
        ChannelTeacher(table(), ClassAnswers(torch.eye(3))),
        ChannelTeacher(table(), ClassAnswers(torch.eye(3), 0.5)),
    ]
    assert len({teacher.fingerprint() for teacher in teachers}) == len(teachers)
    assert ChannelTeacher(table(), Rounded(1)).fingerprint() == teachers[1].fingerprint()


def test_a_teacher_is_fitted_batch_by_batch():
    """Catches a batch that is left out, and labels that are paired with other answers."""
    spans = [torch.arange(0, 7), torch.arange(7, 59), torch.arange(59, 60)]
    batches = [({"sample_index": span}, LABELS[span]) for span in spans]
    fitted = fit_class_answers(table(), batches, sharpness=0.25)
    assert repr(fitted) == repr(ClassAnswers.fit(LOG_PROBS, LABELS, sharpness=0.25))


def test_token_answers_of_unequal_lengths_are_fitted():
    """Catches sentences that cannot be put together."""
    teacher = FunctionTeacher(lambda inputs: inputs["answers"], class_names=NAMES)
    parts = [(LOG_PROBS[:12].reshape(3, 4, 3), LABELS[:12].reshape(3, 4)), (LOG_PROBS[12:, None], LABELS[12:, None])]
    fitted = fit_class_answers(teacher, [({"answers": answers}, labels) for answers, labels in parts])
    assert repr(fitted) == repr(ClassAnswers.fit(LOG_PROBS, LABELS))


def test_no_batches_are_refused():
    """Catches an iterator that was read before."""
    with pytest.raises(HfCmimError, match="at least one batch"):
        fit_class_answers(table(), iter(()))


def test_a_table_for_other_classes_is_refused_at_once():
    """Catches a mismatch that shows only at the first batch."""
    with pytest.raises(HfCmimError, match=r"2 classes.*got 3"):
        ChannelTeacher(table(), ClassAnswers(torch.eye(2)))
