"""What an attacker pays, what was sent, and what is refused."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from hf_cmim.teachers import QueryLedger


def test_sample_is_paid_once_and_view_each_time():
    """Catches a ledger that charges each epoch of a fixed data set again, or new views only once."""
    ledger = QueryLedger()
    assert ledger.charge_samples(torch.tensor([3, 4, 4])) == 2
    assert ledger.charge_samples([4, 5]) == 1
    ledger.charge(10)
    ledger.charge(10)
    ledger.asked(7)
    assert (ledger.num_paid, ledger.num_asked, ledger.remaining) == (23, 7, None)


@pytest.mark.parametrize("pay", [lambda ledger: ledger.charge(3), lambda ledger: ledger.charge_samples([7, 8, 9])])
def test_budget_is_enforced_before_the_query(pay):
    """Catches a budget noticed after it was exceeded, and a refused query that is charged all the same."""
    ledger = QueryLedger(budget=4)
    ledger.charge_samples([0, 1])
    before = ledger.to_dict()
    with pytest.raises(ValueError, match="2 more queries, got 3.*budget of 4"):
        pay(ledger)
    assert ledger.to_dict() == before


def test_budget_is_enforced_to_the_last_query():
    """Catches a limit that is off by one, and paid samples that need budget again."""
    ledger = QueryLedger(budget=4)
    ledger.charge_samples([0, 1])
    ledger.charge_samples([0, 1, 8, 9])
    ledger.charge_samples([8])
    assert ledger.remaining == 0
    with pytest.raises(ValueError, match="0 more queries, got 1"):
        ledger.charge(1)


@pytest.mark.parametrize(("per_epoch", "total", "when"), [(101, 101, "first epoch"), (60, 120, "end of training")])
def test_plan_beyond_the_budget_is_refused(per_epoch, total, when):
    """Catches a training that stops half-way because its budget ended, and a remedy that a live teacher has not."""
    ledger = QueryLedger(budget=110)
    ledger.charge(10)
    ledger.check_plan(per_epoch=100, total=100)
    with pytest.raises(ValueError, match=f"{per_epoch} queries.*{total} in all.*100.*{when}.*cache_answers"):
        ledger.check_plan(per_epoch, total)
    QueryLedger().check_plan(per_epoch, total)


def test_json_gives_the_ledger_back():
    """Catches a resumed training that pays again for what it knows."""
    ledger = QueryLedger(budget=50)
    ledger.charge_samples([9, 0, 1, 2, 4, 5])
    ledger.charge(3)
    ledger.asked(20)
    written = json.loads(json.dumps(ledger.to_dict()))
    assert written == {"budget": 50, "paid": 9, "asked": 20, "samples": [[0, 2], [4, 5], [9, 9]]}
    again = QueryLedger.from_dict(written)
    assert again.charge_samples([0, 2, 3, 4, 9]) == 1
    assert (again.budget, again.num_paid, again.num_asked) == (50, 10, 20)


def test_processes_share_one_account():
    """Catches a sample that two processes asked and the student pays for twice, and views that are lost in the sum."""
    parts = [QueryLedger(budget=50), QueryLedger(budget=50)]
    parts[0].charge_samples([0, 1, 2])
    parts[1].charge_samples([2, 3])
    for part in parts:
        part.charge(4)
        part.asked(5)
    whole = QueryLedger.merged(parts)
    assert (whole.budget, whole.num_paid, whole.num_asked) == (50, 4 + 2 * 4, 10)
    assert whole.charge_samples([0, 1, 2, 3, 4]) == 1


def test_threads_cannot_overdraw():
    """Catches a check and a charge between which another thread charges."""
    ledger = QueryLedger(budget=100)

    def pay(_):
        try:
            ledger.charge(1)
        except ValueError:
            return 0
        return 1

    with ThreadPoolExecutor(8) as executor:
        assert sum(executor.map(pay, range(1000))) == 100
    assert ledger.num_paid == 100


@pytest.mark.parametrize("misuse", [lambda: QueryLedger(0), lambda: QueryLedger().charge(-1)])
def test_misuse_is_refused(misuse):
    """Catches a budget of nothing and queries that give money back."""
    with pytest.raises(ValueError, match="Expected a"):
        misuse()
