"""Which answer belongs to which class."""

import pytest
import torch

from hf_cmim.teachers import match_classes


def test_equal_orders_need_nothing():
    """Catches a permutation that is applied although the orders agree."""
    assert match_classes(["a", "b"], ("a", "b")) is None
    assert match_classes(["LABEL_0", "LABEL_1"], ["LABEL_0", "LABEL_1"]) is None
    assert match_classes(None, ["a", "b"]) is None


def test_permuted_answers_are_in_the_order_of_the_student():
    """Catches the inverse permutation, which is right for every swap of two and wrong for a cycle."""
    teacher, student = ["a", "b", "c", "d"], ["c", "a", "b", "d"]
    columns = match_classes(teacher, student)
    answers = torch.tensor([[10.0, 20.0, 30.0, 40.0]])  # of a, b, c, d
    assert answers[..., columns].tolist() == [[30.0, 10.0, 20.0, 40.0]]


@pytest.mark.parametrize(
    ("teacher", "student", "named"),
    [
        (["a", "b", "c"], ["a", "b"], r"got 3 and 2.*teacher has 'c'"),
        (["a", "b"], ["a", "x"], r"teacher has 'b'.*student has 'x'"),
        (["Cat", "dog"], ["cat", "dog"], r"teacher has 'Cat'.*student has 'cat'"),
        (["LABEL_0", "LABEL_1"], ["a", "b"], r"defaults.*teacher"),
        (["a", "b"], ["LABEL_0", "LABEL_1"], r"defaults.*student"),
        (["a", "b"], ["b", "b"], r"'a'"),
        (["a", "b", "b"], ["b", "a", "b"], r"'b' for the classes 0 and 2.*model.config.id2label\[2\] = 'b \(2\)'"),
    ],
)
def test_what_does_not_match_is_named(teacher, student, named):
    """Catches names matched by position, by case or by half."""
    with pytest.raises(ValueError, match=named):
        match_classes(teacher, student)
