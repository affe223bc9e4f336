"""Builder of realistic synthetic audit reports, for every test that shows or stores one.

Gains are drawn once for each attack; bounds, verdict and smallest margin follow from them by the verdicts' definition,
written here a second time.
"""

from dataclasses import replace

import numpy as np

from hf_cmim.attacks.suites import STANDARD_V2
from hf_cmim.report import (
    Accounting,
    ArmResult,
    AuditReport,
    Check,
    ClassAnswersControl,
    ControlResult,
    Costs,
    CriterionResult,
    Interval,
    LabelFloor,
    LeakDifference,
    ModelFacts,
    Scope,
)
from hf_cmim.statistics import Baselines, Comparison, Design

VERDICTS = (
    "distillable",
    "leaks less than the margin",
    "undistillable within the margin",
    "inconclusive",
)
# Mean gain of the strongest attack and half the width of a bar, in units of the margin, that lead to each verdict.
STRONGEST = {VERDICTS[0]: (4.0, 1.0), VERDICTS[1]: (0.5, 0.2), VERDICTS[2]: (0.1, 0.4), VERDICTS[3]: (0.6, 0.8)}
FAMILIES = STANDARD_V2.families
OTHER_CRITERIA = ("paper", "no-leak", "beyond-labels")
TEMPERATURES = tuple(2.0**power for power in range(-5, 9))


def verdict_of(comparisons, margin):
    """What the bounds alone say."""
    if any(each.lower > 0 and each.upper >= margin for each in comparisons):
        return VERDICTS[0]
    if any(each.upper >= margin for each in comparisons):
        return VERDICTS[3]
    return VERDICTS[1] if any(each.lower > 0 for each in comparisons) else VERDICTS[2]


def facts(name, accuracy=0.93, spread=1.0, **changes):
    curve = tuple((t, float(0.12 * spread * np.exp(-0.5 * (np.log2(t) - 1) ** 2 / 6))) for t in TEMPERATURES)
    values = {
        "name": name, "path": f"models/{name.lower().replace(' ', '-')}", "fingerprint": "9f" * 32,
        "labels_fingerprint": "7e" * 32,
        "accuracy": accuracy, "top5_accuracy": min(1.0, accuracy + 0.066), "nll": 0.23 * spread, "ece": 0.021 * spread,
        "nll_calibrated": 0.21, "ece_calibrated": 0.0064, "aurc": 0.0087, "within_total_ratio": 0.06 * spread,
        "curve": curve,
    }  # fmt: skip
    return ModelFacts(**values | changes)


def comparisons(names, baseline, verdict, margin, rng):
    """Of each attack, the largest gain first, so that the verdict follows."""
    strongest, half = (margin * share for share in STRONGEST[verdict])
    gains = strongest - np.sort(np.append(0.0, rng.exponential(1.6 * margin, len(names) - 1)))
    rows = []
    for name, gain in zip(names, gains.tolist(), strict=True):
        half_width = half * float(rng.uniform(0.9, 1.1))
        rows.append(
            Comparison(name, baseline, int(rng.choice([5, 8, 12])), 36, gain, half_width / 2.5,
                       gain - 1.2 * half_width, gain + 0.9 * half_width)
        )  # fmt: skip
    assert verdict_of(rows, margin) == verdict
    return tuple(rows)


def criterion(kind, primary, names, verdict, margin, rng):
    baselines = {"paper": "label smoothing", "teacher-free": "self-distillation", "no-leak": "null of the attack"}
    baseline = baselines.get(kind, "teacher's labels with kd")
    rows = comparisons(names, baseline, verdict, margin, rng)
    measured = {each.attack: Baselines(baseline, (baseline,)) for each in rows}
    return CriterionResult(kind, primary, verdict, measured, rows, max(each.upper for each in rows))


def arm(name, role, mean, seeds, rng, **changes):
    drawn = np.round(mean + 0.0015 * rng.standard_normal(seeds), 4).tolist()
    settings = {f"{name}(temperature={t})": round(mean - 0.001 * t, 4) for t in (1.0, 4.0)}
    values = {
        "name": name, "role": role, "family": name, "setting": f"{name}(temperature=4.0)",
        "teacher": "the audited model" if role == "knockoff" else "nobody", "validation": settings,
        "seeds": tuple(range(seeds)), "accuracies": tuple(drawn),
        "agreement": tuple(round(each - 0.01, 4) for each in drawn), "diverged": (),
    }  # fmt: skip
    return ArmResult(**values | changes)


def differences(names):
    """The strongest of each teacher first, then each attack with itself, the largest first."""
    first = LeakDifference(names[0], names[-1], 12, Interval(0.0071, 0.0012, 0.013))
    largest = [0.009 - 0.002 * number for number in range(len(names))]
    pairs = [LeakDifference(n, n, 5, Interval(d, d - 0.004, d + 0.004)) for n, d in zip(names, largest, strict=True)]
    return (first, *pairs)


def accounting(comparison):
    shares = {"loss_form": 0.5, "teacher_errors": -0.3, "class_similarity": 0.6, "instance_information": 0.2}
    gain, width = comparison.gain, comparison.standard_error
    terms = {name: Interval(s * gain, s * gain - width, s * gain + width) for name, s in shares.items()}
    return Accounting(comparison.attack, Interval(gain, gain - width, gain + width), **terms)


def report(verdict=VERDICTS[2], attacks=31, margin=0.005, power=True, seed=0, names=None, **changes):
    """An audit of a hardened model with so many attacks; `changes` replaces fields of the report."""
    rng = np.random.default_rng(seed)
    names = tuple(names or (FAMILIES[n % len(FAMILIES)] + "-b" * (n // len(FAMILIES)) for n in range(attacks)))
    primary = criterion("teacher-free", True, names, verdict, margin, rng)
    criteria = (primary, *(criterion(kind, False, names, verdict, margin, rng) for kind in OTHER_CRITERIA))
    twin = facts("Cross-entropy twin", 0.9281, 3.0)
    largest = comparisons(names[:1], "self-distillation", VERDICTS[0], margin, rng)[0]
    arms = [arm("self-distillation", "reference", 0.91, 36, rng), arm("label smoothing", "reference", 0.908, 36, rng)]
    arms += [arm(each.attack, "knockoff", 0.91 + each.gain, each.seeds, rng) for each in primary.comparisons]
    values = {
        "title": "Fashion-MNIST convnet, hardened with CMI weight 1", "date": "2026-11-25",
        "scope": Scope("standard-v2", "ResNet of 3 blocks, 24 channels", "fashion_mnist train[:20000]",
                       "fashion_mnist train[20000:25000]", "fashion_mnist train[25000:] + test", 20000, 5000, 45000,
                       10, {"num_train_epochs": 12, "learning_rate": 0.002, "per_device_train_batch_size": 128}),
        "teacher": facts("Hardened model", 0.9307), "twin": twin, "power": power,
        "design": Design(margin), "criteria": criteria, "reference": "self-distillation", "arms": tuple(arms),
        "accounting": tuple(accounting(each) for each in primary.comparisons),
        "controls": (
            ControlResult("CE twin", twin, VERDICTS[0], largest, largest.upper, differences(names)),
            ControlResult("CE model behind argmax", None, VERDICTS[2], None, 0.0031, ()),
        ),
        "label_floor": LabelFloor("teacher's labels with kd", "LS", Interval(0.0081, 0.004, 0.0122)),
        "class_answers": ClassAnswersControl(
            "class answers with kd", "LS", names[0], Interval(0.009, 0.005, 0.013), Interval(-0.002, -0.006, 0.002)
        ),
        "costs": Costs(20000, 740_000, 412, 612_000, 41_230.0),
        "checks": (Check("few seeds", "warning", "3 attacks stopped at 5 seeds; their spread is partly pooled."),),
        "looks": (3, 5, 8, 12), "sittings": 2,
        "reproduction": {
            "command": "python recipes/audit.py recipes/configs/audit_fashion_mnist.yaml",
            "versions": {"hf_cmim": "0.1.0", "torch": "2.13.0"}, "device": "x86_64 CPU, 1 thread",
        },
    }  # fmt: skip
    return AuditReport(**values | changes)


def small(verdict=VERDICTS[2], attacks=2, **changes):
    """An audit with little to draw, for tests that build many pages."""
    audit = report(verdict, attacks)
    values = {"criteria": audit.criteria[:1], "accounting": (), "twin": None, "teacher": facts("model", curve=())}
    return replace(audit, **values | changes)


HOSTILE = (
    "<script>alert(1)</script>",
    "a|b",
    "two\nlines",
    "n" * 200,
    "🦊 fox",
    "蒸" * 120,
    "$\\frac$ and $x_1$",
    "`tick` *bold* [link](there) #1",
    "&amp; \"quoted\" 'too'",
    "\x1b[31mred\x07",
    "_hidden",
    "items",
    "--> {{ 7 * 7 }} {% raw %}",
)
"""Names that an attack, a folder or a model may have."""


def hostile(**changes):
    """An audit in which users chose every name badly."""
    bad = HOSTILE[0] + HOSTILE[1] + HOSTILE[2]
    audit = report(attacks=len(HOSTILE), names=HOSTILE)
    arms = tuple(
        replace(each, family=bad, setting=bad, teacher=bad, validation={bad: 0.5, HOSTILE[3]: 0.6}, diverged=(1,))
        for each in audit.arms
    )
    values = {
        "title": bad, "date": bad, "reference": bad, "arms": arms,
        "scope": replace(audit.scope, suite=bad, student=bad, transfer_set=bad, validation_set=bad, test_set=bad,
                         training={bad: bad}),
        "teacher": facts(bad, path=bad, fingerprint=bad), "twin": facts(HOSTILE[3], path=bad),
        "controls": tuple(replace(each, name=bad) for each in audit.controls),
        "checks": (Check(bad, "fatal", bad), Check(HOSTILE[3], "warning", HOSTILE[3])),
        "reproduction": {"command": bad + "```", bad: {bad: [bad]}},
    }  # fmt: skip
    return replace(audit, **values | changes)
