"""The audit of one teacher: screen every setting, confirm the best, account for the strongest."""

from collections.abc import Iterable, Sequence
from typing import final

import numpy as np

from hf_cmim.audit.arms import Arm, knockoffs, references
from hf_cmim.audit.findings import decide_under
from hf_cmim.audit.plan import AuditPlan, Confirmation, finalists, screening_seeds, strongest
from hf_cmim.audit.pooled import StudentResult
from hf_cmim.audit.subject import Subject
from hf_cmim.audit.training import Trainees
from hf_cmim.report import ArmResult
from hf_cmim.statistics import Decision


@final
class TeacherAudit:
    """Decides, step by step, which students of one teacher to train, and what they say.

    Args:
        subject: the teacher.
        plan: what to do.
        trainees: trains what is asked for.

    Attributes:
        screened: every setting tried on validation data, in order.
        scores: their validation accuracies.
        chosen: what went on.
        decision: the last one under the primary criterion.
        skipped: families that this teacher or student does not allow, with the reason.
    """

    def __init__(self, subject: Subject, plan: AuditPlan, trainees: Trainees) -> None:
        self.subject = subject
        self.plan = plan
        self.trainees = trainees
        self.screened: list[Arm] = []
        self.scores: dict[Arm, list[float]] = {}
        self.chosen: Confirmation
        self.decision: Decision
        every = [*references(), *knockoffs(plan.attacks.entries, subject.answers)]
        obstacles = [self._obstacle(arm) for arm in every]
        self.arms = [arm for arm, why in zip(every, obstacles, strict=True) if not why]
        possible = {arm.family for arm in self.arms}
        left_out = {arm.family: why for arm, why in zip(every, obstacles, strict=True) if arm.family not in possible}
        self.skipped = [f"{family} ({why})" for family, why in left_out.items()]

    def _obstacle(self, arm: Arm) -> str:
        """Return why a setting cannot be tried, or nothing."""
        if arm.answering == "teacher" and arm.attack.needs_every_class and self.subject.teacher.hides_classes:
            return "the teacher hides classes"
        return self.trainees.obstacle(arm)

    def run(self) -> None:
        """Screen, confirm, describe."""
        self.screen()
        self.confirm()
        self.describe()

    # Screen

    def screen(self) -> None:
        """Try every setting on validation data, the nulls of the strongest attacks, then the best of all once more."""
        self._score(self.arms, "screening settings")
        self._score(self._nulls(), "screening nulls")
        self._score(finalists(self.plan, self.screened, self.scores), "screening finalists", final=True)
        self.chosen = Confirmation.choose(self.plan, self.screened, self.scores)

    def _nulls(self) -> list[Arm]:
        best = Confirmation.choose(self.plan, self.screened, self.scores).knockoffs
        count = len(best) if self.plan.criterion == "no-leak" else self.plan.null_families
        return self._nulls_of(strongest(best, self.scores, count))

    def _nulls_of(self, arms: Iterable[Arm]) -> list[Arm]:
        return [null for arm in arms for null in arm.nulls(self.subject.teacher.num_classes)]

    def _score(self, arms: Sequence[Arm], what: str, final: bool = False) -> None:
        seeds = screening_seeds(self.plan, final)
        self.trainees.train(self.subject, [(arm, seed) for arm in arms for seed in seeds], "validation", what)
        for arm in arms:
            found = self.trainees.accuracies(self.subject, arm, "validation", seeds)
            self.scores[arm] = self.scores.get(arm, []) + found
        self.screened += [arm for arm in arms if not final]

    # Confirm

    def accuracies(self) -> dict[str, list[float]]:
        """Return the test accuracies of every arm's finished students, in the order of their seeds."""
        return {name: self.trainees.accuracies(self.subject, arm, "test") for name, arm in self.known_arms().items()}

    def known_arms(self) -> dict[str, Arm]:
        """Return the confirming arms and the diagnostic nulls, by name."""
        arms = self.chosen.arms()
        nulls = {arm.family: self.chosen.nulls.get(arm.family) for arm in self.chosen.knockoffs}
        for arm in self.chosen.knockoffs:
            null = nulls[arm.family]
            if null is not None and null.confidence is not None:
                arms |= {each.name: each for each in arm.diagnostics(null.confidence)}
        return arms

    def confirm(self) -> None:
        """Train what the next look needs until the audit is decided or at its cap."""
        arms = self.chosen.arms()
        while True:
            self.decision = decide_under(self.plan, self.chosen, self.plan.criterion, self.accuracies())
            wanted = self.decision.seeds_wanted
            if not wanted:
                return
            look = next(look for look in self.plan.looks if look > self.decision.look)
            runs = [(arms[name], seed) for name, seeds in wanted.items() for seed in range(seeds)]
            is_first = look == self.plan.looks[0]
            self.trainees.train(self.subject, runs, "test", f"confirming, {look} seeds", is_expected=is_first)

    # Describe

    def describe(self) -> None:
        """Train what the accounting of the strongest attacks needs, and the cross-entropy student."""
        families = {arm.name: arm for arm in self.chosen.knockoffs}
        named = [families[each.attack] for each in self.decision.comparisons[: self.plan.diagnosed]]
        self._score(self._nulls_of(arm for arm in named if arm.family not in self.chosen.nulls), "screening nulls")
        best = {arm.family: arm for arm in Confirmation.choose(self.plan, self.screened, self.scores).nulls.values()}
        self.chosen = self.chosen.with_nulls(best)
        # The other criteria are described by what the primary one left untrained.
        described = {arm.name: arm for arm in (*self.chosen.described, *self.chosen.contenders)}.values()
        runs = [(arm, seed) for arm in described for seed in range(self.decision.look)]
        seeds = {each.attack: each.seeds for each in self.decision.comparisons}
        for arm in named:
            null = self.chosen.nulls.get(arm.family)
            if null is not None and null.confidence is not None:
                every = [null, *arm.diagnostics(null.confidence)]
                runs += [(each, seed) for each in every for seed in range(seeds[arm.name])]
        self.trainees.train(self.subject, runs, "test", "accounting for gains", is_expected=False)

    # Results

    def results(self) -> list[ArmResult]:
        """Return every arm that was confirmed or described, with what its family's screen found."""
        found = []
        predictions = self.subject.test_predictions.numpy()
        for arm in self.known_arms().values():
            students = self.trainees.results(self.subject, arm, "test")
            if not students:
                continue
            found.append(
                ArmResult(
                    name=arm.name,
                    role=arm.role,
                    family=arm.family,
                    setting=repr(arm.attack),
                    teacher=arm.teacher_in_words,
                    validation=self._screen_of(arm),
                    seeds=tuple(student.seed for student in students),
                    accuracies=tuple(self.trainees.accuracies(self.subject, arm, "test")),
                    agreement=tuple(float((student.predictions == predictions).mean()) for student in students),
                    diverged=tuple(student.seed for student in students if student.has_diverged),
                )
            )
        return found

    def finished(self) -> dict[tuple[str, str, int], StudentResult]:
        """Return every student that this audit looked at, by arm, evaluation set and seed."""
        looked_at = [(arm, "validation", self.trainees.results(self.subject, arm, "validation", self._seeds_of(arm)))
                     for arm in self.screened]  # fmt: skip
        looked_at += [(arm, "test", self.trainees.results(self.subject, arm, "test"))
                      for arm in self.known_arms().values()]  # fmt: skip
        return {
            (arm.key(self.subject.fingerprint), data, each.seed): each
            for arm, data, found in looked_at
            for each in found
        }

    def _seeds_of(self, arm: Arm) -> range:
        """Return the seeds with which a setting was screened."""
        first = screening_seeds(self.plan).start
        return range(first, first + len(self.scores[arm]))

    def _screen_of(self, arm: Arm) -> dict[str, float]:
        """Return the mean validation accuracy of each setting that an arm competed with."""
        rivals = [each for each in self.screened if (each.family, each.role) == (arm.family, arm.role)]
        names = [f"confidence {each.confidence:g}" if each.confidence else repr(each.attack) for each in rivals]
        return {name: float(np.mean(self.scores[each])) for name, each in zip(names, rivals, strict=True)}
