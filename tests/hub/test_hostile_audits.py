"""Audits that lie, behind a right digest: each with what verification says of it."""

import copy
import json
from dataclasses import replace

import pytest
import scipy.stats
from hub.certified import NAMES, genuine_audit, save_model
from pages.reports import FAMILIES

from hf_cmim.attacks.suites import QUICK_V1
from hf_cmim.errors import HfCmimError
from hf_cmim.hub.verified_audit import audit_faults
from hf_cmim.hub.verified_figures import suite_words
from hf_cmim.report import AuditReport, Interval
from hf_cmim.statistics import Design


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """Plain values of an audit that holds."""
    audit = genuine_audit(save_model(tmp_path_factory.mktemp("honest") / "model"))
    return json.loads(audit.to_json())


def faults(values):
    try:
        yield from audit_faults(AuditReport.from_plain(values), NAMES)
    except HfCmimError as error:
        yield str(error)


def arm_of(values, name):
    return next(arm for arm in values["arms"] if arm["name"] == name)


def lie(path, value):
    """Write a value at a path; a name in a list of arms counts as the arm."""

    def change(values):
        inner = values
        for key in path[:-1]:
            inner = arm_of(values, key) if inner is values["arms"] and isinstance(key, str) else inner[key]
        inner[path[-1]] = value(inner[path[-1]]) if callable(value) else value

    return change


def without_arm(name):
    def change(values):
        values["arms"] = [arm for arm in values["arms"] if arm["name"] != name]
        for criterion in values["criteria"]:
            criterion["baselines"].pop(name, None)
            criterion["comparisons"] = [each for each in criterion["comparisons"] if each["attack"] != name]

    return change


def diverged_with(accuracy):
    def change(values):
        arm = arm_of(values, "kd")
        arm["diverged"], arm["accuracies"][0] = [0], accuracy

    return change


def against(*names):
    def change(values):
        for baselines in values["criteria"][0]["baselines"].values():
            baselines.update(chosen=names[0], every=list(names))

    return change


def without_reference(name):
    def change(values):
        for baselines in values["criteria"][3]["baselines"].values():
            baselines["every"] = [each for each in baselines["every"] if each != name]

    return change


def without_power(values):
    values["controls"] = values["controls"][1:]


def no_checks(values):
    values["power"], values["twin"], values["controls"], values["checks"] = None, None, [], []


def twice(values):
    values["arms"].append(copy.deepcopy(values["arms"][0]))


def many_arms(values):
    values["arms"] = [{**values["arms"][0], "name": f"LS {number}"} for number in range(4000)]


def margin(value):
    def change(values):
        values["design"]["margin"] = values["reproduction"]["plan"]["margin"] = value

    return change


def described(*changes):
    """Give a control the model's own leak under the criterion `paper`, once for each of these changes."""

    def change(values):
        result = next(result for result in values["criteria"] if result["criterion"] == "paper")
        names = ("criterion", "verdict", "smallest_margin")
        leak = {name: result[name] for name in names} | {"largest_gain": result["comparisons"][0]}
        values["controls"][1]["described"] = [leak | change for change in changes]

    return change


def tuned(**changes):
    """Add a null of kd with the screen of its settings, after some changes."""

    def change(values):
        null = copy.deepcopy(arm_of(values, "label null of kd"))
        screened = {f"{null['setting']}, {words}": mean for words, mean in null["validation"].items()}
        null |= {"role": "tuned null", "name": "tuned label null of kd", "validation": screened}
        null |= {name: new(null) for name, new in changes.items()}
        values["arms"].append(null)

    return change


def another_setting(null):
    return {
        text.replace("temperature", "kd_weight=2.0, temperature"): mean for text, mean in null["validation"].items()
    }


ARMS, FIRST = "arms", ("criteria", 0)
LIES = [
    # what was tried
    (without_arm("kd"), "quick-v2 includes 'kd', which works with every teacher and student: it is missing"),
    (without_arm("dkd"), "quick-v2 includes 'dkd'"),
    (without_arm("dist"), "quick-v2 includes 'dist'"),
    (without_arm("markov-kd"), "quick-v2 includes 'markov-kd'"),
    (without_arm("logit-standardization"), "quick-v2 includes 'logit-standardization'"),
    (lie(["scope", "suite"], "standard-v2"), "standard-v2 includes 'label-only'"),
    (lie(["scope", "suite"], "quick-v2, 5 of 5 families"), "its suite is called 'quick-v2, 5 of 5 families'"),
    (lie(["scope", "suite"], "standard-v2, 6 of 32 families"), "attacks are those of 'standard-v2, 5 of 32 families'"),
    (lie([ARMS, "kd", "role"], "diagnostic"), "the answers for a diagnostic cannot come from 'the teacher'"),
    (lie([ARMS, "kd", "role"], "reference"), "the answers for a reference cannot come from 'the teacher'"),
    (lie([ARMS, "kd", "role"], "null"), "the answers for a null cannot come from 'the teacher'"),
    (lie([ARMS, "kd", "role"], "attack"), "'knockoff' or 'reference'"),
    (lie([ARMS, "kd", "family"], "dist"), "a knockoff of the family 'dist' is called 'dist'"),
    (lie([ARMS, "kd", "family"], "mine"), "quick-v2 has no family 'mine'"),
    (lie([ARMS, "kd", "teacher"], "nobody"), "the answers for a knockoff cannot come from 'nobody'"),
    (lie([ARMS, "LS", "teacher"], "the teacher"), "the answers for a reference cannot come from 'the teacher'"),
    (lie([ARMS, "label null of kd", "teacher"], "the true label, 0.95"), "the answers for a null cannot come from"),
    (lie([ARMS, "label null of kd", "validation"], {}), "its confidences are not those of a label-only null"),
    (
        tuned(validation=lambda null: dict([*null["validation"].items()][1:])),
        "settings were not all tried with the con",
    ),
    (tuned(validation=lambda null: {}), "'tuned label null of kd': the chosen setting was not screened"),
    (tuned(validation=another_setting), "'tuned label null of kd': the chosen setting was not screened"),
    (tuned(setting=lambda null: "nothing"), "'tuned label null of kd': the chosen setting was not screened"),
    (tuned(teacher=lambda null: "the teacher"), "the answers for a tuned null cannot come from 'the teacher'"),
    (tuned(name=lambda null: "label null of dist"), "is called 'tuned label null of kd'"),
    (lie([ARMS, "kd", "setting"], "Composition(KD(temperature=900.0))"), "the chosen setting was not screened"),
    (lie([ARMS, "label null of kd", "setting"], "nothing"), "its setting is none of the suite's settings"),
    (
        lie([ARMS, "LS", "validation"], lambda old: {**old, "mine": 0.5}),
        "a screened setting is none of",
    ),
    (
        lie([ARMS, "LS", "validation"], lambda old: dict([*old.items()][:2])),
        "setting of the family was not screened",
    ),
    (lie([ARMS, "LS", "family"], "my reference"), "no audit trains a reference of the family 'my reference'"),
    (lie([ARMS, "LS", "name"], "CE"), "two arms are called 'CE'"),
    (twice, "two arms are called 'LS'"),
    (many_arms, "it has 4,000 arms and 60,000 students: more than any audit"),
    # students
    (lie([ARMS, "kd", "seeds"], lambda old: old[::-1]), "its seeds are not 0 to 14 in order"),
    (lie([ARMS, "kd", "seeds", 3], 200), "its seeds are not 0 to 14 in order"),
    (lie([ARMS, "kd", "seeds"], lambda old: old[:-1]), "it has 15 accuracies for 14 seeds"),
    (lie([ARMS, "kd", "accuracies"], []), "it has 0 accuracies for 15 seeds"),
    (lie([ARMS, "kd", "accuracies", 0], 0.91234567), "which is no whole number of 45000 test samples"),
    (lie([ARMS, "kd", "accuracies", 0], 1.2), "has an accuracy of 1.2"),
    (lie([ARMS, "kd", "accuracies", 0], -0.2), "has an accuracy of -0.2"),
    (lie([ARMS, "kd", "accuracies"], lambda old: [each - 900 / 45000 for each in old]), "the bounds of"),
    (lie([ARMS, "LS", "accuracies"], lambda old: [each + 90 / 45000 for each in old]), "the bounds of"),
    (lie([ARMS, "kd", "agreement"], lambda old: old[:3]), "it has 3 agreements with the teacher for 15 seeds"),
    (lie([ARMS, "kd", "agreement", 0], 1.0), "agrees with the teacher more or less often than their accuracies allow"),
    (lie([ARMS, "kd", "agreement", 0], 0.3), "agrees with the teacher more or less often than their accuracies allow"),
    (lie([ARMS, "kd", "diverged"], [99]), "a student is listed as diverged that does not exist"),
    (diverged_with(0.9), "student 0 diverged, but its accuracy is 0.9 instead of 1 / C"),
    (diverged_with(1 / 3), "its figures require the check 'diverged' (warning)"),
    (lie([ARMS, "LS", "accuracies", 0], "0.9"), "as report.arms["),
    (lie([ARMS, "LS", "accuracies", 0], 2**70), "as report.arms["),
    (lie([ARMS, "LS", "accuracies", 0], True), "as report.arms["),
    # what attacks are measured against
    (against("dist"), "cannot be recomputed"),
    (against("centroid null of kd"), "with centroid null of kd, which learn from the teacher"),
    (against("LS", "CE", "argmax null of kd"), "with argmax null of kd, which learn from the teacher"),
    (against("CE", "teacher-free KD"), "label smoothing is missing from the references"),
    (against("LS"), "there are 1 references, the plan says 3"),
    (against("LS", "CE", "teacher-free KD", "label null of kd"), "there are 4 references, the plan says 3"),
    (lie([*FIRST, "baselines", "kd", "chosen"], "CE"), "knockoffs are compared with different references"),
    (lie([*FIRST, "baselines"], {}), "5 knockoffs are not compared"),
    (
        lie(["criteria", 1, "baselines", "kd"], {"chosen": "CE", "every": ["CE"]}),
        "reference is not label smoothing",
    ),
    (lie(["criteria", 2, "baselines"], {}), "the label-only nulls of their own losses"),
    (lie(["criteria", 3, "baselines"], {}), "under 'beyond-labels' 5 knockoffs are not compared"),
    (without_reference("class answers with kd"), "the teacher's labels or its class answers are no reference"),
    (without_reference("teacher's labels with kd"), "the teacher's labels or its class answers are no reference"),
    (without_reference("CE"), "under 'beyond-labels' references of 'teacher-free' are missing"),
    (
        lie([ARMS, "class answers with kd", "role"], "diagnostic"),
        "the answers for a diagnostic cannot come from 'one answer",
    ),
    (
        lie([ARMS, "teacher's labels with kd", "teacher"], "the true label, 0.7"),
        "the answers for a labels cannot come from",
    ),
    (lie([ARMS, "teacher's labels with kd", "validation"], {}), "its confidences are not those of"),
    (without_arm("class answers with kd"), "not one arm of the teacher's labels and one of its class answers"),
    (lie(["label_floor"], None), "it does not tell what labels or class answers give away"),
    (lie(["label_floor", "gain", "estimate"], -0.5), "what the teacher's labels give away does not follow"),
    (lie(["label_floor", "reference"], "CE"), "what the teacher's labels give away does not follow"),
    (lie(["label_floor", "labels"], "label null of kd"), "what the teacher's labels give away does not follow"),
    (lie(["class_answers"], None), "it does not tell what labels or class answers give away"),
    (lie(["class_answers", "beyond", "upper"], 0.0), "what class answers give away does not follow"),
    (lie(["class_answers", "gain", "lower"], 0.0), "what class answers give away does not follow"),
    (lie(["class_answers", "attack"], "LS"), "what class answers give away does not follow"),
    (lie(["criteria"], lambda old: old[:1]), "each of its 4 criteria once, the primary one first"),
    (lie(["criteria"], lambda old: old[::-1]), "each of its 4 criteria once, the primary one first"),
    (lie(["criteria", 1, "primary"], True), "each of its 4 criteria once, the primary one first"),
    (lie([*FIRST, "primary"], False), "each of its 4 criteria once, the primary one first"),
    (lie(["criteria", 1, "criterion"], "no-leak"), "each of its 4 criteria once, the primary one first"),
    (lie(["reference"], "CE"), "the report calls its reference 'CE', but its criteria use 'LS'"),
    # verdicts
    (lie([*FIRST, "verdict"], "distillable"), "the results say 'undistillable within the margin'"),
    (lie([*FIRST, "verdict"], "inconclusive"), "the certificate says 'inconclusive'"),
    (lie([*FIRST, "verdict"], "perfect"), "'perfect'"),
    (lie([*FIRST, "smallest_margin"], 0.0), "the smallest margin is"),
    (lie([*FIRST, "comparisons", 0, "gain"], -0.02), "the bounds of"),
    (lie([*FIRST, "comparisons", 0, "lower"], -0.5), "the bounds of"),
    (lie([*FIRST, "comparisons", 0, "upper"], -0.5), "the bounds of"),
    (lie([*FIRST, "comparisons", 0, "seeds"], 40), "the bounds of"),
    (lie([*FIRST, "comparisons"], []), "the bounds of"),
    (lie([*FIRST, "comparisons"], lambda old: old[::-1]), "the attacks are not sorted by gain"),
    (lie([*FIRST, "comparisons"], lambda old: [*old, old[0]]), "the attacks are not sorted by gain"),
    (lie(["looks"], [3, 5]), "it lists looks at [3, 5] seeds"),
    # design
    (lie(["design", "error_rate"], 0.4999999), "its error rate is 0.5, audits use 0.05"),
    (lie(["design", "error_rate"], 0.06), "its error rate is 0.06"),
    (lie(["design", "error_rate"], 0.7), "error_rate in (0, 0.5)"),
    (lie(["design", "looks"], [5, 3]), "looks that increase"),
    (lie(["design", "looks"], [1]), "looks that increase"),
    (lie(["design", "looks"], [2, 15]), "its plan says looks"),
    (lie(["design", "reference_multiple"], 1), "its plan says reference_multiple"),
    (margin(0.5), "its margin is 50 points, but a verdict of protection needs a margin of at most 5 points"),
    (margin(0.06), "its margin is 6 points"),
    (lie(["design", "margin"], 0.02), "its plan says margin"),
    (margin(0.00001), "its figures require the check 'margin too fine' (fatal)"),
    (lie(["reproduction", "plan"], {}), "its plan says criterion = 'None'"),
    (lie(["reproduction", "plan"], [1]), "its plan says"),
    (lie(["reproduction", "plan", "suite"], "quick-v2, 3 settings, 012345678901"), "its plan says suite"),
    # the control
    (lie(["power"], None), "it claims power = None, its control says True"),
    (lie(["power"], False), "it claims power = False, its control says True"),
    (without_power, "it claims power = True, its control says None"),
    (lie(["controls", 0, "verdict"], "undistillable within the margin"), "its control says False"),
    (lie(["controls", 0, "name"], "other"), "it claims power = True, its control says None"),
    (lie(["controls", 0, "smallest_margin"], 0.001), "no attack on it reaches the margin"),
    (lie(["controls", 0, "largest_gain"], None), "no attack on it reaches the margin"),
    (lie(["controls", 0, "largest_gain", "lower"], 0.9), "a largest gain outside its bounds"),
    (
        lie(["controls", 0, "checks"], [{"name": "x", "severity": "fatal", "sentence": "y"}]),
        "a fatal check voids it",
    ),
    (lie(["controls", 1, "smallest_margin"], 0.4), "but a smallest margin of 0.4"),
    (lie(["controls", 0, "differences", 0, "attack"], "mine"), "an impossible difference"),
    (lie(["controls", 0, "differences", 0, "seeds"], 1), "an impossible difference"),
    (lie(["controls", 0, "facts", "accuracy"], 0.5), "the twin is not the model that its control audited"),
    (lie(["twin"], None), "the twin is not the model that its control audited"),
    (lie(["teacher", "channel"], "Argmax()"), "the model answered through the channel Argmax(), so its figures"),
    (lie(["twin", "channel"], "Argmax()"), "its twin answered through the channel Argmax(), so its figures"),
    (described({}, {}), "two results under one criterion"),
    (described({"criterion": "teacher-free"}), "two results under one criterion"),
    (described({"smallest_margin": 0.9}), "under 'paper', has the verdict 'undistillable within the margin', but a"),
    (described({"verdict": "distillable"}), "under 'paper', has the verdict 'distillable', but no attack on it"),
    (described({"smallest_margin": 0.0}), "under 'paper', has a largest gain with an upper bound above"),
    (lie(["arms", 0, "queries"], 20_001), "paid for no number of answers from 0 to 20000"),
    (lie(["controls", 1, "queries"], -1), "paid for no number of answers from 0 to 20000"),
    # checks and figures
    (no_checks, "its figures require the check 'no control teacher' (warning)"),
    (lie(["teacher", "accuracy"], 15_300 / 45_000), "the check 'teacher knows nothing' (fatal)"),
    (lie(["teacher", "accuracy"], 40_500 / 45_000), "the check 'teacher worse than student' (warning)"),
    (lie(["teacher", "accuracy"], 0.930001), "an accuracy that is no whole number of 45000 test samples"),
    (lie(["teacher", "top5_accuracy"], 0.5), "an impossible top-5 accuracy"),
    (lie(["teacher", "ece"], 1.5), "an impossible calibration"),
    (lie(["teacher", "nll"], -1.0), "an impossible calibration"),
    (lie(["teacher", "curve", 0, 0], 0.0), "a CMI curve with temperatures that do not increase"),
    (lie(["teacher", "curve", 0, 1], 9.0), "a CMI outside the possible range, 0 to log C"),
    (lie(["teacher", "curve", 0, 1], -0.1), "a CMI outside the possible range, 0 to log C"),
    (lie(["teacher", "within_total_ratio"], -1.0), "a negative ratio of scatter within"),
    (lie(["teacher", "membership_auc"], {"estimate": 0.5, "lower": 0.6, "upper": 0.7}), "an impossible membership"),
    (lie(["teacher", "membership_auc"], {"estimate": 0.5, "lower": 0.4, "upper": 1.1}), "an impossible membership"),
    (lie(["teacher", "fingerprint"], "mine"), "no valid fingerprint of its weights"),
    (lie(["teacher", "labels_fingerprint"], ""), "no valid fingerprint of its weights or of its labels"),
    (lie(["scope", "num_classes"], 10), "it has 10 classes, the model has 3"),
    (lie(["scope", "num_test"], 450), "which is no whole number of 450 test samples"),
    (lie(["scope", "num_test"], 0), "it has no samples"),
    (lie(["scope", "num_validation"], 0), "it has no samples"),
    (lie(["sittings"], 0), "its number of sittings is 0"),
    (lie(["date"], "yesterday"), "its date 'yesterday' is not written as YYYY-MM-DD"),
    (lie(["costs", "students"], 3), "it reports 3 students"),
    (lie(["costs", "student_steps"], 3), "412 students and 3 steps"),
    (lie(["costs", "queries_asked"], 3), "its costs are impossible: 3 queries asked"),
    (lie(["costs", "seconds"], -1.0), "its costs are impossible"),
    (lie(["schema"], 2), "an audit report of schema 1, got 2"),
    (lie(["arms"], {}), "as report.arms"),
]


@pytest.mark.parametrize(("change", "said"), LIES, ids=[said[:60] for _, said in LIES])
def test_an_audit_that_lies_is_noticed(honest, change, said):
    """Catches a verdict that only the certificate gives."""
    values = copy.deepcopy(honest)
    change(values)
    assert any(said in fault for fault in faults(values)), list(faults(values))


def test_a_control_may_have_a_channel_and_other_criteria(honest):
    """Catches a comparison of defences that cannot be certified beside the model."""
    values = copy.deepcopy(honest)
    described({})(values)
    values["controls"][1] |= {"facts": values["teacher"] | {"channel": "Argmax()"}, "queries": 20_000}
    assert list(faults(values)) == []


def with_attacker(values, origin="own", **changes):
    """The same audit with a second attacker, whose report has these changes."""
    other = copy.deepcopy(values)
    other["scope"]["attacker"] = {"origin": origin, "share": 1.0}
    for name, value in changes.items():
        other[name] = value(other[name])
    values["other_attackers"] = [*values["other_attackers"], other]


def test_the_report_of_each_attacker_is_checked(honest):
    """Catches a second attacker whose verdict, model or number of attacks is made up."""
    values = copy.deepcopy(honest)
    with_attacker(values)
    assert list(faults(values)) == []
    values["other_attackers"][0]["criteria"][0]["verdict"] = "distillable"
    assert any(fault.startswith("attacker 'own': under 'teacher-free' the results say") for fault in faults(values))
    for changes, said in (
        (
            {"teacher": lambda old: {**old, "accuracy": 40_500 / 45_000}},
            "attacker 'own': it is not about the same model",
        ),
        ({"design": lambda old: {**old, "margin": 0.02}}, "attacker 'own': it is not about the same model"),
        ({"origin": "unknown"}, "it has 2 attackers: two of one name"),
        ({"origin": "own-unlabelled"}, "attacker 'own-unlabelled': it does not have each of its 1 criteria once"),
    ):
        values = copy.deepcopy(honest)
        with_attacker(values, **changes)
        assert any(said in fault for fault in faults(values)), list(faults(values))


def test_an_honest_audit_holds(honest):
    """Catches rules that refuse everything."""
    assert list(faults(honest)) == []


def test_a_difference_of_two_seeds_may_have_bounds_beyond_one(honest):
    """Catches an honest short audit refused: a t interval of two seeds is 12.7 standard errors wide to each side."""
    values = copy.deepcopy(honest)
    difference = values["controls"][0]["differences"][0]
    lower, upper = scipy.stats.t.interval(0.95, 1, loc=0.1, scale=0.1)
    assert lower < -1 < 1 < upper
    difference["seeds"], difference["difference"] = 2, {"estimate": 0.1, "lower": lower, "upper": upper}
    assert list(faults(values)) == []


def test_an_accounting_that_its_arms_do_not_give_is_noticed(honest):
    """Catches gains said to come from anywhere."""
    audit = AuditReport.from_plain(honest)
    part = Interval(0.1, 0.0, 0.2)
    accounting = replace(_of(audit, "kd"), loss_form=part)
    assert "the accounting of 'kd' does not follow from its arms" in list(
        audit_faults(replace(audit, accounting=(accounting,)), NAMES)
    )
    assert list(audit_faults(replace(audit, accounting=(_of(audit, "kd"),)), NAMES)) == []


def _of(audit, attack):
    """The accounting, by the definition: differences of neighbours from the baseline to the attack, seed by seed."""
    import numpy as np
    from scipy import stats

    from hf_cmim.report import Accounting

    arms = {arm.name: np.array(arm.accuracies) for arm in audit.arms}
    steps = ["LS", f"label null of {attack}", f"argmax null of {attack}", f"centroid null of {attack}", attack]

    def interval(later, earlier):
        difference = arms[later] - arms[earlier]
        half = stats.t.ppf(0.975, len(difference) - 1) * difference.std(ddof=1) / len(difference) ** 0.5
        return Interval(difference.mean(), difference.mean() - half, difference.mean() + half)

    pairs = [(steps[-1], steps[0]), *zip(steps[1:], steps, strict=False)]
    return Accounting(attack, *(interval(*pair) for pair in pairs))


def test_a_family_that_some_students_do_not_allow_may_be_left_out_if_a_check_says_so(honest):
    """Catches an audit of texts, which have no mixtures, that never verifies."""
    values = copy.deepcopy(honest)
    values["scope"]["suite"] = "standard-v2"
    missing = [fault for fault in faults(values) if "includes 'skeptical'" in fault]
    assert missing == ["standard-v2 includes 'skeptical': it is missing, and no check says why"]
    sentence = "These attacks could not be tried: skeptical (the student shows no hidden states), kd (no wish)."
    values["checks"].append({"name": "attacks left out", "severity": "warning", "sentence": sentence})
    assert not [fault for fault in faults(values) if "includes 'skeptical'" in fault]
    assert "skeptical" in FAMILIES
    without_arm("kd")(values)
    assert [fault for fault in faults(values) if "includes 'kd', which works with every teacher and student" in fault]


def test_a_report_of_a_retired_suite_still_verifies(honest):
    """Catches certificates that break when the losses of a suite are mended and the suite gets a new name."""
    values = copy.deepcopy(honest)
    values["scope"]["suite"] = "quick-v1"
    values["reproduction"]["plan"]["suite"] = suite_words(QUICK_V1)
    assert not list(faults(values))
    without_arm("dkd")(values)
    assert [fault for fault in faults(values) if "quick-v1 includes 'dkd'" in fault]


def test_the_error_rate_is_the_designs():
    """Catches a rule about another number than the one audits use."""
    assert Design().error_rate == 0.05


def test_a_part_of_a_named_suite_is_checked_as_that_part(honest):
    """Catches a budgeted audit that never verifies, or one that may call any selection a suite."""
    values = copy.deepcopy(honest)
    values["arms"] = [arm for arm in values["arms"] if arm["family"] in ("LS", "CE", "teacher-free KD")]
    arm = copy.deepcopy(arm_of(honest, "dist"))
    values["arms"].append(arm)
    values["scope"]["suite"] = "quick-v2, 1 of 5 families"
    assert not [fault for fault in faults(values) if "includes" in fault or "suite is called" in fault]
    arm["setting"] = "Composition(DIST(temperature=1000.0))"
    assert any("'dist': the chosen setting was not screened" in fault for fault in faults(values))
