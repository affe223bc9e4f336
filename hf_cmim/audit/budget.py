"""Plans that fit a time budget, and the claims that their verdicts no longer support."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from hf_cmim.attacks.suites import QUICK_V2, STANDARD_V2
from hf_cmim.audit.plan import AuditPlan
from hf_cmim.audit.preview import Preview, preview_of
from hf_cmim.errors import HfCmimError

UNIT_SECONDS = {"h": 3600, "m": 60, "min": 60, "s": 1}
FEWEST_SEEDS = 8
"""Seeds of the last look while families can still be dropped; ours."""
LIGHT: dict[str, Any] = {"screening_seeds": 1, "final_seeds": 0, "null_families": 0, "diagnosed": 0}
"""Settings of the last resort: a screen without finalists, and no accounting of gains."""


def budget_hours(text: str) -> float:
    """Return the hours in a time such as 1h, 2h30m, 45m or 90s.

    >>> budget_hours("2h30m"), budget_hours("90s"), budget_hours("1.5h")
    (2.5, 0.025, 1.5)

    Raises:
        HfCmimError: text in another form, or a time of zero.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(h|min|m|s)", text)
    seconds = sum(float(number) * UNIT_SECONDS[unit] for number, unit in parts)
    if not seconds or re.sub(r"\d+(?:\.\d+)?\s*(?:h|min|m|s)", "", text).strip():
        raise HfCmimError(f"Expected a budget such as 1h, 2h30m, 45m or 90s, got {text!r}.")
    return seconds / 3600


@dataclass(frozen=True)
class AffordablePlan:
    """A plan that fits a budget.

    Attributes:
        preview: preview of the affordable plan, which is `preview.plan`.
        full: preview of the requested plan.
        hours: budget in hours.
        dropped: parts of the requested plan that were left out, one phrase each.
        limits: claims that the verdict no longer supports, one sentence each.
    """

    preview: Preview
    full: Preview
    hours: float
    dropped: tuple[str, ...]
    limits: tuple[str, ...]

    @property
    def epoch_share(self) -> float:
        """Share of the epochs at which the requested plan would fit, at most 1."""
        return min(1.0, self.hours / self.full.hours)


def affordable_plan(preview: Preview, hours: float) -> AffordablePlan:
    """Return the largest plan that fits a budget, assuming that every attack continues to the last look.

    Looks beyond the third are dropped first, then families of attacks (the five of quick-v2 last), then the other
    looks. The last parts to go are the finalists, the tuned nulls and the accounting. The length of training is never
    reduced: students that are far from converged make any verdict doubtful.

    Args:
        preview: preview of the requested plan.
        hours: budget in hours, with all processes working in parallel.

    Raises:
        HfCmimError: a budget below the hours of the smallest plan.
    """
    smallest = preview
    for plan in _ever_smaller(preview.plan):
        smallest = preview_of(plan, preview.costs)
        if smallest.hours <= hours:
            return AffordablePlan(smallest, preview, hours, _dropped(preview, smallest), _limits(preview, smallest))
    raise HfCmimError(
        f"The smallest audit, one attack at {smallest.plan.looks[-1]} seeds, takes {60 * smallest.hours:.1f} min, and"
        f" the budget is {60 * hours:.1f} min. Give a larger budget, a smaller student or fewer transfer samples, or"
        " more processes."
    )


def _ever_smaller(plan: AuditPlan) -> Iterator[AuditPlan]:
    """Yield plans from the requested one to the smallest."""
    num_looks = next((count for count, look in enumerate(plan.looks, 1) if look >= FEWEST_SEEDS), len(plan.looks))
    for count in range(len(plan.looks), num_looks, -1):
        yield replace(plan, looks=plan.looks[:count])
    families = _by_importance(plan)
    quick = min(len(families), len(QUICK_V2.families))
    for count in range(len(families), quick - 1, -1):
        yield _reduced(plan, families[:count], num_looks)
    for looks in range(num_looks - 1, 0, -1):
        yield _reduced(plan, families[:quick], looks)
    for count in range(quick, 0, -1):
        yield replace(_reduced(plan, families[:count], 1), **LIGHT)


def _by_importance(plan: AuditPlan) -> list[str]:
    """Return the families in reverse order of dropping: the user's own, those of quick-v2, all others."""
    families = plan.attacks.families
    user_families = [family for family in families if family not in STANDARD_V2.families]
    quick_families = [family for family in QUICK_V2.families if family in families]
    return list(dict.fromkeys([*user_families, *quick_families, *families]))


def _reduced(plan: AuditPlan, families: list[str], looks: int) -> AuditPlan:
    return replace(plan, suite=plan.attacks.subset(families), looks=plan.looks[:looks])


def _dropped(full: Preview, chosen: Preview) -> tuple[str, ...]:
    """Return the parts that a smaller plan leaves out."""
    sentences = []
    missing = [family for family in full.families if family not in chosen.families]
    if missing:
        sentences.append(f"{len(missing)} of {len(full.families)} attacks: {', '.join(missing)}")
    if looks := full.plan.looks[len(chosen.plan.looks) :]:
        sentences.append(f"looks at {', '.join(map(str, looks))} seeds")
    for name, value in LIGHT.items():
        if getattr(chosen.plan, name) != getattr(full.plan, name):
            sentences.append(f"{name} {getattr(full.plan, name)}, now {value}")
    return tuple(sentences)


def _limits(full: Preview, chosen: Preview) -> tuple[str, ...]:
    """Return the claims that the verdict of a smaller plan no longer supports."""
    sentences = []
    if len(chosen.families) < len(full.families):
        sentences.append("It says nothing about the attacks that are left out. One of them may be the strongest.")
    if len(chosen.plan.looks) < len(full.plan.looks):
        now, then = (100 * preview.looks[-1].margins[1] for preview in (chosen, full))
        sentences.append(
            f"At {chosen.plan.looks[-1]} seeds it reaches a margin of about {now:.2f} points instead of {then:.2f},"
            " so it may well end inconclusive. Append looks later to continue it."
        )
    if chosen.plan.final_seeds < full.plan.final_seeds:
        sentences.append(
            "Settings are chosen with one seed, so a chosen reference may only have been lucky. Gains are not"
            " accounted for."
        )
    return tuple(sentences)


def suggested_epochs(plan: AffordablePlan, epochs: float) -> int:
    """Return the number of epochs at which the requested plan would fit, at least 1."""
    return max(1, math.floor(plan.epoch_share * epochs))
