"""Checks of an audit's arms: they are those that its suite, its criterion and its checks require."""

from collections.abc import Iterator
from itertools import pairwise

from hf_cmim.attacks.references import LABEL_SMOOTHING, SELF_DISTILLATION, reference_settings
from hf_cmim.attacks.suites import Suite, released_suite
from hf_cmim.hub.audit_grid import null_confidences, reference_grid, setting_faults, suite_grid
from hf_cmim.names import safe_text
from hf_cmim.report import ArmResult, AuditReport, CriterionResult
from hf_cmim.report.arm_names import Answering, answering_words, arm_name
from hf_cmim.statistics import Baselines

LEFT_OUT = "attacks left out"
"""Name of the check that lists the families which this teacher or student does not allow."""
MOST_SEEDS = 1000
"""Largest number of seeds of a screen that is tried here; a plan has a few."""
ROUNDING = 0.01
"""Largest distance of a count from a whole number: accuracies are stored with single precision."""


def arm_faults(audit: AuditReport) -> Iterator[str]:
    """Check each arm's name, source of answers, settings and students, and yield the faults as sentences."""
    names = [arm.name for arm in audit.arms]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"two arms are called {name!r}"
    for arm in audit.arms:
        yield from (f"arm {safe_text(arm.name)!r}: {fault}" for fault in _faults_of_arm(audit, arm))


def _faults_of_arm(audit: AuditReport, arm: ArmResult) -> Iterator[str]:
    yield from _student_faults(audit, arm)
    source = _answer_source(arm, audit.scope.num_classes)
    if source is None:
        yield f"the answers for a {arm.role} cannot come from {arm.teacher!r}"
        return
    expected_name = arm_name(arm.family, arm.role, source)
    if arm.name != expected_name:
        yield f"a {arm.role} of the family {arm.family!r} is called {expected_name!r}"
    yield from _faults_of_setting(audit, arm)
    if not all(_can_be_mean(audit, mean) for mean in arm.validation.values()):
        yield f"a setting has an accuracy that is no whole number of {audit.scope.num_validation} validation samples"


def _can_be_mean(audit: AuditReport, mean: float) -> bool:
    """Return True if a mean accuracy over the seeds of a screen can come from whole numbers of validation samples."""
    plan = audit.reproduction.get("plan")
    first, more = (plan.get(name) if isinstance(plan, dict) else None for name in ("screening_seeds", "final_seeds"))
    if not isinstance(first, int) or not isinstance(more, int):
        return 0 <= mean <= 1
    # Settings are screened with `first` seeds, and finalists again with `more`, so a mean is over one of two numbers.
    samples, guess = audit.scope.num_validation, 1 / max(1, audit.scope.num_classes)
    # A diverged student counts as a guess, 1 / C, which need not be a whole number of samples.
    return any(
        is_share((mean * seeds - diverged * guess) / seeds, samples * seeds)
        for seeds in {first, first + more}
        if 0 < seeds <= MOST_SEEDS
        for diverged in range(seeds + 1)
    )


def _student_faults(audit: AuditReport, arm: ArmResult) -> Iterator[str]:
    seeds, tests, guess = len(arm.seeds), audit.scope.num_test, 1 / max(1, audit.scope.num_classes)
    # An audit numbers its seeds from 0 and drops none.
    if arm.seeds != tuple(range(seeds)):
        yield f"its seeds are not 0 to {seeds - 1} in order: the best of more students may have been selected"
    if len(arm.accuracies) != seeds or not seeds:
        yield f"it has {len(arm.accuracies)} accuracies for {seeds} seeds"
        return
    # Only some roles have an agreement: where nobody answered there is nothing to agree with.
    if len(arm.agreement) not in (0, seeds):
        yield f"it has {len(arm.agreement)} agreements with the teacher for {seeds} seeds"
        return
    if not set(arm.diverged) <= set(arm.seeds) or len(set(arm.diverged)) < len(arm.diverged):
        yield "a student is listed as diverged that does not exist, or is listed twice"
    for seed, accuracy in zip(arm.seeds, arm.accuracies, strict=True):
        if seed in arm.diverged:
            if accuracy != guess:
                yield f"student {seed} diverged, but its accuracy is {accuracy:g} instead of 1 / C = {guess:g}"
        elif not is_share(accuracy, tests):
            yield f"student {seed} has an accuracy of {accuracy:.6g}, which is no whole number of {tests} test samples"
    for seed, agreement in zip(arm.seeds, arm.agreement, strict=False):
        # Seeds out of order were reported above; they must not be looked up here.
        accuracy, teacher_accuracy = arm.accuracies[seed] if seed < seeds else 0.0, audit.teacher.accuracy
        if not is_share(agreement, tests):
            yield (
                f"student {seed} agrees with the teacher on a share of {agreement:.6g}, which is no whole number of"
                f" {tests} test samples"
            )
        elif seed not in arm.diverged and not _can_agree(agreement, accuracy, teacher_accuracy):
            yield f"student {seed} agrees with the teacher more or less often than their accuracies allow"


def is_share(value: float, count: int) -> bool:
    """Return True if a fraction is a whole number of samples, divided by their count."""
    return 0 <= value <= 1 and abs(value * count - round(value * count)) <= ROUNDING


def _can_agree(agreement: float, first: float, second: float) -> bool:
    """Return True if classifiers of these two accuracies can name the same class on this share of the samples."""
    # At least the samples where both must be right; at most all but those where exactly one must be right.
    return first + second - 1 - 1e-6 <= agreement <= 1 - abs(first - second) + 1e-6


def _answer_source(arm: ArmResult, num_classes: int) -> Answering | None:
    """Return the source of an arm's answers, or None for a source that its role does not allow."""
    confidences = null_confidences(num_classes)
    # A role fixes who answered: the audited model for a knockoff, nobody for a reference (or the student itself), a
    # table of hard answers for the nulls.
    if arm.role == "knockoff":
        return "teacher" if arm.teacher == answering_words("teacher", None) else None
    if arm.role == "reference":
        source: Answering = "self" if arm.family == SELF_DISTILLATION else "nobody"
        return source if arm.teacher == answering_words(source, None) else None
    if arm.role in ("null", "tuned null"):
        return "label" if arm.teacher in [answering_words("label", value) for value in confidences] else None
    if arm.role == "class answers":
        return "class answers" if arm.teacher == answering_words("class answers", None) else None
    if arm.role == "diagnostic" and arm.teacher == answering_words("centroid", None):
        return "centroid"
    return "argmax" if arm.teacher in [answering_words("argmax", value) for value in confidences] else None


def _faults_of_setting(audit: AuditReport, arm: ArmResult) -> Iterator[str]:
    if arm.role == "reference":
        if arm.family not in reference_grid():
            yield f"no audit trains a reference of the family {arm.family!r}"
        else:
            yield from setting_faults(reference_grid()[arm.family], arm.setting, arm.validation)
        return
    # A null is tuned over a fixed set of confidences; another set could hide a stronger null.
    confidences = {f"confidence {value:g}" for value in null_confidences(audit.scope.num_classes)}
    if arm.role in ("null", "labels") and {*arm.validation} != confidences:
        yield "its confidences are not those of a label-only null"
    is_tuned = arm.role == "tuned null"
    screened = list(dict.fromkeys(text.rpartition(", ")[0] for text in arm.validation))
    if is_tuned and {*arm.validation} != {f"{text}, {confidence}" for text in screened for confidence in confidences}:
        yield "its settings were not all tried with the confidences of a label-only null"
    suite = released_suite(audit.scope.suite)
    if suite is None:
        # Nobody knows the settings of an owner's suite, but the chosen one must be among those tried.
        if is_tuned and arm.setting not in screened:
            yield "the chosen setting was not screened"
        return
    grid = suite_grid(suite.name)
    if arm.family not in grid:
        yield f"{suite.name} has no family {arm.family!r}"
    elif arm.role in ("knockoff", "tuned null"):
        yield from setting_faults(grid[arm.family], arm.setting, screened if is_tuned else arm.validation)
    # Other roles take over the setting of a knockoff, whose relative temperatures have become numbers.
    elif all(setting.scales(arm.setting) is None for setting in grid[arm.family]):
        yield "its setting is none of the suite's settings for this family"


# All arms together


def claimed_suite(audit: AuditReport) -> Suite | None:
    """Return the part of the released suite that was tried or excused by a check; None for a suite of the owner."""
    suite = released_suite(audit.scope.suite)
    if suite is None or audit.scope.suite == suite.name:
        return suite
    return suite.subset(
        [family for family in suite.families if family in tried_families(audit) or _is_excused(audit, family)]
    )


def tried_families(audit: AuditReport) -> set[str]:
    """Return the families of the attacks that were tried."""
    return {arm.family for arm in audit.arms if arm.role == "knockoff"}


def _is_excused(audit: AuditReport, family: str) -> bool:
    return any(f"{family} (" in check.sentence for check in audit.checks if check.name == LEFT_OUT)


def suite_faults(audit: AuditReport) -> Iterator[str]:
    """Yield the families of a released suite that are missing without a reason, as sentences."""
    suite = claimed_suite(audit)
    if suite is None:
        return
    if suite.name != audit.scope.suite:
        yield f"its suite is called {audit.scope.suite!r}, but its attacks are those of {suite.name!r}"
    for family, settings in suite_grid(suite.name.partition(", ")[0]).items():
        if family in tried_families(audit) or family not in suite.families:
            continue
        if not all(setting.may_be_impossible for setting in settings):
            yield f"{audit.scope.suite} includes {family!r}, which works with every teacher and student: it is missing"
        elif not _is_excused(audit, family):
            yield f"{audit.scope.suite} includes {family!r}: it is missing, and no check says why"


def baseline_faults(audit: AuditReport) -> Iterator[str]:
    """Check which arms the knockoffs are compared with under each criterion, and yield the faults as sentences."""
    knockoffs = {arm.name: arm for arm in audit.arms if arm.role == "knockoff"}
    for result in audit.criteria:
        if set(result.baselines) - set(knockoffs):
            yield f"under {result.criterion!r} an arm that is no knockoff is compared"
            continue
        if result.criterion == "no-leak":
            yield from _null_faults(audit, result.baselines)
            continue
        if result.criterion == "beyond-labels" and not result.baselines and not _without_samples(audit):
            continue
        if set(result.baselines) != set(knockoffs):
            yield f"under {result.criterion!r} {len(knockoffs) - len(result.baselines)} knockoffs are not compared"
        if len(set(result.baselines.values())) > 1:
            yield f"under {result.criterion!r} knockoffs are compared with different references"
        for baselines in set(result.baselines.values()):
            yield from _reference_faults(audit, result.criterion, baselines)
    yield from _named_reference_faults(audit)


def _named_reference_faults(audit: AuditReport) -> Iterator[str]:
    """Yield a wrong name of the reference, and references of `teacher-free` that `beyond-labels` lacks."""
    expected = "" if audit.primary.criterion == "no-leak" else _chosen(audit.primary)
    if audit.reference != expected:
        yield f"the report calls its reference {audit.reference!r}, but its criteria use {expected!r}"
    names = {
        result.criterion: {name for baselines in result.baselines.values() for name in baselines.every}
        for result in audit.criteria
    }
    beyond = names["beyond-labels"]
    if beyond and not names.get("teacher-free", set()) <= beyond:
        yield "under 'beyond-labels' references of 'teacher-free' are missing"


def _reference_faults(audit: AuditReport, criterion: str, baselines: Baselines) -> Iterator[str]:
    if criterion == "paper":
        if baselines != Baselines(LABEL_SMOOTHING, (LABEL_SMOOTHING,)):
            yield "under 'paper' the reference is not label smoothing"
        return
    every = set(baselines.every)
    if criterion == "beyond-labels":
        labels = _without_samples(audit)
        if [role for _, role in sorted(labels.items(), key=lambda arm: arm[1])] != ["class answers", "labels"]:
            yield f"under {criterion!r} there is not one arm of the teacher's labels and one of its class answers"
        if not set(labels) <= every:
            yield f"under {criterion!r} the teacher's labels or its class answers are no reference"
        every -= set(labels)
    roles = {arm.name: arm.role for arm in audit.arms}
    wrong = sorted(name for name in every if roles.get(name) not in ("reference", "null", "tuned null"))
    if wrong:
        yield f"under {criterion!r} the attacks are compared with {', '.join(wrong)}, which learn from the teacher"
    if LABEL_SMOOTHING not in every:
        yield f"under {criterion!r} label smoothing is missing from the references"
    if baselines.chosen != baselines.every[0]:
        yield f"under {criterion!r} the chosen reference is not the first of the references"
    plan = audit.reproduction.get("plan")
    count = plan.get("references") if isinstance(plan, dict) else None
    most = len(reference_settings())
    if isinstance(count, int) and not 1 + min(count, most - 2) <= len(every) <= 1 + count:
        yield f"under {criterion!r} there are {len(every)} references, the plan says {1 + count}"


def _without_samples(audit: AuditReport) -> dict[str, str]:
    """Return the roles of the arms that learn nothing of a sample but its predicted class, by name."""
    return {arm.name: arm.role for arm in audit.arms if arm.role in ("labels", "class answers")}


def teacher_free_reference(audit: AuditReport) -> str:
    """Return the name of the best arm without the teacher on validation data, or "" without one."""
    results = (_chosen(result) for result in audit.criteria if result.criterion == "teacher-free")
    return next(results, "")


def _chosen(result: CriterionResult) -> str:
    return next((baselines.chosen for baselines in result.baselines.values()), "")


def _null_faults(audit: AuditReport, baselines: dict[str, Baselines]) -> Iterator[str]:
    nulls = {arm.family: arm.name for arm in audit.arms if arm.role == "null"}
    expected = {
        arm.name: Baselines(nulls[arm.family], (nulls[arm.family],))
        for arm in audit.arms
        if arm.role == "knockoff" and arm.family in nulls
    }
    if baselines != expected:
        yield "under 'no-leak' the attacks are not compared with the label-only nulls of their own losses"


def look_faults(audit: AuditReport, last_look: int) -> Iterator[str]:
    """Yield the faults of an audit's looks, as sentences.

    Args:
        audit: report of the audit.
        last_look: number of seeds at the last look that the accuracies allow under the primary criterion.
    """
    looks = audit.design.looks
    if any(later <= look for look, later in pairwise(looks)):
        yield "its looks do not increase"
    if audit.looks != tuple(look for look in looks if look <= last_look):
        yield f"it lists looks at {list(audit.looks)} seeds, but its students allow looks up to {last_look} seeds"
