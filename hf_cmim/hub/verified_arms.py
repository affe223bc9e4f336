"""Whether the arms of an audit are those that its suite, its criterion and its checks call for."""

from collections.abc import Iterator
from itertools import pairwise

from hf_cmim.attacks.references import LABEL_SMOOTHING, SELF_DISTILLATION, reference_settings
from hf_cmim.attacks.suites import SUITES, Suite
from hf_cmim.hub.audit_grid import null_confidences, reference_grid, setting_faults, suite_grid
from hf_cmim.names import safe_text
from hf_cmim.report import ArmResult, AuditReport
from hf_cmim.report.arm_names import Answering, answering_words, arm_name
from hf_cmim.statistics import Baselines

LEFT_OUT = "attacks left out"
"""Name of the check that lists the families which this teacher or student does not allow."""
MOST_SEEDS = 1000
"""Seeds of a screen that are looked through; a plan has a few."""
WHOLE = 0.01
"""How far a count may be from a whole number, after single precision."""


def arm_faults(audit: AuditReport) -> Iterator[str]:
    """Yield what is wrong with each arm by itself: its name, who answered, its settings, its students."""
    names = [arm.name for arm in audit.arms]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"two arms are called {name!r}"
    for arm in audit.arms:
        yield from (f"arm {safe_text(arm.name)!r}: {fault}" for fault in _of_arm(audit, arm))


def _of_arm(audit: AuditReport, arm: ArmResult) -> Iterator[str]:
    yield from _of_students(audit, arm)
    answering = _answering(arm, audit.scope.num_classes)
    if answering is None:
        yield f"nobody answers a {arm.role} as {arm.teacher!r}"
        return
    if arm.name != arm_name(arm.family, arm.role, answering):
        yield f"a {arm.role} of the family {arm.family!r} is not called so"
    yield from _of_settings(audit, arm)
    if not all(_can_be_mean(audit, mean) for mean in arm.validation.values()):
        yield f"a setting has an accuracy that no count of {audit.scope.num_validation} validation samples gives"


def _can_be_mean(audit: AuditReport, mean: float) -> bool:
    """Return whether a mean over the seeds of a screen can come from counts of samples, diverged students included."""
    plan = audit.reproduction.get("plan")
    first, more = (plan.get(name) if isinstance(plan, dict) else None for name in ("screening_seeds", "final_seeds"))
    if not isinstance(first, int) or not isinstance(more, int):
        return 0 <= mean <= 1
    samples, guess = audit.scope.num_validation, 1 / max(1, audit.scope.num_classes)
    return any(
        is_share((mean * seeds - diverged * guess) / seeds, samples * seeds)
        for seeds in {first, first + more}
        if 0 < seeds <= MOST_SEEDS
        for diverged in range(seeds + 1)
    )


def _of_students(audit: AuditReport, arm: ArmResult) -> Iterator[str]:
    seeds, tests, guess = len(arm.seeds), audit.scope.num_test, 1 / max(1, audit.scope.num_classes)
    if arm.seeds != tuple(range(seeds)):
        yield f"its seeds are not 0 to {seeds - 1} in order: the best of more students may have been picked"
    if len(arm.accuracies) != seeds or not seeds:
        yield f"it has {len(arm.accuracies)} accuracies of {seeds} seeds"
        return
    if len(arm.agreement) not in (0, seeds):
        yield f"it has {len(arm.agreement)} agreements with the teacher of {seeds} seeds"
        return
    if not set(arm.diverged) <= set(arm.seeds) or len(set(arm.diverged)) < len(arm.diverged):
        yield "a student diverged that it does not have"
    for seed, accuracy in zip(arm.seeds, arm.accuracies, strict=True):
        if seed in arm.diverged:
            if accuracy != guess:
                yield f"student {seed} diverged and counts {accuracy:g}, not 1 / C = {guess:g}"
        elif not is_share(accuracy, tests):
            yield f"student {seed} has an accuracy of {accuracy:.6g}, which no count of {tests} test samples gives"
    for seed, agreement in zip(arm.seeds, arm.agreement, strict=False):
        right, teacher = arm.accuracies[seed] if seed < seeds else 0.0, audit.teacher.accuracy
        if not is_share(agreement, tests):
            yield f"student {seed} agrees with the teacher on a share that no count of {tests} test samples gives"
        elif seed not in arm.diverged and not _can_agree(agreement, right, teacher):
            yield f"student {seed} agrees with the teacher more, or less, than their accuracies allow"


def is_share(value: float, count: int) -> bool:
    """Return whether a value is a whole number of samples among so many."""
    return 0 <= value <= 1 and abs(value * count - round(value * count)) <= WHOLE


def _can_agree(agreement: float, first: float, second: float) -> bool:
    """Return whether two classifiers of these accuracies may name the same class so often."""
    return first + second - 1 - 1e-6 <= agreement <= 1 - abs(first - second) + 1e-6


def _answering(arm: ArmResult, num_classes: int) -> Answering | None:
    """Return who answers an arm, or None for somebody whom its role does not allow."""
    confidences = null_confidences(num_classes)
    if arm.role == "knockoff":
        return "teacher" if arm.teacher == answering_words("teacher", None) else None
    if arm.role == "reference":
        answering: Answering = "self" if arm.family == SELF_DISTILLATION else "nobody"
        return answering if arm.teacher == answering_words(answering, None) else None
    if arm.role == "null":
        return "label" if arm.teacher in [answering_words("label", each) for each in confidences] else None
    if arm.teacher == answering_words("centroid", None):
        return "centroid"
    return "argmax" if arm.teacher in [answering_words("argmax", each) for each in confidences] else None


def _of_settings(audit: AuditReport, arm: ArmResult) -> Iterator[str]:
    if arm.role == "reference":
        if arm.family not in reference_grid():
            yield "it is no reference that an audit trains"
        else:
            yield from setting_faults(reference_grid()[arm.family], arm.setting, arm.validation)
        return
    if arm.role == "null" and {*arm.validation} != {
        f"confidence {each:g}" for each in null_confidences(audit.scope.num_classes)
    }:
        yield "its confidences are not those of a label-only null"
    whole = whole_suite(audit)
    if whole is None:
        return
    grid = suite_grid(whole.name)
    if arm.family not in grid:
        yield f"{whole.name} has no family {arm.family!r}"
    elif arm.role == "knockoff":
        yield from setting_faults(grid[arm.family], arm.setting, arm.validation)
    elif all(each.scales(arm.setting) is None for each in grid[arm.family]):
        yield "its setting is in no grid of the suite"


# All arms together


def whole_suite(audit: AuditReport) -> Suite | None:
    """Return the named suite that an audit claims, whole or in part; None for a suite of the owner's own."""
    return SUITES.get(audit.scope.suite.partition(", ")[0])


def claimed_suite(audit: AuditReport) -> Suite | None:
    """Return the suite, or the part of one, that the audit's arms and its families left out are of; or None."""
    whole = whole_suite(audit)
    if whole is None or audit.scope.suite == whole.name:
        return whole
    return whole.subset(
        [family for family in whole.families if family in tried_families(audit) or _is_excused(audit, family)]
    )


def tried_families(audit: AuditReport) -> set[str]:
    """Return the families of the attacks that were tried."""
    return {arm.family for arm in audit.arms if arm.role == "knockoff"}


def _is_excused(audit: AuditReport, family: str) -> bool:
    return any(f"{family} (" in check.sentence for check in audit.checks if check.name == LEFT_OUT)


def suite_faults(audit: AuditReport) -> Iterator[str]:
    """Yield the families of a named suite that were neither tried nor could not be."""
    suite = claimed_suite(audit)
    if suite is None:
        return
    if suite.name != audit.scope.suite:
        yield f"its suite is called {audit.scope.suite!r}, its attacks are of {suite.name!r}"
    for family, settings in suite_grid(suite.name.partition(", ")[0]).items():
        if family in tried_families(audit) or family not in suite.families:
            continue
        if not all(each.may_be_impossible for each in settings):
            yield f"{audit.scope.suite} tries {family!r}, which every teacher and student allows: it is not there"
        elif not _is_excused(audit, family):
            yield f"{audit.scope.suite} tries {family!r}: it is not there, and no check says why"


def baseline_faults(audit: AuditReport) -> Iterator[str]:
    """Yield what is wrong with the arms that knockoffs are measured against, criterion by criterion."""
    knockoffs = {arm.name: arm for arm in audit.arms if arm.role == "knockoff"}
    for result in audit.criteria:
        if set(result.baselines) - set(knockoffs):
            yield f"under {result.criterion!r} something else than a knockoff is measured"
            continue
        if result.criterion == "no-leak":
            yield from _of_nulls(audit, result.baselines)
            continue
        if set(result.baselines) != set(knockoffs):
            yield f"under {result.criterion!r} {len(knockoffs) - len(result.baselines)} knockoffs are not measured"
        if len(set(result.baselines.values())) > 1:
            yield f"under {result.criterion!r} knockoffs are measured against different arms"
        for baselines in set(result.baselines.values()):
            yield from _of_shared(audit, result.criterion, baselines)


def _of_shared(audit: AuditReport, criterion: str, baselines: Baselines) -> Iterator[str]:
    if criterion == "paper":
        if baselines != Baselines(LABEL_SMOOTHING, (LABEL_SMOOTHING,)):
            yield "under 'paper' something else than label smoothing is the reference"
        return
    roles = {arm.name: arm.role for arm in audit.arms}
    wrong = sorted(name for name in baselines.every if roles.get(name) not in ("reference", "null"))
    if wrong:
        yield f"under {criterion!r} the attacks are measured against {', '.join(wrong)}, which learn from the teacher"
    if LABEL_SMOOTHING not in baselines.every:
        yield f"under {criterion!r} label smoothing is no reference"
    if baselines.chosen != baselines.every[0]:
        yield f"under {criterion!r} the reference is not the first of its arms"
    plan = audit.reproduction.get("plan")
    count = plan.get("references") if isinstance(plan, dict) else None
    most = len(reference_settings())
    if isinstance(count, int) and not 1 + min(count, most - 2) <= len(baselines.every) <= 1 + count:
        yield f"under {criterion!r} there are {len(baselines.every)} references, the plan says {1 + count}"
    expected = {"teacher-free": baselines.chosen, "paper": LABEL_SMOOTHING}.get(audit.primary.criterion, "")
    if audit.reference != expected:
        yield f"the report's reference is called {audit.reference!r}, it is {expected!r}"


def _of_nulls(audit: AuditReport, baselines: dict[str, Baselines]) -> Iterator[str]:
    nulls = {arm.family: arm.name for arm in audit.arms if arm.role == "null"}
    expected = {
        arm.name: Baselines(nulls[arm.family], (nulls[arm.family],))
        for arm in audit.arms
        if arm.role == "knockoff" and arm.family in nulls
    }
    if baselines != expected:
        yield "under 'no-leak' the attacks are not measured against the label-only nulls of their own losses"


def look_faults(audit: AuditReport, last_look: int) -> Iterator[str]:
    """Yield what is wrong with the looks that were taken.

    Args:
        audit: the report.
        last_look: seeds at the last look that the accuracies allow under the primary criterion.
    """
    looks = audit.design.looks
    if any(later <= look for look, later in pairwise(looks)):
        yield "its looks do not rise"
    if audit.looks != tuple(look for look in looks if look <= last_look):
        yield f"it says that it looked at {list(audit.looks)} seeds, its students allow looks up to {last_look}"
