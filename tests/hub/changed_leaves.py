"""Change a report leaf by leaf, and tell which changes its verification notices."""

import copy
import re
from collections.abc import Iterator
from typing import Any

from hf_cmim.errors import HfCmimError
from hf_cmim.hub.verified_audit import audit_faults
from hf_cmim.report import AuditReport

ONLY_DATA_TELL = {
    r"title|teacher\.(name|path)|(twin|controls\.\d+\.facts)\.(name|path)|scope\.(student|\w+_set)":
        "words that nothing is computed from",
    r"scope\.suite": "another name is a suite of the owner's own, and is printed as self-reported",
    r"scope\.num_transfer|scope\.attacker\.share|scope\.training\..*": "how students were trained: train some again",
    r"(teacher|twin|controls\.\d+\.facts)\.(curve\..*|nll\w*|ece\w*|aurc|within_total_ratio|membership_auc\..*)":
        "measured on the test data: measure again",
    r"costs\..*|sittings|(arms|controls)\.\d+\.queries":
        "what the audit cost; more than its own students may have been trained",
    r"reproduction\.(command|date|device|processes|versions\..*)": "where it ran",
    r"reproduction\.fingerprints\..*": "fingerprints of the data: measure again",
    r"reproduction\.plan\.(diagnosed|finalists|null_families|stacked)":
        "how the screen was cut; its students are not in the report",
    r"checks\.\d+\.sentence": "words, with figures of data that only the audit saw",
    r"checks\.\d+\.name": "a check that only the training or the data call for",
    r"controls\.\d+\.(name|largest_gain\..*|smallest_margin|differences\..*|checks\..*|described\..*)":
        "of another teacher, whose students are not in the report",
    r"learning_curve\..*": "of a student that is not in the report",
}  # fmt: skip
"""Paths of leaves that may change unnoticed, and why."""


def leaves(values: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield every number, text, truth and None with its path."""
    if isinstance(values, dict | list):
        for key, value in values.items() if isinstance(values, dict) else enumerate(values):
            yield from leaves(value, (*path, key))
    else:
        yield path, values


def changed(value: Any) -> Any:
    """A value of the same kind that is a little different."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value + 0.001 if value < 0.9 else value - 0.001
    return "x" if value is None else value + "x"


def with_leaf(values: Any, path: tuple[Any, ...], leaf: Any) -> Any:
    copied = copy.deepcopy(values)
    inner = copied
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = leaf
    return copied


def is_noticed(values: Any, num_classes: int) -> bool:
    try:
        report = AuditReport.from_plain(values)
    except HfCmimError:
        return True
    return next(audit_faults(report, ["class"] * num_classes), None) is not None


def unnoticed(values: Any) -> tuple[int, list[str]]:
    """Return the number of leaves, and the paths of those that change unnoticed."""
    num_classes = values["scope"]["num_classes"]
    every = list(leaves(values))
    missed = [path for path, leaf in every if not is_noticed(with_leaf(values, path, changed(leaf)), num_classes)]
    return len(every), [".".join(map(str, path)) for path in missed]


def unexplained(paths: list[str]) -> list[str]:
    """The paths for which no reason is stated."""
    return [path for path in paths if not any(re.fullmatch(pattern, path) for pattern in ONLY_DATA_TELL)]
