"""What no attack accepts: settings that would silently teach nonsense, and inputs that do not belong together."""

import inspect
import math

import pytest
import torch

from hf_cmim.attacks import (
    ATTACKS,
    BKL,
    CTKD,
    DIST,
    GDKD,
    GKL,
    JSD,
    KD,
    MLKD,
    TTM,
    WKD,
    WTTM,
    Averager,
    Composition,
    CrossEntropy,
    LabelSmoothing,
    LogitStandardization,
    MarkovKD,
    MixupQueries,
    NormKD,
    Relative,
    Skeptical,
    TeacherFreeKD,
)
from hf_cmim.attacks.base import AbstractAttack

POSITIVE, WEIGHT, FRACTION, FREE = "above 0", "at least 0", "in [0, 1]", "any"
UNUSABLE = {
    POSITIVE: [0.0, -1.0, math.nan, math.inf],
    WEIGHT: [-0.1, -1.0, math.nan, math.inf],
    FRACTION: [-0.1, 1.1, math.nan],
}
USABLE = {POSITIVE: [1e-3, 1e3], WEIGHT: [0.0, 1e3], FRACTION: [0.0, 1.0]}

LOSSES = [kind for kind in ATTACKS.values() if issubclass(kind, AbstractAttack)]
RANGES = {
    "alpha": WEIGHT,
    "angle_weight": WEIGHT,
    "base": FREE,
    "batch_weight": WEIGHT,
    "beta": WEIGHT,
    "ce_weight": WEIGHT,
    "class_weight": WEIGHT,
    "confidence": FRACTION,
    "curriculum": FRACTION,
    "dist_weight": WEIGHT,
    "distance_weight": WEIGHT,
    "emphasis": FRACTION,
    "epsilon": FREE,
    "gamma": WEIGHT,
    "gram_weight": WEIGHT,
    "hard_weight": WEIGHT,
    "iterations": FREE,
    "jsd_weight": WEIGHT,
    "kd_weight": WEIGHT,
    "lowest": POSITIVE,
    "mass_weight": WEIGHT,
    "measured_at": POSITIVE,
    "mse_weight": WEIGHT,
    "normalized": FREE,
    "pkt_weight": WEIGHT,
    "pld_weight": WEIGHT,
    "rest_weight": WEIGHT,
    "scale": POSITIVE,
    "smoothing": FRACTION,
    "sp_weight": WEIGHT,
    "span": WEIGHT,
    "target_temperature": POSITIVE,
    "temperature": POSITIVE,
    "temperatures": FREE,
    "tikhonov": POSITIVE,
    "top": FREE,
    "top_weight": WEIGHT,
    "ttm_weight": WEIGHT,
    "warmup": FRACTION,
    "weight_temperature": POSITIVE,
    "wttm_weight": WEIGHT,
}
OTHER_RANGES = {
    (BKL, "alpha"): FRACTION,
    (BKL, "beta"): FRACTION,
    (GKL, "gamma"): FRACTION,
    (JSD, "beta"): FRACTION,
    (TTM, "gamma"): POSITIVE,
    (WTTM, "gamma"): POSITIVE,
}
SETTINGS = [
    (attack, name, OTHER_RANGES.get((attack, name), RANGES.get(name)))
    for attack in LOSSES
    for name in inspect.signature(attack).parameters
]
BOUNDED = [setting for setting in SETTINGS if setting[2] is not FREE]
by_setting = pytest.mark.parametrize(
    ("attack", "name", "kind"), BOUNDED, ids=lambda value: getattr(value, "__name__", value)
)
by_attack = pytest.mark.parametrize("attack", LOSSES, ids=lambda attack: attack.__name__)


@by_attack
def test_every_setting_has_a_range_here_and_a_name_at_the_call(attack):
    """Catches a new setting that nobody checks, and one that can be passed by position, where two weights swap."""
    parameters = inspect.signature(attack).parameters
    assert set(parameters) <= set(RANGES)
    assert {parameter.kind for parameter in parameters.values()} <= {inspect.Parameter.KEYWORD_ONLY}
    with pytest.raises(TypeError):
        attack(1.0)


@by_setting
def test_settings_out_of_range_are_named(attack, name, kind):
    """Catches a missing guard: T = 0 gives nan, a negative weight teaches the opposite, nan passes every `<`."""
    for value in UNUSABLE[kind]:
        with pytest.raises(ValueError, match=f"Expected.*{name.replace('_', '.')}.*got {value}"):
            attack(**{name: value})


@by_setting
def test_settings_at_the_edge_of_their_range_are_usable(attack, name, kind):
    """Catches a guard that is too strict: a weight of 0 is how a term is left out."""
    samples = torch.eye(4, requires_grad=True), torch.eye(4).flip(0).log_softmax(dim=-1), torch.arange(4)
    for value in USABLE[kind]:
        usable = attack(**{name: value})
        usable.prepare(num_classes=4)
        usable.survey(samples[1], samples[2])
        usable.settle()
        assert sum(usable(*samples).values()).isfinite()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"temperatures": ()}, "at least one temperature, got"),
        *(({"temperatures": (2.0, value)}, f"above 0 and finite, got {value}") for value in UNUSABLE[POSITIVE]),
    ],
)
def test_temperatures_of_mlkd_are_checked_one_by_one(settings, expected):
    """Catches a loss without terms, and one bad temperature among good ones."""
    with pytest.raises(ValueError, match=f"Expected.*{expected}"):
        MLKD(**settings)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        *(({"epsilon": value}, f"epsilon.*got {value}") for value in (0.0, 0.001, -1.0, math.nan, math.inf)),
        *(({"iterations": value}, f"iteration.*got {value}") for value in (0, -1)),
    ],
)
def test_transport_of_wkd_is_checked(settings, expected):
    """Catches exp(-cost / epsilon) that underflows to 0 everywhere, and a plan that nothing has shaped."""
    with pytest.raises(ValueError, match=f"Expected.*{expected}"):
        WKD(**settings)


@pytest.mark.parametrize("top", [0, -1])
def test_top_classes_of_gdkd_are_checked(top):
    """Catches a split into nothing and everything, which would teach no class apart from another."""
    with pytest.raises(ValueError, match=f"Expected top of at least 1, got {top}"):
        GDKD(top=top)


@pytest.mark.parametrize("attack", [WKD(), GKL()], ids=repr)
def test_weights_of_classes_without_a_survey_are_refused(attack):
    """Catches costs or weights of nan, or equal ones that nobody asked for."""
    attack.prepare(num_classes=4)
    with pytest.raises(ValueError, match="Expected.*survey.*got"):
        attack(torch.eye(4), torch.eye(4).log_softmax(dim=-1), torch.arange(4))


NUMBERS = [
    (TeacherFreeKD, "temperature"), (Skeptical, "temperature"), (CTKD, "lowest"), (NormKD, "scale"), (TTM, "gamma"),
    (WTTM, "gamma"), (MixupQueries, "alpha"), (Relative, "factor"),
]  # fmt: skip
RELATIVE = [
    *((attack, {name: Relative(1.0)}) for attack, name, kind in SETTINGS
      if kind == POSITIVE and "temperature" in name and (attack, name) not in NUMBERS),
    (MLKD, {"temperatures": (2.0, Relative(1.0))}),
    (MarkovKD, {"temperature": Relative(1.0)}),
    (Averager, {"temperature": Relative(1.0), "over": "batch"}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), NUMBERS)
def test_what_no_survey_resolves_is_a_number(kind, name):
    """Catches a relative temperature that is accepted, and ends in a TypeError in the first step of training."""
    with pytest.raises(ValueError, match=f"Expected.*{name}.* as a number, got Relative"):
        kind(**{name: Relative(1.0)})


@pytest.mark.parametrize(("kind", "settings"), RELATIVE, ids=str)
def test_relative_temperature_needs_a_survey(kind, settings):
    """Catches a loss of nan in a loop without trainer, and T = 0 from answers that are all uniform."""
    logits, answers, labels = torch.eye(4), torch.eye(4).flip(0).log_softmax(dim=-1), torch.arange(4)
    attack = Composition(kind(**settings))
    attack.prepare(num_classes=4)
    with pytest.raises(ValueError, match="Expected a survey.*got a logit scale of nan"):
        attack(logits, answers, labels)
    attack.survey([(answers, labels)])
    assert sum(attack(logits, answers, labels).values()).isfinite()
    attack.survey([(torch.full((4, 4), 0.25).log(), labels)])
    with pytest.raises(ValueError, match="Expected a survey.*got a logit scale of 0"):
        attack(logits, answers, labels)


@pytest.mark.parametrize("factor", UNUSABLE[POSITIVE])
def test_relative_temperature_needs_a_positive_factor(factor):
    """Catches a factor that is only found wrong when the survey is over."""
    with pytest.raises(ValueError, match=f"Expected a factor above 0 and finite, got {factor}"):
        Relative(factor)


@pytest.mark.parametrize("base", [KD(temperature=Relative(1.0)), MLKD(temperatures=(2.0, Relative(1.0)))], ids=repr)
def test_relative_temperature_of_a_standardized_base_is_refused(base):
    """Catches a temperature in units of a scale that standardisation has removed, one of several too."""
    with pytest.raises(ValueError, match="Expected.*got.*Relative"):
        LogitStandardization(base=base)


@pytest.mark.parametrize("attack", [KD(), DIST(), CrossEntropy()], ids=repr)
@pytest.mark.parametrize(
    ("student", "teacher", "labels", "expected"),
    [
        ((4, 5), (4, 6), (4,), r"\(4, 5\) and teacher_log_probs \(4, 6\)"),
        ((4, 5), (3, 5), (4,), r"\(4, 5\) and teacher_log_probs \(3, 5\)"),
        ((2, 3, 5), (6, 5), (2, 3), r"\(2, 3, 5\) and teacher_log_probs \(6, 5\)"),
        ((4, 5), (4, 5), (3,), r"\(4, 5\) and labels \(3,\)"),
        ((4, 5), (4, 5), (4, 5), r"\(4, 5\) and labels \(4, 5\)"),
        ((5,), (5,), (), r"\(5,\) and labels \(\)"),
        ((4, 1), (4, 1), (4,), "1: one class"),
    ],
)
def test_inputs_that_do_not_belong_together_are_named(attack, student, teacher, labels, expected):
    """Catches broadcasting: a loss between other samples or other classes is a number like any other."""
    with pytest.raises(ValueError, match=f"Expected.*got.*{expected}"):
        attack(torch.zeros(student), torch.zeros(teacher), torch.zeros(labels, dtype=torch.long))


def test_labels_that_are_no_classes_are_refused():
    """Catches regression targets that are cut to integers."""
    with pytest.raises(ValueError, match="Expected integer labels in.*got dtype torch.float32"):
        KD()(torch.zeros(4, 5), torch.zeros(4, 5), torch.zeros(4))


def test_standardization_of_an_arm_without_a_teacher():
    """Catches smoothed labels learned on standardised logits under an attack's name."""
    with pytest.raises(ValueError, match="Expected a base that reads answers, got LabelSmoothing"):
        LogitStandardization(base=LabelSmoothing())
