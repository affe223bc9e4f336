"""How many queries an attack costs."""

import threading
from collections.abc import Iterable, Mapping
from typing import Any, final

from torch import Tensor

from hf_cmim.errors import HfCmimError


@final
class QueryLedger:
    """Counts queries in two ways, and refuses those beyond a budget before they are sent.

    *Paid* is what an attacker pays for. Whoever asks says which of two prices holds: an answer that is kept costs one
    query a sample, however often it is used (`charge_samples`); one that is not kept costs a query each time
    (`charge`). Trainers charge a teacher that looks answers up the first way, and one that answers live the second, in
    every epoch: whether the view was the same as before, nobody can tell. Who asks the same views again stores their
    answers first (`cache_answers`). *Asked* is what was physically sent, by whoever: second looks, retries. The budget
    limits what is paid. One ledger belongs to one student: what another student was told, this one pays for again.

    Args:
        budget: most queries that may be paid for; None for no limit.

    Attributes:
        num_paid: queries paid for.
        num_asked: queries sent.

    >>> ledger = QueryLedger(budget=3)
    >>> ledger.charge_samples([7, 8]), ledger.charge_samples([8, 9]), ledger.remaining
    (2, 1, 0)
    """

    def __init__(self, budget: int | None = None) -> None:
        if budget is not None and budget < 1:
            raise HfCmimError(f"Expected a budget of at least 1 query, got {budget}: nothing could be asked.")
        self.budget = budget
        self.num_paid = 0
        self.num_asked = 0
        self._samples: set[int] = set()
        self._lock = threading.Lock()

    @property
    def num_samples(self) -> int:
        """Samples whose answers are kept and were paid for."""
        return len(self._samples)

    @property
    def remaining(self) -> int | None:
        """Queries that may still be paid for; None without a budget."""
        return None if self.budget is None else self.budget - self.num_paid

    def check(self, count: int) -> None:
        """Refuse queries that the budget does not cover, without charging them.

        Raises:
            HfCmimError: more than remain, or a negative number.
        """
        if count < 0:
            raise HfCmimError(f"Expected a number of queries of at least 0, got {count}.")
        if self.budget is not None and self.num_paid + count > self.budget:
            raise HfCmimError(
                f"Expected at most {self.remaining} more queries, got {count}: {self.num_paid} of a budget of"
                f" {self.budget} are paid, and the next would exceed it. None of these was sent. Raise the budget, if"
                " whoever answers agrees, or ask fewer samples."
            )

    def charge(self, count: int) -> None:
        """Pay for queries whose answers are not kept, before they are sent.

        Raises:
            HfCmimError: the budget does not cover them; then nothing is charged.
        """
        with self._lock:
            self.check(count)
            self.num_paid += count

    def charge_samples(self, indices: Iterable[int] | Tensor) -> int:
        """Pay for those of the samples that were not paid for yet, and whose answers are kept, before they are asked.

        Args:
            indices: positions in the data set.

        Returns:
            How many were new.

        Raises:
            HfCmimError: the budget does not cover them; then nothing is charged.
        """
        listed = indices.tolist() if isinstance(indices, Tensor) else indices
        with self._lock:
            fresh = {int(index) for index in listed} - self._samples
            self.check(len(fresh))
            self._samples |= fresh
            self.num_paid += len(fresh)
        return len(fresh)

    def asked(self, count: int) -> None:
        """Count queries that were sent, paid or not."""
        with self._lock:
            self.num_asked += count

    def check_plan(self, per_epoch: int, total: int) -> None:
        """Refuse, before training, a plan that the budget does not cover.

        Args:
            per_epoch: queries that the first epoch pays for.
            total: queries that the whole training pays for.

        Raises:
            HfCmimError: the budget ends within the first epoch, or before the end of training.
        """
        if self.remaining is None or max(per_epoch, total) <= self.remaining:
            return
        when = "within the first epoch" if per_epoch > self.remaining else "before the end of training"
        raise HfCmimError(
            f"Expected a budget that covers {per_epoch} queries in the first epoch and {total} in all, got"
            f" {self.remaining} (of {self.budget}): it would end {when}, and the student would be another than"
            " planned. Raise the budget, take a smaller transfer set, or store the answers first (cache_answers): a"
            " live teacher is paid in each epoch, stored answers once."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the counts, and the samples paid for as ranges [first, last], ready for JSON."""
        ranges: list[list[int]] = []
        for index in sorted(self._samples):
            if ranges and index == ranges[-1][1] + 1:
                ranges[-1][1] = index
            else:
                ranges.append([index, index])
        return {"budget": self.budget, "paid": self.num_paid, "asked": self.num_asked, "samples": ranges}

    @classmethod
    def merged(cls, ledgers: Iterable["QueryLedger"]) -> "QueryLedger":
        """Return one account of one student's several processes: a sample that two of them asked is paid once."""
        parts = list(ledgers)
        whole = cls(parts[0].budget)
        whole._samples = set().union(*(part._samples for part in parts))
        whole.num_paid = sum(part.num_paid - len(part._samples) for part in parts) + len(whole._samples)
        whole.num_asked = sum(part.num_asked for part in parts)
        return whole

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "QueryLedger":
        """Rebuild what `to_dict` gave."""
        ledger = cls(values["budget"])
        ledger.num_paid = values["paid"]
        ledger.num_asked = values["asked"]
        ledger._samples = {index for first, last in values["samples"] for index in range(first, last + 1)}
        return ledger
