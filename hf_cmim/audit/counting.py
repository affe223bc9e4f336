"""Upper bounds on the number of students: attacks below the margin stop early, and a proven leak ends an audit."""

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
    """Return the number of settings in the screen of one teacher, by kind."""
    shared, attacks = len(references()), len(plan.attacks.entries)
    nulls = _null_families(plan) * _nulls_of_family(num_classes)
    return {
        "settings of teacher-free students": shared,
        "settings of attacks": attacks,
        "label-only nulls": nulls,
        "finalists among them, tried again": min(plan.finalists, attacks) + min(plan.finalists, shared + nulls),
    }


def screen_students(plan: AuditPlan, num_classes: int, teachers: int) -> int:
    """Return the number of students in the screens of all teachers, which share the students of references."""
    shared, attacks, nulls, finalists = screened_settings(plan, num_classes).values()
    return plan.screening_seeds * (shared + teachers * (attacks + nulls)) + plan.final_seeds * teachers * finalists


def baseline_names(plan: AuditPlan) -> list[str]:
    """Return one placeholder name per baseline."""
    if plan.criterion == "no-leak":
        return [f"null of {family}" for family in plan.attacks.families]
    if plan.criterion == "paper":
        return [LABEL_SMOOTHING]
    return [LABEL_SMOOTHING, *(f"reference {number}" for number in range(plan.references))]


def _baselines(plan: AuditPlan) -> dict[str, Baselines]:
    names = baseline_names(plan)
    if plan.criterion == "no-leak":
        return {family: Baselines(name, (name,)) for family, name in zip(plan.attacks.families, names, strict=True)}
    return {family: Baselines(names[0], tuple(names)) for family in plan.attacks.families}


def design_until(plan: AuditPlan, count: int) -> Design:
    """Return the design with only the first `count` looks."""
    # Under no-leak each attack has its own null, so no reference is shared and needs more seeds.
    multiple = 1 if plan.criterion == "no-leak" else plan.reference_multiple
    return Design(margin=plan.margin, looks=plan.looks[:count], reference_multiple=multiple)


def confirming_students(plan: AuditPlan, count: int, teachers: int) -> int:
    """Return the number of confirming students of all teachers in the first `count` looks."""
    design = design_until(plan, count)
    last = Design(margin=plan.margin, looks=design.looks[-1:], reference_multiple=design.reference_multiple)
    seeds = replay({}, _baselines(plan), last).seeds_wanted
    attack_students = sum(seeds[family] for family in plan.attacks.families)
    baseline_students = sum(seeds.values()) - attack_students
    # References know no teacher and are trained once; nulls depend on their attack and so on the teacher.
    copies = teachers if plan.criterion == "no-leak" else 1
    return teachers * attack_students + copies * baseline_students


def accounting_students(plan: AuditPlan, num_classes: int) -> int:
    """Return the number of students of the accounting: nulls tuned after the last look, and three null arms."""
    late = plan.screening_seeds * _nulls_of_family(num_classes)
    return min(plan.diagnosed, len(plan.attacks.families)) * (late + 3 * plan.looks[-1]) + plan.looks[-1]
