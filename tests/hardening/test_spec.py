"""ObjectiveSpec: what it refuses, and what it says of a change."""

import json
import math

import pytest

from hf_cmim import ObjectiveSpec
from hf_cmim.functional.temperatures import DEFAULT_TEMPERATURES
from hf_cmim.hardening.forms import FORMS


def test_defaults():
    """Catches defaults that drift away from the documented ones."""
    spec = ObjectiveSpec()
    assert (spec.form, spec.logit_scale, spec.correct_only, spec.centroids) == ("scaled", 4.0, False, "bank")
    assert spec.temperatures == DEFAULT_TEMPERATURES == tuple(2.0**k for k in range(5))
    factors = [max(1.0, temperature**2) / 5 for temperature in DEFAULT_TEMPERATURES]
    assert FORMS["scaled"].factors(spec.temperatures) == FORMS["plain"].factors(spec.temperatures) == factors
    assert FORMS["share"].factors(spec.temperatures) == [0.2] * 5


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"form": "squared"}, 'form "scaled", "share" or "plain", got .squared.'),
        ({"form": "share", "logit_scale": 4.0}, "no logit_scale with the form .share., got 4.0"),
        ({"form": "plain", "logit_scale": 0.0}, "no logit_scale with the form .plain., got 0.0"),
        ({"logit_scale": 0.0}, "logit_scale above 0 and finite, got 0.0"),
        ({"logit_scale": -1.0}, "logit_scale above 0 and finite, got -1.0"),
        ({"logit_scale": math.nan}, "logit_scale above 0 and finite, got nan"),
        ({"temperatures": ()}, "at least one temperature"),
        ({"temperatures": (1.0, -1.0)}, "above 0 and finite, got -1.0"),
        ({"temperatures": (1.0, 1.0)}, "distinct temperatures"),
        ({"centroids": "batch"}, 'centroids "bank" or "epoch", got .batch.'),
        ({"window": 1.0}, "window above 1 sample a class and finite, got 1.0"),
        ({"window": math.nan}, "window above 1 sample a class and finite, got nan"),
        ({"window": math.inf}, "window.*got inf"),
        ({"class_weights": "equal"}, 'class_weights "balanced" or one factor per class, got .equal.'),
        ({"class_weights": (1.0, -2.0)}, r"class_weights >= 0 and finite, got \[1.0, -2.0\]"),
        ({"label_smoothing": 1.0}, r"label_smoothing in \[0, 1\), got 1.0"),
        ({"label_smoothing": -0.1}, r"label_smoothing in \[0, 1\), got -0.1"),
    ],
    ids=str,
)
def test_unusable_settings_are_refused(settings, expected):
    """Catches a misspelt option that silently means the default, and a bank that fills with nan."""
    with pytest.raises(ValueError, match=f"Expected.*{expected}"):
        ObjectiveSpec(**settings)


def test_equal_specifications_are_equal_after_json():
    """Catches a resumed run refused because a tuple became a list."""
    spec = ObjectiveSpec("share", [1.0, 2.0], class_weights=[1, 2])
    assert spec == ObjectiveSpec("share", (1.0, 2.0), class_weights=(1.0, 2.0))
    written = json.loads(json.dumps(spec.to_dict()))
    assert spec.changes_since(written) == []
    assert ObjectiveSpec(**written) == spec


def test_changes_are_named():
    """Catches a difference that is not told, also of a setting that one version does not know."""
    written = ObjectiveSpec().to_dict()
    changed = ObjectiveSpec("share", (1.0,), correct_only=True, window=20.0, label_smoothing=0.1)
    assert changed.changes_since(written | {"reduction": "max"}) == [
        "form was 'scaled' and is now 'share'",
        "temperatures was [1.0, 2.0, 4.0, 8.0, 16.0] and is now [1.0]",
        "logit_scale was 4.0 and is now None",
        "correct_only was False and is now True",
        "window was 500.0 and is now 20.0",
        "label_smoothing was 0.0 and is now 0.1",
        "reduction was 'max' and is now None",
    ]
