"""The plan: what it refuses, and who goes on to the test data, from scores made by hand."""

import pytest

from hf_cmim.attacks.composition import Composition
from hf_cmim.attacks.dkd import DKD
from hf_cmim.attacks.kd import KD
from hf_cmim.attacks.suites import QUICK_V1, QUICK_V2, STANDARD_V2, Suite, SuiteEntry
from hf_cmim.audit.arms import Arm, references
from hf_cmim.audit.plan import AuditPlan, Confirmation, best_settings, finalists, screening_seeds, strongest
from hf_cmim.report import Attacker
from hf_cmim.statistics import Baselines

DKD_LOW, DKD_HIGH = (Arm("dkd", "knockoff", Composition(DKD(beta=beta)), "teacher") for beta in (2.0, 8.0))
KD_COLD, KD_WARM, KD_HOT = (Arm("kd", "knockoff", Composition(KD(temperature=t)), "teacher") for t in (1.0, 4.0, 9.0))
NULLS = [each.null(confidence) for each in (KD_WARM, DKD_LOW) for confidence in (0.5, 0.9)]
REFERENCES = references()
ARMS = [*REFERENCES, KD_COLD, KD_WARM, KD_HOT, DKD_LOW, DKD_HIGH, *NULLS]
KD_SURE = NULLS[1]


def named(family: str) -> list[Arm]:
    return [arm for arm in REFERENCES if arm.family == family]


def scores(**changes: float) -> dict[Arm, list[float]]:
    """Two seeds of each arm: LS .1, mixup .2 and KD at T = 4 win; the best or last seed alone misleads."""
    found = {arm: [0.5, 0.6] for arm in ARMS}
    found[named("LS")[1]] = [0.58 + changes.get("smoothing", 0), 0.56 + changes.get("smoothing", 0)]
    found[named("mixup")[0]] = [0.62, 0.58]
    found[named("self-distillation")[1]] = [0.59, 0.57]
    found[named("CE")[0]] = [0.55 + changes.get("cross_entropy", 0)] * 2
    found[KD_COLD], found[KD_WARM], found[KD_HOT] = [0.9, 0.3], [0.8, 0.6], [0.6, 0.7]
    found[KD_SURE] = [0.61 + changes.get("null", 0), 0.61 + changes.get("null", 0)]
    return found


# Plan


@pytest.mark.parametrize(("values", "words"), [
    ({"suite": "standard"}, "suite 'standard': it has no attacks. Use one of quick-v2, standard-v2"),
    ({"suite": "standard-v1"}, "'standard-v1' cannot be tried again: .* mended.* Use one of quick-v2, standard-v2"),
    ({"suite": QUICK_V1}, "'quick-v1' cannot be tried again"),
    ({"suite": Suite("quick-v1, 1 of 5 families", QUICK_V1.entries[:1])}, "'quick-v1' cannot be tried again"),
    ({"criterion": "leak"}, "criterion 'leak': no verdict could be given. Use one of paper, .*beyond-labels"),
    ({"margin": 0.0}, r"margin in \(0, 1\).*got 0.0"), ({"margin": 0.5e2}, r"margin in \(0, 1\).*got 50.0"),
    ({"looks": ()}, "looks that increase from 2"), ({"looks": (1, 3)}, "looks that increase from 2"),
    ({"looks": (3, 3)}, "looks that increase from 2"), ({"looks": (5, 3)}, "looks that increase from 2"),
    ({"reference_multiple": 0}, "reference_multiple of at least 1, got 0"),
    ({"screening_seeds": 0}, "screening_seeds of at least 1, got 0"),
    ({"finalists": -1}, "finalists of at least 0, got -1"), ({"final_seeds": -1}, "final_seeds of at least 0, got -1"),
    ({"references": -1}, "references of at least 0, got -1"),
    ({"null_families": -1}, "null_families of at least 0, got -1"),
    ({"diagnosed": -1}, "diagnosed of at least 0, got -1"),
    ({"wave_size": 0}, "wave_size of at least 1, got 0"),
])  # fmt: skip
def test_a_plan_refuses(values, words):
    """Catches a value that would be found out hours later, or never."""
    with pytest.raises(ValueError, match=words):
        AuditPlan(**values)


def test_a_plan_takes_the_smallest_values():
    """Catches a limit that is off by one."""
    smallest = AuditPlan(
        looks=(2,), reference_multiple=1, screening_seeds=1, references=0, null_families=0, diagnosed=0, wave_size=1
    )
    assert smallest.design.looks == (2,)
    assert (AuditPlan().attacks, AuditPlan(suite="quick-v2").attacks) == (STANDARD_V2, QUICK_V2)


def test_looks_waves_and_attackers_alone_may_change():
    """Catches a plan that cannot be continued, and a setting that could change the verdict of finished students."""
    plan = AuditPlan()
    changes = {
        "suite": "quick-v2", "criterion": "paper", "margin": 0.01, "screening_seeds": 3, "reference_multiple": 2,
        "references": 1, "null_families": 5, "diagnosed": 2, "stacked": False, "finalists": 4, "final_seeds": 1,
    }  # fmt: skip
    assert set(changes) | {"looks", "wave_size", "attackers"} == set(AuditPlan.__dataclass_fields__)
    assert AuditPlan(looks=(3, 5), wave_size=2, attackers=(Attacker("own"),)).settings() == plan.settings()
    for name, value in changes.items():
        settings = AuditPlan(**{name: value}).settings()
        assert {each for each in settings if settings[each] != plan.settings()[each]} == {name}


def test_a_suite_of_ones_own_is_known_by_what_is_in_it():
    """Catches two suites of one name taken for the same, and one that is another each time it is built."""
    suites = [Suite("own", (SuiteEntry("kd", Composition(KD(temperature=t))),)) for t in (4.0, 4.0, 3.0)]
    first, again, other = (AuditPlan(suite=suite).settings() for suite in suites)
    assert first == again != other
    assert AuditPlan(suite=suites[0]).attacks is suites[0]


def test_no_student_is_screened_and_confirmed():
    """Catches students chosen on validation data that would be counted again on test data."""
    confirmed = range(max(AuditPlan().looks) * AuditPlan().reference_multiple)
    plan = AuditPlan(screening_seeds=3, final_seeds=2)
    seeds = [*screening_seeds(plan), *screening_seeds(plan, final=True)]
    assert len(set(seeds)) == 5
    assert not set(seeds) & set(confirmed)


# Choice


def test_best_settings_are_those_of_the_highest_mean():
    """Catches a choice by the best seed, by the last, across roles of one family, or by order of arrival."""
    best = best_settings([KD_COLD, KD_HOT, KD_WARM, KD_SURE, NULLS[0], DKD_LOW, DKD_HIGH], scores())
    assert best == [KD_WARM, KD_SURE, DKD_LOW]
    assert best_settings([DKD_HIGH, DKD_LOW], scores()) == [DKD_HIGH], "the first among equals"


def test_the_strongest_come_first():
    """Catches an order from the weakest, and a count that is not kept."""
    ordered = [KD_WARM, KD_HOT, KD_SURE, DKD_LOW]
    assert strongest(reversed(ordered), scores(), 4) == ordered
    assert strongest(ordered, scores(), 2) == ordered[:2]
    assert strongest(ordered, scores(), 0) == []


def test_finalists_are_the_strongest_with_and_without_the_teacher():
    """Catches baselines tried more often than attacks or the other way round, and a diagnostic null among them."""
    diagnostics = KD_WARM.diagnostics(0.5)
    known = scores() | {arm: [0.99, 0.99] for arm in diagnostics}
    found = finalists(AuditPlan(finalists=2), [*ARMS, *diagnostics], known)
    assert found == [KD_WARM, KD_HOT, KD_SURE, named("mixup")[0]]
    assert finalists(AuditPlan(finalists=0), ARMS, known) == []
    assert len(finalists(AuditPlan(finalists=99), ARMS, known)) == len(ARMS)


def test_finalists_are_measured_against_each_other():
    """Catches a lucky setting of few seeds that wins because those that were better then were tried again."""
    known = scores()
    known[KD_WARM] += [0.5, 0.5, 0.5, 0.5]
    known[KD_HOT] += [0.6, 0.6, 0.6, 0.6]
    known[KD_SURE] += [0.4] * 4
    known[named("mixup")[0]] += [0.45] * 4
    assert best_settings([KD_COLD, KD_HOT, KD_WARM], known) == [KD_HOT]
    found = Confirmation.choose(AuditPlan(references=1), ARMS, known)
    assert found.knockoffs == (KD_HOT, DKD_LOW)
    assert [arm.name for arm in found.contenders] == ["mixup", "LS"]


def chosen(plan: AuditPlan, **changes: float) -> Confirmation:
    return Confirmation.choose(plan, ARMS, scores(**changes))


def test_the_contenders_are_the_best_and_label_smoothing():
    """Catches a baseline that left out label smoothing or the nulls, or named a weaker arm as the strongest."""
    found = chosen(AuditPlan(references=2))
    assert found.knockoffs == (KD_WARM, DKD_LOW)
    assert found.nulls == {"kd": KD_SURE, "dkd": NULLS[2]}
    assert [arm.name for arm in found.contenders] == ["label null of kd", "mixup", "LS"]
    assert found.contenders[2].attack.loss.smoothing == 0.1
    assert found.contenders[1].attack.query_protocol.alpha == 0.2
    assert [arm.name for arm in found.described] == ["CE"]
    none = chosen(AuditPlan(references=0))
    assert [arm.name for arm in none.contenders] == ["LS"]


def test_label_smoothing_stands_where_its_score_puts_it():
    """Catches label smoothing always first or always last, and one that takes another's place."""
    assert [arm.name for arm in chosen(AuditPlan(references=1), smoothing=0.2).contenders] == [
        "LS",
        "label null of kd",
    ]
    assert [arm.name for arm in chosen(AuditPlan(references=2), null=-0.02).contenders] == [
        "mixup", "label null of kd", "LS",
    ]  # fmt: skip


def test_cross_entropy_is_described_once():
    """Catches the cross-entropy student trained twice where it is a contender, or never where it is not."""
    found = chosen(AuditPlan(references=1), cross_entropy=0.3)
    assert [arm.name for arm in found.contenders] == ["CE", "LS"]
    assert found.described == ()
    assert list(found.arms()) == ["kd", "dkd", "CE", "LS", "label null of kd", "label null of dkd"]
    assert list(chosen(AuditPlan(references=0)).arms()) == [
        "kd", "dkd", "LS", "label null of kd", "label null of dkd", "CE",
    ]  # fmt: skip


def test_each_criterion_has_its_baselines():
    """Catches a criterion that measures against another's question; no-leak is against the own null alone."""
    found = chosen(AuditPlan(references=2))
    teacher_free = found.baselines("teacher-free")
    assert list(teacher_free) == ["kd", "dkd"]
    for each in teacher_free.values():
        assert (each.chosen, each.every) == ("label null of kd", ("label null of kd", "mixup", "LS"))
    assert {name: (each.chosen, each.every) for name, each in found.baselines("paper").items()} == {
        "kd": ("LS", ("LS",)), "dkd": ("LS", ("LS",)),
    }  # fmt: skip
    assert {name: (each.chosen, each.every) for name, each in found.baselines("no-leak").items()} == {
        "kd": ("label null of kd", ("label null of kd",)), "dkd": ("label null of dkd", ("label null of dkd",)),
    }  # fmt: skip


def test_beyond_labels_adds_the_best_of_labels_and_of_class_answers():
    """Catches references that replace those without the teacher, a choice by the first setting, and two of a kind."""
    labels = {arm: [0.5, 0.5] for knockoff in (KD_WARM, DKD_LOW) for arm in knockoff.without_samples(10)}
    of_kd = [arm for arm in labels if (arm.family, arm.role) == ("kd", "labels")]
    of_dkd = next(arm for arm in labels if (arm.family, arm.role) == ("dkd", "class answers"))
    labels |= {of_kd[2]: [0.6, 0.66], of_kd[3]: [0.5, 0.7], of_dkd: [0.59, 0.59]}
    found = Confirmation.choose(AuditPlan(references=1), [*ARMS, *labels], scores() | labels)
    expected = ("teacher's labels with kd", "label null of kd", "class answers with dkd", "LS")
    assert found.baselines("beyond-labels") == dict.fromkeys(("kd", "dkd"), Baselines(expected[0], expected))
    assert [arm.confidence for arm in found.without_samples] == [of_kd[2].confidence, None]
    assert found.baselines("teacher-free")["kd"].every == ("label null of kd", "LS")
    assert set(expected) < set(found.arms())
    assert chosen(AuditPlan()).baselines("beyond-labels") == {}, "without such students there is nothing to beat"


def test_without_its_null_a_knockoff_has_no_leak_to_judge():
    """Catches a knockoff that is judged against another family's null."""
    without = Confirmation.choose(AuditPlan(), [arm for arm in ARMS if arm not in NULLS[2:]], scores())
    assert list(without.baselines("no-leak")) == ["kd"]
    assert list(without.baselines("teacher-free")) == ["kd", "dkd"]


def test_a_null_that_is_better_with_another_setting_competes_under_a_name_of_its_own():
    """Catches a reference that was tried with the attack's setting alone, and one that takes the own null's place."""
    colder = KD_COLD.null(0.3)
    arms, known = [*ARMS, colder], scores() | {colder: [0.7, 0.7]}
    found = Confirmation.choose(AuditPlan(references=2), arms, known)
    assert found.nulls == {"kd": KD_SURE, "dkd": NULLS[2]}
    assert [arm.name for arm in found.contenders] == ["tuned label null of kd", "mixup", "LS"]
    tuned = found.contenders[0]
    assert (tuned.attack, tuned.confidence, tuned.key("")) == (KD_COLD.attack, 0.3, colder.key(""))
    assert found.baselines("no-leak")["kd"] == Baselines("label null of kd", ("label null of kd",))
    labels = {arm: [0.5, 0.5] for arm in KD_WARM.without_samples(10)}
    found = Confirmation.choose(AuditPlan(references=1), [*arms, *labels], known | labels)
    assert found.baselines("beyond-labels")["dkd"].chosen == "tuned label null of kd"
    assert {"tuned label null of kd", "label null of kd"} < set(found.arms())


def test_more_nulls_leave_those_there_as_they_are():
    """Catches a null that is exchanged after its students were looked at on the test data."""
    kept = chosen(AuditPlan()).with_nulls({"kd": NULLS[0], "other": NULLS[3]})
    assert kept.nulls == {"kd": KD_SURE, "dkd": NULLS[2], "other": NULLS[3]}
