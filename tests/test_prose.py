"""The check of the prose, which `make quality` runs: it finds planted places and lets plain sentences through."""

import subprocess
import sys
from pathlib import Path

import prose
import pytest

PLAIN = '''"""Costs of an audit, counted in queries."""


def cost(queries: int) -> int:
    """Return the cost of the queries.

    Args:
        queries: number of queries, at least 0.
    """
    # One query costs one unit, whatever its answer is.
    price = 1
    return price * queries
'''


def kinds(source):
    return [place.kind for place in prose.check(source).places]


def test_plain_prose_passes():
    """Catches a check that refuses everything."""
    assert kinds(PLAIN) == []
    assert prose.verdict([prose.check(PLAIN)]) == []


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ("Return the cost of the queries.", "Return what the queries cost.", "nameless start"),
        ("Costs of an audit, counted in queries.", "What an audit costs.", "nameless start"),
        ("number of queries, at least 0.", "of the audit.", "nameless start"),
        ("number of queries, at least 0.", "whether there are any.", "nameless start"),
        ("One query costs one unit", "This is what one query costs", "what ..."),
        ("price", "found", "vague name"),
        ("queries: int", "other: int", "vague name"),
    ],
)
def test_a_planted_place_is_found_and_exceeds_a_budget(old, new, kind):
    """Catches a check that can find nothing."""
    assert old in PLAIN
    report = prose.check(PLAIN.replace(old, new))
    assert kind in [place.kind for place in report.places]
    assert prose.verdict([report])


def test_one_slip_in_a_large_package_passes():
    """Catches a check that stops work over a single word that no reader stumbles over."""
    slip = prose.check(PLAIN.replace("One query costs one unit", "This is what one query costs"))
    assert prose.verdict([slip] + [prose.check(PLAIN)] * 100) == []


def test_the_package_is_within_the_budgets():
    """Catches prose that strangers have to read twice; the output names each place."""
    script = Path(prose.__file__)
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
