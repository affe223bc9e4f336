"""The query ledger: the number of queries that an attack costs, and its budget."""

import threading
from collections.abc import Iterable, Mapping
from typing import Any, final

from torch import Tensor

from hf_cmim.errors import HfCmimError


@final
class QueryLedger:
    """A count of a student's queries, which refuses queries beyond a budget before they are sent.

    It has two counts. *Paid* queries are those that an attacker pays for; the budget limits them. *Asked* queries are
    all that were sent, including second looks and retries.

    A cached answer costs one query per sample, no matter how often it is used (`charge_samples`). A live answer costs
    one query per call (`charge`). Trainers use the first price for a teacher that looks answers up, and the second for
    a live teacher in every epoch, because they cannot know if a view is the same as before. Use `cache_answers` to pay
    once. One ledger belongs to one student: it pays again for answers that another student already has.

    Args:
        budget: most queries that may be paid for; None for no limit.

    Attributes:
        num_paid: number of queries paid for.
        num_asked: number of queries sent.

    >>> ledger = QueryLedger(budget=3)
    >>> ledger.charge_samples([7, 8]), ledger.charge_samples([8, 9]), ledger.remaining
    (2, 1, 0)
    """

    def __init__(self, budget: int | None = None) -> None:
        if budget is not None and budget < 1:
            raise HfCmimError(
                f"Expected a budget of at least 1 query, got {budget}: nothing could be asked. Give a larger budget,"
                " or None for no limit."
            )
        self.budget = budget
        self.num_paid = 0
        self.num_asked = 0
        self._samples: set[int] = set()
        self._lock = threading.Lock()

    @property
    def num_samples(self) -> int:
        """Number of samples whose stored answers are paid for."""
        return len(self._samples)

    @property
    def remaining(self) -> int | None:
        """Number of queries left in the budget; None without a budget."""
        return None if self.budget is None else self.budget - self.num_paid

    def check(self, count: int) -> None:
        """Refuse queries that the budget does not cover, without charging them.

        Raises:
            HfCmimError: more queries than remain, or a negative number.
        """
        if count < 0:
            raise HfCmimError(f"Expected a number of queries of at least 0, got {count}.")
        if self.budget is not None and self.num_paid + count > self.budget:
            raise HfCmimError(
                f"Expected at most {self.remaining} more queries, got {count}: {self.num_paid} of a budget of"
                f" {self.budget} are paid, and the next would exceed it. None of these was sent. Raise the budget, if"
                " the owner of the service agrees, or ask fewer samples."
            )

    def charge(self, count: int) -> None:
        """Pay for queries whose answers are not stored, before they are sent.

        Raises:
            HfCmimError: a budget that does not cover them; then nothing is charged.
        """
        with self._lock:
            self.check(count)
            self.num_paid += count

    def charge_samples(self, indices: Iterable[int] | Tensor) -> int:
        """Pay for samples whose answers will be stored, before they are asked; samples already paid for are free.

        Args:
            indices: positions of the samples in the data set.

        Returns:
            Number of samples that were new.

        Raises:
            HfCmimError: a budget that does not cover them; then nothing is charged.
        """
        listed = indices.tolist() if isinstance(indices, Tensor) else indices
        # Threads of an endpoint share a ledger: check and payment must be one step.
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
            per_epoch: number of queries that the first epoch pays for.
            total: number of queries that the whole training pays for.

        Raises:
            HfCmimError: a budget that ends within the first epoch, or before the end of training.
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
        """Return the counts and the paid samples, as ranges [first, last], ready for JSON."""
        ranges: list[list[int]] = []
        for index in sorted(self._samples):
            if ranges and index == ranges[-1][1] + 1:
                ranges[-1][1] = index
            else:
                ranges.append([index, index])
        return {"budget": self.budget, "paid": self.num_paid, "asked": self.num_asked, "samples": ranges}

    @classmethod
    def merged(cls, ledgers: Iterable["QueryLedger"]) -> "QueryLedger":
        """Return one ledger for all processes of a student: a sample that two of them asked is paid once."""
        parts = list(ledgers)
        merged = cls(parts[0].budget)
        merged._samples = set().union(*(part._samples for part in parts))
        # Live queries add up; stored samples count once.
        num_live = sum(part.num_paid - len(part._samples) for part in parts)
        merged.num_paid = num_live + len(merged._samples)
        merged.num_asked = sum(part.num_asked for part in parts)
        return merged

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "QueryLedger":
        """Build a ledger from the result of `to_dict`."""
        ledger = cls(values["budget"])
        ledger.num_paid = values["paid"]
        ledger.num_asked = values["asked"]
        ledger._samples = {index for first, last in values["samples"] for index in range(first, last + 1)}
        return ledger
