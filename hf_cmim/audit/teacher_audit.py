"""The audit of one teacher: screen every setting, confirm the best, account for the gains of the strongest."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import final

import numpy as np

from hf_cmim.audit.arms import Arm, knockoffs, references
from hf_cmim.audit.audited_teacher import AuditedTeacher
from hf_cmim.audit.engine.pooled import StudentResult
from hf_cmim.audit.findings import decide_under
from hf_cmim.audit.plan import (
    AuditPlan,
    Confirmation,
    finalists,
    label_families,
    null_families,
    screening_seeds,
    strongest,
)
from hf_cmim.audit.students import AuditStudents, WantedStudents
from hf_cmim.report import ArmResult, Role
from hf_cmim.statistics import Decision


@final
class TeacherAudit:
    """The audit of one teacher: the choice of its students, stage by stage, and their results.

    Args:
        teacher: teacher under audit.
        plan: plan of the audit.
        students: students of the audit, which `stages` leaves to train.
        is_control: True if only the verdict of the primary criterion is needed.

    Attributes:
        arms: settings that can be tried.
        screened: settings that were screened on validation data, in order.
        scores: validation accuracies of each screened setting.
        chosen: arms that are confirmed on test data.
        decision: last decision under the primary criterion.
        skipped: families that this teacher or student does not allow, with the reason.
    """

    def __init__(
        self, teacher: AuditedTeacher, plan: AuditPlan, students: AuditStudents, *, is_control: bool = False
    ) -> None:
        self.teacher = teacher
        self.plan = replace(plan, diagnosed=0) if is_control else plan
        self.needs_labels = plan.criterion == "beyond-labels" or not is_control
        self.students = students
        self.screened: list[Arm] = []
        self.scores: dict[Arm, list[float]] = {}
        self.chosen: Confirmation
        self.decision: Decision
        candidates = [*references(), *knockoffs(plan.attacks.entries, teacher.answers)]
        with_obstacles = [(arm, self._obstacle(arm)) for arm in candidates]
        self.arms = [arm for arm, obstacle in with_obstacles if not obstacle]
        # A family is skipped only if none of its settings can be tried.
        possible_families = {arm.family for arm in self.arms}
        skipped = {arm.family: obstacle for arm, obstacle in with_obstacles if arm.family not in possible_families}
        self.skipped = [f"{family} ({obstacle})" for family, obstacle in skipped.items()]

    def _obstacle(self, arm: Arm) -> str:
        """Return the reason why a setting cannot be tried, or ""."""
        if arm.answering == "teacher" and arm.attack.needs_every_class and self.teacher.black_box.hides_classes:
            return "the teacher hides classes"
        return self.students.obstacle(arm)

    def stages(self) -> Iterator[WantedStudents]:
        """Yield the students of each stage: screen settings, confirm the best, describe gains.

        They must be trained before the next stage is asked for, which is chosen by their results.
        """
        yield from self._screen()
        yield from self._confirm()
        yield from self._describe()

    # Screen

    def _screen(self) -> Iterator[WantedStudents]:
        """Score every setting on validation data, nulls and labels of the strongest attacks, then finalists again."""
        yield from self._score(self.arms, "screening settings")
        # One stage, because students of one stage share waves: few together are hardly faster than one.
        labels = self._without_samples() if self.needs_labels else []
        yield from self._score([*self._nulls(), *labels], "screening nulls and the teacher's labels")
        yield from self._score(finalists(self.plan, self.screened, self.scores), "screening finalists", final=True)
        self.chosen = Confirmation.choose(self.plan, self.screened, self.scores)
        if self.plan.criterion == "no-leak":
            # The best setting of an attack may have changed at last. Without its null it could not be judged.
            without = [arm for arm in self.chosen.knockoffs if arm.family not in self.chosen.nulls]
            yield from self._score(self._nulls_of(without), "screening nulls")
            self.chosen = Confirmation.choose(self.plan, self.screened, self.scores)

    def _nulls(self) -> list[Arm]:
        """Return the nulls of every setting of the strongest families, and of the best setting of other attacks."""
        attacks = self._strongest(null_families(self.plan))
        tuned = {arm.family for arm in attacks[: self.plan.null_families]}
        settings = [arm for arm in self.arms if arm.role == "knockoff" and arm.family in tuned]
        return self._nulls_of(dict.fromkeys([*attacks, *settings]))

    def _without_samples(self) -> list[Arm]:
        num_classes = self.teacher.black_box.num_classes
        attacks = self._strongest(label_families(self.plan))
        return [arm for attack in attacks for arm in attack.without_samples(num_classes)]

    def _strongest(self, count: int) -> list[Arm]:
        """Return the best settings of the strongest attacks on validation data."""
        return strongest(Confirmation.choose(self.plan, self.screened, self.scores).knockoffs, self.scores, count)

    def _nulls_of(self, arms: Iterable[Arm]) -> list[Arm]:
        return [null for arm in arms for null in arm.nulls(self.teacher.black_box.num_classes)]

    def _score(self, arms: Sequence[Arm], stage: str, final: bool = False) -> Iterator[WantedStudents]:
        seeds = screening_seeds(self.plan, final)
        runs = tuple((arm, seed) for arm in arms for seed in seeds)
        yield WantedStudents(self.teacher, runs, "validation", stage)
        for arm in arms:
            accuracies = self.students.accuracies(self.teacher, arm, "validation", seeds)
            self.scores[arm] = self.scores.get(arm, []) + accuracies
        self.screened += [arm for arm in arms if not final]

    # Confirm

    def accuracies(self) -> dict[str, list[float]]:
        """Return the test accuracies of each arm's finished students, in the order of seeds."""
        return {name: self.students.accuracies(self.teacher, arm, "test") for name, arm in self.known_arms().items()}

    def known_arms(self) -> dict[str, Arm]:
        """Return the confirming arms and the diagnostic nulls, by name."""
        arms = self.chosen.arms()
        nulls = {arm.family: self.chosen.nulls.get(arm.family) for arm in self.chosen.knockoffs}
        for arm in self.chosen.knockoffs:
            null = nulls[arm.family]
            if null is not None and null.confidence is not None:
                arms |= {diagnostic.name: diagnostic for diagnostic in arm.diagnostics(null.confidence)}
        return arms

    def _confirm(self) -> Iterator[WantedStudents]:
        """Want the students of the next look until the audit is decided or has no look left."""
        arms = self.chosen.arms()
        while True:
            self.decision = decide_under(self.plan, self.chosen, self.plan.criterion, self.accuracies())
            missing_seeds = self.decision.seeds_wanted
            if not missing_seeds:
                return
            look = next(look for look in self.plan.looks if look > self.decision.look)
            runs = [(arms[name], seed) for name, seeds in missing_seeds.items() for seed in range(seeds)]
            runs += self._described(look)  # they are wanted in any case, and share the waves of the look
            is_first = look == self.plan.looks[0]
            yield WantedStudents(self.teacher, tuple(runs), "test", f"confirming, {look} seeds", is_expected=is_first)

    def _described(self, look: int) -> list[tuple[Arm, int]]:
        """Return the students of references that no attack is judged by, at a look.

        The other criteria need references that the primary criterion does not train, with as many seeds as its own.
        """
        references = {arm.name: arm for arm in (*self.chosen.contenders, *self.chosen.without_samples)}.values()
        students = [(arm, seed) for arm in self.chosen.described for seed in range(look)]
        return students + [(arm, seed) for arm in references for seed in range(self.plan.reference_multiple * look)]

    # Describe

    def _describe(self) -> Iterator[WantedStudents]:
        """Want the nulls for the accounting of the strongest attacks, and what a kill left out of the last look."""
        families = {arm.name: arm for arm in self.chosen.knockoffs}
        diagnosed = [families[comparison.attack] for comparison in self.decision.comparisons[: self.plan.diagnosed]]
        nulls = self._nulls_of(arm for arm in diagnosed if arm.family not in self.chosen.nulls)
        yield from self._score(nulls, "screening nulls")
        best_nulls = Confirmation.choose(self.plan, self.screened, self.scores).nulls
        self.chosen = self.chosen.with_nulls(best_nulls)
        runs = self._described(self.decision.look)
        seeds = {comparison.attack: comparison.seeds for comparison in self.decision.comparisons}
        for arm in diagnosed:
            null = self.chosen.nulls.get(arm.family)
            if null is not None and null.confidence is not None:
                null_arms = [null, *arm.diagnostics(null.confidence)]
                runs += [(null_arm, seed) for null_arm in null_arms for seed in range(seeds[arm.name])]
        yield WantedStudents(self.teacher, tuple(runs), "test", "accounting for gains", is_expected=False)

    # Results

    def results(self) -> list[ArmResult]:
        """Return the results of every confirmed or described arm, with the screen of its family."""
        results = []
        predictions = self.teacher.test_predictions.numpy()
        for arm in self.known_arms().values():
            students = self.students.results(self.teacher, arm, "test")
            if not students:
                continue
            results.append(
                ArmResult(
                    name=arm.name,
                    role=arm.role,
                    family=arm.family,
                    setting=repr(arm.attack),
                    teacher=arm.teacher_in_words,
                    validation=self._screen_of(arm),
                    seeds=tuple(student.seed for student in students),
                    accuracies=tuple(self.students.accuracies(self.teacher, arm, "test")),
                    agreement=tuple(float((student.predictions == predictions).mean()) for student in students),
                    diverged=tuple(student.seed for student in students if student.has_diverged),
                    queries=max(student.queries for student in students),
                )
            )
        return results

    def finished(self) -> dict[tuple[str, str, int], StudentResult]:
        """Return every student whose result this audit used, by key of the arm, evaluation set and seed."""
        students: dict[tuple[str, str, int], StudentResult] = {}
        for arm in self.screened:
            for student in self.students.results(self.teacher, arm, "validation", self._seeds_of(arm)):
                students[arm.key(self.teacher.fingerprint), "validation", student.seed] = student
        for arm in self.known_arms().values():
            for student in self.students.results(self.teacher, arm, "test"):
                students[arm.key(self.teacher.fingerprint), "test", student.seed] = student
        return students

    def _seeds_of(self, arm: Arm) -> range:
        """Return the seeds with which a setting was screened."""
        first = screening_seeds(self.plan).start
        return range(first, first + len(self.scores[arm]))

    def _screen_of(self, arm: Arm) -> dict[str, float]:
        """Return the mean validation accuracy of each setting in an arm's family and role."""
        role = "null" if arm.role == "tuned null" else arm.role
        competitors = [rival for rival in self.screened if (rival.family, rival.role) == (arm.family, role)]
        if arm.role == "null":
            competitors = [rival for rival in competitors if rival.attack == arm.attack]
        return {_screened_as(rival, arm.role): float(np.mean(self.scores[rival])) for rival in competitors}


def _screened_as(arm: Arm, role: Role) -> str:
    """Return the words for a setting in the screen of an arm of a role."""
    if arm.confidence is None:
        return repr(arm.attack)
    confidence = f"confidence {arm.confidence:g}"
    return f"{arm.attack!r}, {confidence}" if role == "tuned null" else confidence
