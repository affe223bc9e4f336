"""The pictures show the numbers they were given."""

import io
import math
import subprocess
import sys

import matplotlib
import pytest
import torch
from matplotlib.colors import to_hex

from hf_cmim.functional.calibration import Calibration
from hf_cmim.measurement import Measurement, MeasurementAccumulator
from hf_cmim.plots import most_confused_classes, plot_clusters, plot_cmi_curves, plot_training, project_on_simplex

TEMPERATURES = (0.25, 0.5, 1.0, 2.0, 4.0)
HEIGHT = math.sqrt(3) / 2


def measured(cmi=(0.1, 0.09, 0.08, 0.04, 0.01), cmi_correct=(0.0, 0.001, 0.02, 0.03, 0.009), entropy=0.11):
    return Measurement(
        num_samples=100, accuracy=0.9, top5_accuracy=1.0, calibration=Calibration(0.1, 0.1, 1.0, 0.1, 0.1, 0.1),
        temperatures=TEMPERATURES, cmi=cmi, cmi_correct=cmi_correct, ncmi=0.1, separation=1.0,
        prediction_entropy=entropy, within_class_variance=1.0, within_total_ratio=0.1, logit_scale=1.0,
        labels_fingerprint="7e" * 32,
    )  # fmt: skip


def lines(axes, style):
    """x and y of every line of a style, in drawing order."""
    return [(list(x), list(y)) for line in axes.lines if line.get_linestyle() == style for x, y in [line.get_data()]]


def texts(legend):
    return [text.get_text() for text in legend.get_texts()]


def drawn(figure):
    """The picture, drawn in full: what cannot be laid out or scaled warns only here."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=50)
    return buffer.getvalue()


def test_curves_show_the_measured_values():
    """Catches swapped curves, a cut grid, a zero replaced by a made-up small number."""
    models = {"CE": measured(), "CMIM": measured(cmi=(0.05, 0.04, 0.03, 0.02, 0.001), entropy=0.06)}
    (axes,) = plot_cmi_curves(models).axes
    assert lines(axes, "--") == [(list(TEMPERATURES), list(each.cmi)) for each in models.values()]
    assert lines(axes, "-") == [(list(TEMPERATURES), list(each.cmi_correct)) for each in models.values()]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


def test_curves_mark_the_supremum_among_correct_samples():
    """Catches a mark at the largest value of all samples, or at a fixed temperature."""
    figure = plot_cmi_curves({"CE": measured()})
    assert lines(figure.axes[0], "None") == [([2.0], [0.03])]
    assert texts(figure.legends[0]) == ["CE: 0.030 nats at $T$ = 2"]


def test_limit_stands_at_the_cold_end():
    """Catches a limit drawn across the picture, where it would be read as a bound, or at another model's height."""
    figure = plot_cmi_curves({"CE": measured(entropy=0.11), "CMIM": measured(entropy=0.06)})
    bars = lines(figure.axes[0], ":")
    assert [y for _, y in bars] == [[0.11, 0.11], [0.06, 0.06]]
    assert all(x[1] == TEMPERATURES[0] and x[0] < x[1] for x, _ in bars)
    assert figure.axes[0].get_xticklabels()[0].get_text() == "→ 0"


def test_zero_lies_below_the_logarithmic_axis():
    """Catches an axis that ends at 0, warns, or is stretched to the smallest rounding error."""
    nothing = measured(cmi=(0.0,) * 5, cmi_correct=(0.0, 0.0, 2e-16, 0.0, 0.0), entropy=0.0)
    figure = plot_cmi_curves({"CE": measured(cmi_correct=(1e-60, 1e-9, 0.02, 0.03, 0.009)), "perfect": nothing})
    bottom, top = figure.axes[0].get_ylim()
    assert 0.1 < top < 0.2
    assert bottom == pytest.approx(1e-5)
    assert lines(figure.axes[0], ":") == [([pytest.approx(0.25 / 8), 0.25], [0.11, 0.11])]
    assert texts(figure.legends[0])[1] == "perfect: 0 nats, $H$ = 0"
    assert drawn(figure)
    alone = plot_cmi_curves({"perfect": nothing})
    assert drawn(alone)
    assert alone.axes[0].get_ylim()[0] > 0.1


def test_corners_and_centre_of_the_simplex():
    """Catches a projection with swapped corners or one that is not linear."""
    probs = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0]])
    places = torch.tensor([[0.0, 0], [1, 0], [0.5, HEIGHT], [0.5, HEIGHT / 3], [0.5, 0]])
    torch.testing.assert_close(project_on_simplex(probs), places)


def test_clusters_stand_where_their_probabilities_are():
    """Catches probabilities that are not renormalised, a forgotten temperature, samples of other or ignored labels."""
    temperature = 2.0
    odds = torch.tensor([[3.0, 1, 0], [1, 3, 0], [1, 0, 3], [1, 0, 1]])  # of classes 0, 2, 3; each row sums to 4 or 2
    logits = torch.full((6, 4), 9.0)  # class 1 is likely, but not in the picture
    logits[:4, [0, 2, 3]] = temperature * odds.clamp_min(1e-9).log()
    labels = torch.tensor([0, 2, 3, 3, 1, -100])
    figure = plot_clusters({"CE": logits}, labels, classes=[0, 2, 3], temperatures=[temperature])
    (axes,) = figure.axes
    marks = {
        line.get_marker(): torch.as_tensor(line.get_xydata()).tolist()
        for line in axes.lines[1:]
        if len(line.get_xdata())
    }
    assert marks["o"] == [pytest.approx([0.25, 0], abs=1e-6)]
    assert marks["s"] == [pytest.approx([0.75, 0], abs=1e-6)]
    assert marks["^"] == [pytest.approx(each, abs=1e-6) for each in ([0.375, 0.75 * HEIGHT], [0.25, 0.5 * HEIGHT])]


def test_cross_is_the_centroid():
    """Catches a mean of logits: at that mean's place there need not be any mass."""
    confident = torch.tensor([[200.0, 0, 0], [0, 50, 0], [0, 200, 0], [0, 0, 200]])
    (axes,) = plot_clusters({"CE": confident}, torch.tensor([0, 0, 1, 2]), temperatures=[1.0]).axes
    crosses = [line.get_xydata()[0].tolist() for line in axes.lines if line.get_marker() == "+"]
    assert crosses == [pytest.approx(each, abs=1e-6) for each in ([0.5, 0], [1, 0], [0.5, HEIGHT])]


def test_grid_of_triangles_has_temperatures_and_models():
    """Catches transposed rows and columns, names at the wrong corner, a CMI of another model or temperature."""
    torch.manual_seed(0)
    labels = torch.arange(60) % 5
    logits = {
        name: 4 * torch.eye(5)[labels] + spread * torch.randn(60, 5) for name, spread in (("CE", 3), ("CMIM", 1))
    }
    names = ["ant", "bee", "cat", "dog", "elk"]
    figure = plot_clusters(logits, labels, [4, 0, 2], (0.5, 2.0, 8.0), names)
    assert len(figure.axes) == 6
    assert [axes.get_title() for axes in figure.axes] == ["CE", "CMIM", "", "", "", ""]
    accumulator = MeasurementAccumulator((0.5, 2.0, 8.0))
    accumulator.update(logits["CMIM"], labels)
    shown = [text.get_text() for text in figure.axes[3].texts]
    assert shown == ["elk", "ant", "cat", f"CMI {accumulator.compute().cmi_at(2.0):#.2g} nats"]
    assert figure.axes[4].texts[-1].get_text() == "$T$ = 8"


def test_most_confused_classes_by_hand():
    """Catches confusion in one direction only, and a third class confused with none of the pair."""
    probs = torch.tensor(
        [
            [0.64, 0.30, 0.02, 0.02, 0.02],  # 0 is often taken for 1, but hardly ever 1 for 0
            [0.02, 0.74, 0.20, 0.02, 0.02],  # 1 is confused with 2 alone
            [0.02, 0.02, 0.74, 0.20, 0.02],
            [0.02, 0.02, 0.20, 0.74, 0.02],
            [0.02, 0.02, 0.14, 0.12, 0.70],  # 4 is confused with both 2 and 3
        ]
    )
    assert most_confused_classes({"CE": probs.log()}, torch.arange(5)) == [2, 3, 4]


def history(values, weight):
    """A log as Trainer keeps it: training and evaluation in turn, a summary at the end."""
    entries = []
    for epoch, (ce, cmi) in enumerate(values, start=1):
        entries.append({"loss": ce + 1, "ce": ce, "cmi_T4": cmi, "cmi_weight": weight * epoch, "epoch": epoch})
        entries.append({"eval_loss": 9.0, "eval_ce": 2 * ce, "eval_cmi_T4": 2 * cmi, "epoch": epoch})
    return [*entries, {"train_runtime": 1.0, "train_loss": 0.1, "epoch": len(values)}]


def test_training_curves_are_the_log():
    """Catches the loss in the place of the cross-entropy, evaluation taken for training, a lost zero."""
    values = [(2.0, 0.0), (1.0, 0.1), (0.5, 0.05)]
    figure = plot_training({"CE": history(values, 0.0), "CMIM": history(values, 0.5)})
    cross_entropy, cmi, weight = figure.axes
    for axes, series in ((cross_entropy, [2.0, 1.0, 0.5]), (cmi, [0.0, 0.1, 0.05])):
        assert lines(axes, "-") == [([1, 2, 3], series)] * 2
        assert lines(axes, "--") == [([1, 2, 3], [2 * value for value in series])] * 2
        assert axes.get_yscale() == "log"
    heights = [shade.get_paths()[0].vertices[:, 1].max() for shade in weight.collections]
    assert heights == [0.0, 1.5]
    assert drawn(figure)


def test_single_log_entry_can_be_seen():
    """Catches a line through one point, which has no length."""
    (line,) = (
        line for line in plot_training({"CE": history([(2.0, 0.1)], 0.0)}).axes[0].lines if line.get_linestyle() == "-"
    )
    assert line.get_marker() == "o"


def test_models_keep_their_colours_across_pictures():
    """Catches colours that follow the number of lines drawn instead of the model."""
    logits = torch.eye(3)
    curves = plot_cmi_curves({"CE": measured(), "CMIM": measured()}).axes[0]
    training = plot_training({"CE": history([(1.0, 0.1)], 0.0), "CMIM": history([(1.0, 0.1)], 1.0)}).axes[1]
    clusters = plot_clusters({"CE": logits, "CMIM": logits}, torch.arange(3))
    titles = [to_hex(axes.title.get_color()) for axes in clusters.axes[:2]]
    for axes in (curves, training):
        assert [to_hex(line.get_color()) for line in axes.lines if line.get_linestyle() == "-"] == titles
    assert len(set(titles)) == 2


@pytest.mark.parametrize("count", [1, 7])
def test_pictures_hold_one_model_or_many(count):
    """Catches a layout that collapses, which matplotlib only warns about."""
    models = [f"model {number}" for number in range(count)]
    assert drawn(plot_cmi_curves({name: measured() for name in models})).startswith(b"\x89PNG")
    assert drawn(plot_training({name: history([(1.0, 0.1), (0.5, 0.2)], 1.0) for name in models}))
    assert drawn(plot_clusters({name: 5 * torch.eye(4) for name in models}, torch.arange(4)))


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plot_cmi_curves({}), "Expected 1 to 7 models .* got 0"),
        (lambda: plot_cmi_curves({str(number): measured() for number in range(8)}), "got 8. Each model needs"),
        (lambda: plot_clusters({"CE": torch.eye(2)}, torch.arange(2)), "at least 3 classes, got 2. .* Use plot_cmi"),
        (lambda: plot_clusters({"CE": torch.eye(4)}, torch.arange(4), [0, 1]), r"three distinct .* got \[0, 1\]"),
        (lambda: plot_clusters({"CE": torch.eye(4)}, torch.arange(4), [0, 1, 1]), r"got \[0, 1, 1\]"),
        (lambda: plot_clusters({"CE": torch.eye(4)}, torch.arange(4), [0, 1, 4]), r"in \[0, 4\), got \[0, 1, 4\]"),
        (lambda: plot_training({"CE": history([(1, 0.1)], 0)}, 3.0), "'cmi_T3' in the log of 'CE', got .*cmi_T4"),
        (lambda: plot_training({"CE": [{"train_runtime": 1.0}]}), "Train with CMIMTrainer"),
    ],
)  # fmt: skip
def test_wrong_use_is_explained(draw, message):
    """Catches an empty or misleading picture, and an error from inside matplotlib."""
    with pytest.raises(ValueError, match=message):
        draw()


def test_settings_of_matplotlib_stay_and_sizes_last():
    """Catches a style set for the whole process, and one that is lost when the picture is drawn later."""
    before = dict(matplotlib.rcParams)
    figure = plot_cmi_curves({"CE": measured()})
    with pytest.raises(ValueError, match="Expected 1 to 7"):
        plot_cmi_curves({})
    assert dict(matplotlib.rcParams) == before
    with matplotlib.rc_context({"xtick.labelsize": 30, "ytick.labelsize": 30}):
        assert drawn(figure)
        assert {tick.get_size() for tick in figure.axes[0].get_yticklabels()} == {7}


def test_no_window_can_open():
    """Catches pyplot, which picks a window system and keeps every figure alive."""
    code = "import sys, hf_cmim.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
