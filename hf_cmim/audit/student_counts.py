"""Upper bounds on the number of students: attacks below the margin stop early, and a proven leak ends an audit."""

from hf_cmim.attacks.references import LABEL_SMOOTHING
from hf_cmim.attacks.suites import NULL_CONFIDENCES
from hf_cmim.audit.arms import references
from hf_cmim.audit.plan import AuditPlan, label_families, null_families
from hf_cmim.statistics import Baselines, Design, replay


def _nulls_of_family(num_classes: int) -> int:
    return sum(confidence > 1 / num_classes for confidence in NULL_CONFIDENCES)


def _null_settings(plan: AuditPlan) -> int:
    """Return the most settings of attacks that label-only nulls are tried with."""
    settings = sorted((len(plan.attacks.of(family)) for family in plan.attacks.families), reverse=True)
    others = max(0, null_families(plan) - plan.null_families)
    # The strongest families may be those with most settings. The others have one, the attack's own, and a second one
    # where the best of two finalists is not the setting that was best before.
    return sum(settings[: plan.null_families]) + others + min(others, plan.finalists // 2)


def _label_settings(plan: AuditPlan, num_classes: int) -> int:
    """Return the number of settings that learn only from the teacher's labels: each confidence, and class answers."""
    return label_families(plan) * (_nulls_of_family(num_classes) + 1)


def _label_teachers(plan: AuditPlan, teachers: int) -> int:
    """Return the number of teachers whose labels teach students."""
    return teachers if plan.criterion == "beyond-labels" else 1


def screened_settings(plan: AuditPlan, num_classes: int) -> dict[str, int]:
    """Return the number of settings in the screen of the audited teacher, by kind."""
    shared, attacks = len(references()), len(plan.attacks.entries)
    nulls, labels = _null_settings(plan) * _nulls_of_family(num_classes), _label_settings(plan, num_classes)
    return {
        "settings of teacher-free students": shared,
        "settings of attacks": attacks,
        "label-only nulls": nulls,
        "settings of the teacher's labels": labels,
        "finalists among them, tried again": sum(min(plan.finalists, n) for n in (attacks, shared + nulls, labels)),
    }


def screen_students(plan: AuditPlan, num_classes: int, teachers: int) -> int:
    """Return the number of students in the screens of all teachers, which share the students of references."""
    shared, attacks, nulls, labels, finalists = screened_settings(plan, num_classes).values()
    # Not every control's labels are tried; their finalists are counted with them.
    untried = teachers - _label_teachers(plan, teachers)
    students = plan.screening_seeds * (shared + teachers * (attacks + nulls + labels))
    students += plan.final_seeds * teachers * finalists
    return students - untried * (plan.screening_seeds * labels + plan.final_seeds * min(plan.finalists, labels))


def baseline_names(plan: AuditPlan) -> list[str]:
    """Return one placeholder name per baseline."""
    if plan.criterion == "no-leak":
        return [f"null of {family}" for family in plan.attacks.families]
    if plan.criterion == "paper":
        return [LABEL_SMOOTHING]
    labels = ["teacher's labels", "class answers"] if plan.criterion == "beyond-labels" else []
    return [LABEL_SMOOTHING, *(f"reference {number}" for number in range(plan.references)), *labels]


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
    # References know no teacher and are trained once. A null depends on its attack, and so on the teacher.
    references = set() if plan.criterion == "no-leak" else set(baseline_names(plan)[: 1 + plan.references])
    return sum(count * (1 if name in references else teachers) for name, count in seeds.items())


def accounting_students(plan: AuditPlan, num_classes: int) -> int:
    """Return the number of students after the last look: for the accounting, and for the criteria that are described.

    The accounting needs nulls that are tuned after the last look, and three null arms. The other criteria need
    cross-entropy and the references that the primary criterion did not train.
    """
    look = plan.looks[-1]
    late = plan.screening_seeds * _nulls_of_family(num_classes)
    labels = 2 if label_families(plan) else 0
    untrained = {"paper": plan.references + labels, "teacher-free": labels, "beyond-labels": 0}
    described = untrained.get(plan.criterion, 1 + plan.references + labels) * plan.reference_multiple * look
    return min(plan.diagnosed, len(plan.attacks.families)) * (late + 3 * look) + look + described
