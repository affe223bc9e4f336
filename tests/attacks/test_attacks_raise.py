"""What no attack accepts: settings that would silently teach nonsense, and inputs that do not belong together."""

import inspect
import math

import pytest
import torch

from hf_cmim.attacks.base import Relative
from hf_cmim.attacks.ctkd import CTKD
from hf_cmim.attacks.dist import DIST
from hf_cmim.attacks.dkd import DKD
from hf_cmim.attacks.function_matching import FunctionMatching
from hf_cmim.attacks.htc import HTC
from hf_cmim.attacks.ikl import IKL
from hf_cmim.attacks.jsd import JSD
from hf_cmim.attacks.kd import KD
from hf_cmim.attacks.knockoff import Knockoff
from hf_cmim.attacks.label_only import LabelOnly
from hf_cmim.attacks.logit_mse import LogitMSE
from hf_cmim.attacks.logit_standardization import LogitStandardization
from hf_cmim.attacks.nkd import NKD
from hf_cmim.attacks.normkd import NormKD
from hf_cmim.attacks.rld import RLD
from hf_cmim.attacks.teacher_free import CrossEntropy, LabelSmoothing, TeacherFreeKD
from hf_cmim.attacks.ttm import TTM, WTTM
from hf_cmim.attacks.wsld import WSLD

POSITIVE, WEIGHT, FRACTION, FREE = "above 0", "at least 0", "in [0, 1]", "any"
UNUSABLE = {
    POSITIVE: [0.0, -1.0, math.nan, math.inf],
    WEIGHT: [-1.0, math.nan, math.inf],
    FRACTION: [-0.1, 1.1, math.nan],
}
USABLE = {POSITIVE: [1e-3, 1e3], WEIGHT: [0.0, 1e3], FRACTION: [0.0, 1.0]}

ATTACKS = [
    CTKD,
    CrossEntropy,
    DIST,
    DKD,
    FunctionMatching,
    HTC,
    IKL,
    JSD,
    KD,
    Knockoff,
    LabelOnly,
    LabelSmoothing,
    LogitMSE,
    LogitStandardization,
    NKD,
    NormKD,
    RLD,
    TTM,
    TeacherFreeKD,
    WSLD,
    WTTM,
]
RANGES = {
    "alpha": WEIGHT,
    "base": FREE,
    "beta": WEIGHT,
    "ce_weight": WEIGHT,
    "confidence": FRACTION,
    "curriculum": FRACTION,
    "dist_weight": WEIGHT,
    "gamma": WEIGHT,
    "hard_weight": WEIGHT,
    "jsd_weight": WEIGHT,
    "kd_weight": WEIGHT,
    "lowest": POSITIVE,
    "mse_weight": WEIGHT,
    "normalized": FREE,
    "scale": POSITIVE,
    "smoothing": FRACTION,
    "span": FREE,
    "target_temperature": POSITIVE,
    "temperature": POSITIVE,
    "ttm_weight": WEIGHT,
    "warmup": FRACTION,
    "weight_temperature": POSITIVE,
    "wttm_weight": WEIGHT,
}
OTHER_RANGES = {(JSD, "beta"): FRACTION, (TTM, "gamma"): POSITIVE, (WTTM, "gamma"): POSITIVE}
SETTINGS = [
    (attack, name, OTHER_RANGES.get((attack, name), RANGES.get(name)))
    for attack in ATTACKS
    for name in inspect.signature(attack).parameters
]
BOUNDED = [setting for setting in SETTINGS if setting[2] is not FREE]
by_setting = pytest.mark.parametrize(
    ("attack", "name", "kind"), BOUNDED, ids=lambda value: getattr(value, "__name__", value)
)
by_attack = pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)


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
        parts = attack(**{name: value})(*samples)
        assert sum(parts.values()).isfinite()


@pytest.mark.parametrize("span", [-1.0, -3.0, math.nan, math.inf])
def test_learned_temperature_stays_above_zero(span):
    """Catches a range of temperatures that reaches 0 at its other end."""
    with pytest.raises(ValueError, match=f"Expected.*lowest . span above 0 and finite, got {1 + span}"):
        CTKD(span=span)


@pytest.mark.parametrize("factor", UNUSABLE[POSITIVE])
def test_relative_temperature_needs_a_positive_factor(factor):
    """Catches a factor that is only found wrong when the survey is over."""
    with pytest.raises(ValueError, match=f"Expected a factor above 0 and finite, got {factor}"):
        Relative(factor)


def test_relative_temperature_of_a_standardized_base_is_refused():
    """Catches a temperature in units of a scale that standardisation has removed."""
    with pytest.raises(ValueError, match="Expected.*got.*Relative"):
        LogitStandardization(base=KD(temperature=Relative(1.0)))


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
