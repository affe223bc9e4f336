"""Reasons not to believe a verdict: each is found where it was planted, and a healthy audit has none."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hf_cmim.attacks.composition import Composition
from hf_cmim.attacks.kd import KD
from hf_cmim.audit.arms import Arm
from hf_cmim.audit.checks import Evidence, find_faults
from hf_cmim.audit.data import DataFacts
from hf_cmim.report import ArmResult, Check, ModelFacts, Role

GRID = [Arm("kd", "knockoff", Composition(KD(temperature=t)), "teacher") for t in (1.0, 2.0, 4.0)]
OTHER = Arm("dkd", "knockoff", Composition(KD(temperature=9.0)), "teacher")
SCORES = dict(zip([*GRID, OTHER], ([0.60, 0.61], [0.70, 0.71], [0.65, 0.66], [0.9, 0.9]), strict=True))
TEST_SIZE = 1000


def facts(first: int, size: int, ignored: int = 0) -> DataFacts:
    """Samples numbered from the first one on; some of their labels do not count."""
    samples = frozenset(str(number).encode() for number in range(first, first + size))
    return DataFacts(size, np.zeros(size - ignored, dtype=np.int64), samples, f"from {first}")


def arm(name: str, role: Role, *accuracies: float, diverged: tuple[int, ...] = ()) -> ArmResult:
    seeds = tuple(range(len(accuracies)))
    return ArmResult(name, role, name, "KD()", "the teacher", {}, seeds, accuracies, (), diverged)


def teacher(accuracy: float) -> ModelFacts:
    return ModelFacts("teacher", "", "f" * 64, "e" * 64, accuracy, 1.0, 0.3, 0.1, 0.3, 0.1, 0.1, 0.2, ((1.0, 0.1),))


HEALTHY = Evidence(
    asked_twice=1e-4,
    teacher=teacher(0.90),
    num_classes=10,
    baseline=arm("LS", "reference", 0.84, 0.86),
    arms=[arm("kd", "knockoff", 0.87, 0.89), arm("LS", "reference", 0.84, 0.86), arm("null", "null", 0.85, 0.85)],
    chosen=[GRID[1]],
    screened=[*GRID, OTHER],
    scores=SCORES,
    margin=0.005,
    data=(facts(0, 500), facts(500, 300), facts(5000, TEST_SIZE)),
    power=True,
    has_pretrained_student=False,
    skipped=(),
)


def found(**changes: Any) -> list[tuple[str, str]]:
    return [(check.name, check.severity) for check in find_faults(replace(HEALTHY, **changes))]


def only(**changes: Any) -> Check:
    (check,) = find_faults(replace(HEALTHY, **changes))
    return check


def test_a_healthy_audit_has_no_fault():
    """Catches a check that always speaks, and so says nothing."""
    assert found() == []


PLANTED: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "answers change": ("fatal", {"asked_twice": 0.0123}, ["0.012"]),
    "teacher knows nothing": ("fatal", {"teacher": teacher(0.12)}, ["12.00 %", "10.00 %", "10 classes"]),
    "teacher worse than student": ("warning", {"teacher": teacher(0.80)}, ["80.00 %", "85.00 %"]),
    "student as good as teacher": ("warning", {"teacher": teacher(0.855)}, ["85.50 %", "85.00 %"]),
    "test samples seen": (
        "fatal", {"data": (facts(0, 500), facts(500, 300), facts(498, 2000))}, ["2 of 2000", "300 of 2000"],
    ),
    "validation samples seen": (
        "warning", {"data": (facts(0, 500), facts(490, 300), facts(5000, TEST_SIZE))}, ["10 of 300"],
    ),
    "margin too fine": ("fatal", {"margin": 0.00299}, ["0.30 points", "1000", "1004"]),
    "diverged": (
        "warning", {"arms": [*HEALTHY.arms, arm("dist", "knockoff", 0.1, 0.8, 0.1, diverged=(0, 2))]},
        ["2 of 3", "dist"],
    ),
    "a null beats every teacher": (
        "warning", {"arms": [*HEALTHY.arms, arm("strong", "null", 0.88, 0.90)]},
        ["strong", "89.00 %", "kd", "88.00 %"],
    ),
    "best setting at the edge": ("warning", {"chosen": [GRID[2]]}, ["kd (last of 3)"]),
    "no control teacher": ("warning", {"power": None}, []),
    "no power": ("fatal", {"power": False}, []),
    "pretrained student": ("warning", {"has_pretrained_student": True}, []),
    "attacks left out": ("warning", {"skipped": ["wkd", "nkd"]}, ["wkd, nkd"]),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found(name):
    """Catches a check that is never reached, of the wrong severity, or whose sentence names other numbers."""
    severity, changes, seen = PLANTED[name]
    checks = find_faults(replace(HEALTHY, **changes))
    assert {(check.name, check.severity) for check in checks} == {(name, severity)}
    for words in seen:
        assert any(words in check.sentence for check in checks), words


def test_every_sentence_is_whole():
    """Catches a placeholder that was never filled, a number of another unit, and Python in a sentence for people."""
    everything = {key: value for _, changes, _ in PLANTED.values() for key, value in changes.items()}
    sentences = [
        check.sentence for _, changes, _ in PLANTED.values() for check in find_faults(replace(HEALTHY, **changes))
    ]
    sentences += [check.sentence for check in find_faults(replace(HEALTHY, **everything))]
    for sentence in sentences:
        assert not re.search(r"[{}]|\bnan\b|\binf\b|None|True|False|np\.|float64|%[ds]|  ", sentence), sentence
        assert re.match(r"[A-Z0-9a-z].*\.$", sentence), sentence
        assert all(float(percent) <= 100 for percent in re.findall(r"([\d.]+) (?:%|points)", sentence)), sentence


def test_fatal_faults_come_first():
    """Catches a page whose first line is a warning while the verdict is void."""
    names = found(asked_twice=0.5, power=False, has_pretrained_student=True, skipped=["wkd"], chosen=[GRID[0]])
    severities = [severity for _, severity in names]
    assert severities == sorted(severities) == ["fatal"] * 2 + ["warning"] * 3
    assert [name for name, _ in names] == [
        "answers change", "no power", "best setting at the edge", "pretrained student", "attacks left out",
    ]  # fmt: skip


# The edge of the grid


@pytest.mark.parametrize(("place", "words"), [(0, "kd (first of 3)"), (1, None), (2, "kd (last of 3)")])
def test_the_edge_is_either_end(place, words):
    """Catches a check of one end alone, and one that takes another family's settings for the grid's."""
    checks = find_faults(replace(HEALTHY, chosen=[GRID[place]]))
    assert [words in check.sentence for check in checks] == ([] if words is None else [True])


def test_all_edges_are_one_warning():
    """Catches a report whose other warnings drown in one for each of thirty attacks."""
    others = [replace(each, family="dist") for each in GRID]
    scores = SCORES | dict(zip(others, ([0.6, 0.6], [0.5, 0.5], [0.5, 0.5]), strict=True))
    check = only(chosen=[GRID[2], others[0]], screened=[*GRID, *others], scores=scores)
    assert "for kd (last of 3), dist (first of 3):" in check.sentence


@pytest.mark.parametrize(("scores", "speaks"), [
    (([0.70, 0.70], [0.70, 0.70], [0.7009, 0.7009]), False),  # a tenth of a point apart
    (([0.70, 0.70], [0.70, 0.70], [0.7012, 0.7012]), True),
    (([0.68, 0.72], [0.68, 0.72], [0.72, 0.72]), False),  # less than the seeds of a setting on average
    (([0.68, 0.70], [0.70, 0.70], [0.73, 0.73]), True),
])  # fmt: skip
def test_a_flat_grid_has_no_edge(scores, speaks):
    """Catches a warning that an end of a grid is best where all of it is equally good, and the reverse."""
    known = dict(zip(GRID, scores, strict=True))
    assert found(chosen=[GRID[2]], screened=GRID, scores=known) == (
        [("best setting at the edge", "warning")] if speaks else []
    )


def test_two_settings_are_all_edge():
    """Catches a warning that no choice of settings could avoid."""
    assert found(chosen=[GRID[0]], screened=GRID[:2]) == []


def test_nulls_of_a_family_are_no_part_of_its_grid():
    """Catches a null taken for a setting of the attack: the last setting would then not be the edge."""
    nulls = GRID[2].nulls(10)
    scores = SCORES | {null: [0.1, 0.1] for null in nulls}
    assert found(chosen=[GRID[2]], screened=[*GRID, *nulls], scores=scores) == [
        ("best setting at the edge", "warning")
    ]


# Limits


def test_limits_are_where_they_are_said_to_be():
    """Catches limits in other units, on the wrong side, or against another number of samples."""
    assert found(asked_twice=1e-3) == []
    assert found(asked_twice=1.1e-3) == [("answers change", "fatal")]
    assert found(margin=3 / TEST_SIZE) == []
    assert found(margin=2.99 / TEST_SIZE) == [("margin too fine", "fatal")]
    assert found(teacher=teacher(0.861)) == []
    ignored = (*HEALTHY.data[:2], facts(5000, TEST_SIZE, ignored=500))
    assert found(data=ignored) == [("margin too fine", "fatal")], "labels that do not count decide nothing"


@pytest.mark.parametrize("margin", [0.005, 0.003, 0.0007, 0.00123])
def test_the_test_set_that_is_asked_for_is_enough(margin):
    """Catches a remedy that the next audit would refuse again, and one that asks for more than is needed."""
    tiny = (*HEALTHY.data[:2], facts(5000, 10))
    (size,) = re.findall(r"at least (\d+) test samples", only(margin=margin, data=tiny).sentence)
    assert found(margin=margin, data=(*HEALTHY.data[:2], facts(5000, int(size)))) == []
    assert found(margin=margin, data=(*HEALTHY.data[:2], facts(5000, int(size) - 1))) != []


def test_a_strong_null_needs_a_weaker_knockoff_to_beat():
    """Catches arms that were not trained and count as 0 or as nan, and a comparison with references."""
    assert found(arms=[arm("null", "null", 0.99), arm("kd", "knockoff")]) == []
    assert found(arms=[arm("null", "null"), arm("kd", "knockoff", 0.5)]) == []
    assert found(arms=[arm("LS", "reference", 0.99), arm("kd", "knockoff", 0.5), arm("null", "null", 0.5)]) == []
