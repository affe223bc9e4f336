"""A plan that fits a budget of time, and what its verdict can then no longer say."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from hf_cmim.attacks.suites import QUICK_V1, STANDARD_V1
from hf_cmim.audit.plan import AuditPlan
from hf_cmim.audit.preview import Preview, preview_of
from hf_cmim.errors import HfCmimError

UNIT_SECONDS = {"h": 3600, "m": 60, "min": 60, "s": 1}
FEWEST_SEEDS = 8
"""Seeds of the last look that are kept for as long as there is a family to leave out; ours."""
LIGHT: dict[str, Any] = {"screening_seeds": 1, "final_seeds": 0, "null_families": 0, "diagnosed": 0}
"""A screen without a second try, and nothing accounted for: the last resort."""


def budget_hours(text: str) -> float:
    """Return a time such as 1h, 2h30m, 45m or 90s in hours.

    >>> budget_hours("2h30m"), budget_hours("90s"), budget_hours("1.5h")
    (2.5, 0.025, 1.5)

    Raises:
        HfCmimError: another text, or no time at all.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(h|min|m|s)", text)
    seconds = sum(float(number) * UNIT_SECONDS[unit] for number, unit in parts)
    if not seconds or re.sub(r"\d+(?:\.\d+)?\s*(?:h|min|m|s)", "", text).strip():
        raise HfCmimError(f"A budget is a time such as 1h, 2h30m, 45m or 90s, and got {text!r}.")
    return seconds / 3600


@dataclass(frozen=True)
class AffordablePlan:
    """A plan that fits a budget.

    Attributes:
        preview: preview of the plan; `preview.plan` is the plan itself.
        wanted: preview of the plan that was wanted.
        hours: the budget.
        dropped: what was left out, a sentence each.
        limits: what the verdict can no longer say, a sentence each.
    """

    preview: Preview
    wanted: Preview
    hours: float
    dropped: tuple[str, ...]
    limits: tuple[str, ...]

    @property
    def epoch_share(self) -> float:
        """Share of the epochs with which everything that was wanted would fit, at most 1."""
        return min(1.0, self.hours / self.wanted.hours)


def affordable_plan(preview: Preview, hours: float) -> AffordablePlan:
    """Return the largest plan that fits a budget, counted as if every attack went on to the last look.

    Looks beyond the third are left out first, then families of attacks, the five of quick-v1 last, then the other
    looks, and last the second try of finalists, the tuned nulls and the accounting. How long students are trained is
    left alone: students that are far from converged make any verdict doubtful.

    Args:
        preview: preview of the plan that is wanted.
        hours: time that it may take, all processes together.

    Raises:
        HfCmimError: not even the smallest plan fits.
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
    """Yield plans from the whole one to the smallest."""
    kept = next((count for count, look in enumerate(plan.looks, 1) if look >= FEWEST_SEEDS), len(plan.looks))
    for count in range(len(plan.looks), kept, -1):
        yield replace(plan, looks=plan.looks[:count])
    families = _by_importance(plan)
    quick = min(len(families), len(QUICK_V1.families))
    for count in range(len(families), quick - 1, -1):
        yield _reduced(plan, families[:count], kept)
    for looks in range(kept - 1, 0, -1):
        yield _reduced(plan, families[:quick], looks)
    for count in range(quick, 0, -1):
        yield replace(_reduced(plan, families[:count], 1), **LIGHT)


def _by_importance(plan: AuditPlan) -> list[str]:
    """Return the families, the last to be left out first."""
    families = plan.attacks.families
    own = [family for family in families if family not in STANDARD_V1.families]
    return list(dict.fromkeys([*own, *(each for each in QUICK_V1.families if each in families), *families]))


def _reduced(plan: AuditPlan, families: list[str], looks: int) -> AuditPlan:
    return replace(plan, suite=plan.attacks.subset(families), looks=plan.looks[:looks])


def _dropped(wanted: Preview, chosen: Preview) -> tuple[str, ...]:
    """Return what a smaller plan leaves out."""
    sentences = []
    missing = [family for family in wanted.families if family not in chosen.families]
    if missing:
        sentences.append(f"{len(missing)} of {len(wanted.families)} attacks: {', '.join(missing)}")
    if looks := wanted.plan.looks[len(chosen.plan.looks) :]:
        sentences.append(f"looks at {', '.join(map(str, looks))} seeds")
    for name, value in LIGHT.items():
        if getattr(chosen.plan, name) != getattr(wanted.plan, name):
            sentences.append(f"{name} {getattr(wanted.plan, name)}, now {value}")
    return tuple(sentences)


def _limits(wanted: Preview, chosen: Preview) -> tuple[str, ...]:
    """Return what the verdict of a smaller plan can no longer say."""
    sentences = []
    if len(chosen.families) < len(wanted.families):
        sentences.append("Nothing about the attacks that are left out. One of them may be the strongest.")
    if len(chosen.plan.looks) < len(wanted.plan.looks):
        now, then = (100 * each.looks[-1].margins[1] for each in (chosen, wanted))
        sentences.append(
            f"At {chosen.plan.looks[-1]} seeds it reaches a margin of about {now:.2f} points instead of {then:.2f}: it"
            " may well end inconclusive. More looks continue it later."
        )
    if chosen.plan.final_seeds < wanted.plan.final_seeds:
        sentences.append(
            "Settings are chosen by one seed, so that a reference may only have been lucky, and gains are not"
            " accounted for."
        )
    return tuple(sentences)


def suggested_epochs(plan: AffordablePlan, epochs: float) -> int:
    """Return the epochs with which the wanted plan would fit, at least 1."""
    return max(1, math.floor(plan.epoch_share * epochs))
