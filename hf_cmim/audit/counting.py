"""How many students an audit trains, at most: attacks that are below the margin stop, and a proven leak ends it."""

from hf_cmim.attacks.references import LABEL_SMOOTHING
from hf_cmim.attacks.suites import NULL_CONFIDENCES
from hf_cmim.audit.arms import references
from hf_cmim.audit.plan import AuditPlan
from hf_cmim.statistics import Baselines, Design, replay


def _nulls_of_family(num_classes: int) -> int:
    return sum(confidence > 1 / num_classes for confidence in NULL_CONFIDENCES)


def _null_families(plan: AuditPlan) -> int:
    families = len(plan.attacks.families)
    return families if plan.criterion == "no-leak" else min(plan.null_families, families)


def screened_settings(plan: AuditPlan, num_classes: int) -> dict[str, int]:
    """Return the settings in the screen of one teacher, by what they are."""
    shared, attacks = len(references()), len(plan.attacks.entries)
    nulls = _null_families(plan) * _nulls_of_family(num_classes)
    return {
        "settings of teacher-free students": shared,
        "settings of attacks": attacks,
        "label-only nulls": nulls,
        "finalists among them, tried again": min(plan.finalists, attacks) + min(plan.finalists, shared + nulls),
    }


def screen_students(plan: AuditPlan, num_classes: int, teachers: int) -> int:
    """Return the students in the screens of all teachers; those without a teacher serve every teacher."""
    shared, attacks, nulls, finalists = screened_settings(plan, num_classes).values()
    return plan.screening_seeds * (shared + teachers * (attacks + nulls)) + plan.final_seeds * teachers * finalists


def baseline_names(plan: AuditPlan) -> list[str]:
    """Return a name for each baseline."""
    if plan.criterion == "no-leak":
        return [f"null of {family}" for family in plan.attacks.families]
    return [
        LABEL_SMOOTHING,
        *(f"reference {number}" for number in range(plan.references * (plan.criterion != "paper"))),
    ]


def _baselines(plan: AuditPlan) -> dict[str, Baselines]:
    names = baseline_names(plan)
    if plan.criterion == "no-leak":
        return {family: Baselines(name, (name,)) for family, name in zip(plan.attacks.families, names, strict=True)}
    return {family: Baselines(names[0], tuple(names)) for family in plan.attacks.families}


def design_until(plan: AuditPlan, count: int) -> Design:
    """Return the design with the first looks only."""
    multiple = 1 if plan.criterion == "no-leak" else plan.reference_multiple  # there each attack has its own baseline
    return Design(margin=plan.margin, looks=plan.looks[:count], reference_multiple=multiple)


def confirming_students(plan: AuditPlan, count: int, teachers: int) -> int:
    """Return the students that confirm up to the look of that number, of all teachers."""
    design = design_until(plan, count)
    last = Design(margin=plan.margin, looks=design.looks[-1:], reference_multiple=design.reference_multiple)
    wanted = replay({}, _baselines(plan), last).seeds_wanted
    attacks = sum(wanted[family] for family in plan.attacks.families)
    others = sum(wanted.values()) - attacks
    return teachers * attacks + others * (teachers if plan.criterion == "no-leak" else 1)


def accounting_students(plan: AuditPlan, num_classes: int) -> int:
    """Return the students of the accounting after the last look: nulls that are tuned late, and three null arms."""
    late = plan.screening_seeds * _nulls_of_family(num_classes)
    return min(plan.diagnosed, len(plan.attacks.families)) * (late + 3 * plan.looks[-1]) + plan.looks[-1]
