"""Pictures of output clusters: CMI over temperature, three classes on the probability simplex, training curves."""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import tempered_log_probs
from hf_cmim.functional.information import class_centroids, conditional_mutual_information
from hf_cmim.functional.inputs import select_valid
from hf_cmim.measurement import Measurement
from hf_cmim.plots.style import GREY, ROUNDING, colours_of, legend_entry, logarithmic, styled

# Tol's high-contrast set: none of them is the colour of a model.
CLASS_COLOURS = ("#004488", "#BB5566", "#DDAA33")
CLASS_MARKERS = ("o", "s", "^")


@styled
def plot_cmi_curves(measurements: Mapping[str, Measurement]) -> Figure:
    """Draw CMI (nats, logarithmic) over temperature (octaves), all models in one axes.

    Solid: correctly classified samples, with a dot at the largest value, which the legend gives. Dashed: all samples.
    Dotted, at T -> 0: the limit of the dashed curve, H(prediction | label), the entropy of the errors, which no
    concentration of the outputs removes. A CMI of 0 leaves the picture through its bottom; the legend says H = 0 where
    a model has no such limit to draw.

    Args:
        measurements: 1 to 7 measurements by model name, of the same data.

    Raises:
        HfCmimError: no model, or more than 7.
    """
    colours = colours_of(measurements)
    figure = Figure(figsize=(3.5, 2.7 + 0.14 * len(measurements)), layout="constrained")
    axes = figure.add_subplot()
    logarithmic(axes, [value for each in measurements.values() for value in (*each.cmi, *each.cmi_correct)])
    coldest, warmest = _temperatures_shown(measurements, axes.get_ylim()[0])
    limit_start = coldest / 8
    for name, measured in measurements.items():
        colour, grid = colours[name], measured.temperatures
        axes.plot(grid, measured.cmi, "--", color=colour, linewidth=0.9)
        axes.plot(grid, measured.cmi_correct, "-", color=colour, marker="o", markersize=1.6)
        axes.plot(measured.cmi_sup_temperature, measured.cmi_sup, "o", color=colour, markersize=4.5)
        if measured.prediction_entropy > 0:
            axes.plot([limit_start, grid[0]], [measured.prediction_entropy] * 2, ":", color=colour, linewidth=1.6)
    axes.set_xscale("log", base=2)
    axes.set_xlim(limit_start, warmest)
    ticks = [Fraction(2) ** k for k in range(math.ceil(math.log2(coldest)), math.floor(math.log2(warmest)) + 1, 2)]
    axes.set_xticks([limit_start, *map(float, ticks)], ["→ 0", *map(str, ticks)])
    axes.set(xlabel="temperature $T$", ylabel="CMI (nats)")
    entries = [
        legend_entry(color=colours[name], marker="o", markersize=4.5, label=f"{name}: {_headline(measured)}")
        for name, measured in measurements.items()
    ]
    figure.legend(handles=entries, loc="outside upper center", title="Largest CMI among correctly classified samples")
    entries = [
        legend_entry(color=GREY, label="correctly classified"),
        legend_entry(color=GREY, linestyle="--", linewidth=0.9, label="all samples"),
        legend_entry(color=GREY, linestyle=":", linewidth=1.6, label="$H$(prediction | label)"),
    ]
    figure.legend(handles=entries, loc="outside lower center", ncols=3, columnspacing=1.2, handlelength=1.8)
    return figure


def _temperatures_shown(measurements: Mapping[str, Measurement], floor: float) -> tuple[float, float]:
    """First and last temperature at which some curve is above the floor; all of the grid when none is."""
    pairs = [pair for each in measurements.values() for pair in zip(each.temperatures, each.cmi, strict=True)]
    shown = [temperature for temperature, cmi in pairs if cmi > floor] or [temperature for temperature, _ in pairs]
    return min(shown), max(shown)


def _headline(measured: Measurement) -> str:
    largest = measured.cmi_sup if measured.cmi_sup > ROUNDING else 0
    value = f"{largest:#.2g} nats at $T$ = {measured.cmi_sup_temperature:g}" if largest else "0 nats"
    return value if measured.prediction_entropy else f"{value}, $H$ = 0"


def project_on_simplex(probs: Tensor) -> Tensor:
    """Return the places `(..., 2)` of `(..., 3)` probabilities in the triangle (0, 0), (1, 0), (1/2, √3/2).

    Args:
        probs: `(..., 3)`, each row summing to 1.

    >>> project_on_simplex(torch.tensor([0.0, 1.0, 0.0]))
    tensor([1., 0.])
    """
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(0.75)]], dtype=probs.dtype, device=probs.device)
    return probs @ corners


def most_confused_classes(logits: Mapping[str, Tensor], labels: Tensor) -> list[int]:
    """Return the three classes that the models confuse most, in ascending order.

    Confusion of classes a and b is the mean probability (T = 1) that samples of a give to b, plus that which samples
    of b give to a, averaged over the models. The three are the most confused pair and the class most confused with
    these two.

    Args:
        logits: `(..., C)` outputs by model name, C >= 3.
        labels: `(...)` integers in [0, C), or -100 to ignore.
    """
    centroids = torch.stack([class_centroids(each.detach().cpu(), labels.cpu(), [1.0])[0] for each in logits.values()])
    confusion = (centroids + centroids.mT).mean(dim=0).fill_diagonal_(-1)
    first, second = divmod(int(confusion.argmax()), len(confusion))
    with_both = confusion[first] + confusion[second]
    with_both[[first, second]] = -1
    return sorted((first, second, int(with_both.argmax())))


@styled
def plot_clusters(
    logits: Mapping[str, Tensor],
    labels: Tensor,
    classes: Sequence[int] | None = None,
    temperatures: Sequence[float] = (1.0, 4.0),
    class_names: Mapping[int, str] | Sequence[str] | None = None,
) -> Figure:
    """Draw the samples of three classes on the probability simplex: a row per temperature, a column per model.

    The three classes' probabilities softmax(z / T), renormalised to sum to 1, place a sample in the triangle: at a
    corner when the model is sure of that class, in the middle when it cannot decide. A cross is a class's centroid
    (the mean output, renormalised likewise). Below each triangle stands the CMI of all classes, in nats.

    Args:
        logits: `(..., C)` outputs of 1 to 7 models by name, on the same samples.
        labels: `(...)` integers in [0, C), or -100 to ignore.
        classes: three classes; by default `most_confused_classes`.
        temperatures: temperatures of the rows, each above 0.
        class_names: name of each class, such as `model.config.id2label`; by default its number.

    Raises:
        HfCmimError: fewer than three classes, not three distinct ones, no model, or more than 7.
    """
    colours = colours_of(logits)
    num_classes = min(each.shape[-1] for each in logits.values())
    if num_classes < 3:
        raise HfCmimError(
            f"Expected logits of at least 3 classes, got {num_classes}: the simplex of two classes is a line, and"
            " there is no triangle to draw. Use plot_cmi_curves for a binary classifier."
        )
    classes = most_confused_classes(logits, labels) if classes is None else list(classes)
    if len(set(classes)) != 3 or len(classes) != 3 or not all(0 <= each < num_classes for each in classes):
        raise HfCmimError(
            f"Expected three distinct classes in [0, {num_classes}), got {classes}: the corners of a triangle."
            " Leave classes unset to draw the three most confused ones."
        )
    side = min(2.4, 7.0 / len(logits))
    figure = Figure(figsize=(side * len(logits), 0.93 * side * len(temperatures) + 0.3), layout="constrained")
    grid = figure.subplots(len(temperatures), len(logits), squeeze=False)
    for column, (name, outputs) in enumerate(logits.items()):
        outputs, targets = select_valid(outputs.detach().cpu(), labels.cpu())
        for row, temperature in enumerate(temperatures):
            axes = grid[row, column]
            _draw_triangle(axes, [str(each if class_names is None else class_names[each]) for each in classes])
            _draw_clusters(axes, outputs, targets, classes, temperature)
            if column == 0:
                axes.text(-0.22, 0.45, f"$T$ = {temperature:g}", rotation=90, va="center", ha="center")
        grid[0, column].set_title(name, color=colours[name], fontweight="bold")
    entry = legend_entry(color="black", linestyle="", marker="+", markersize=9, mew=0.5)
    figure.legend([entry], ["class centroids"], loc="outside lower center")
    return figure


def _draw_triangle(axes: Axes, names: Sequence[str]) -> None:
    corners = project_on_simplex(torch.eye(3))
    axes.plot(*corners[[0, 1, 2, 0]].T, color=GREY, linewidth=0.6, zorder=0)
    places = (("right", "top", -0.02), ("left", "top", -0.02), ("center", "bottom", 0.03))
    for corner, label, colour, (side, level, gap) in zip(corners, names, CLASS_COLOURS, places, strict=True):
        axes.text(float(corner[0]), float(corner[1]) + gap, label, ha=side, va=level, color=colour, fontweight="bold")
    axes.set(xlim=(-0.1, 1.1), ylim=(-0.14, 0.95), aspect="equal")
    axes.set_axis_off()


def _draw_clusters(axes: Axes, logits: Tensor, labels: Tensor, classes: list[int], temperature: float) -> None:
    points = project_on_simplex(tempered_log_probs(logits[:, classes], [temperature])[0].exp())
    centroids = class_centroids(logits, labels, [temperature])[0][classes][:, classes]
    middles = project_on_simplex(centroids / centroids.sum(dim=-1, keepdim=True))
    for own, middle, colour, marker in zip(classes, middles, CLASS_COLOURS, CLASS_MARKERS, strict=True):
        members = points[labels == own]
        samples = axes.plot(members[:, 0], members[:, 1], marker, color=colour, markersize=2.8, alpha=0.5, mew=0)
        samples[0].set_rasterized(len(members) > 2000)  # thousands of vector marks make a PDF that no viewer scrolls
        axes.plot(middle[0], middle[1], "+", color="black", markersize=9, mew=0.5, zorder=4)
    cmi = conditional_mutual_information(logits, labels, temperature).item()
    cmi_text = f"CMI {cmi:#.2g} nats" if cmi > ROUNDING else "CMI 0 nats"
    axes.text(0.5, -0.05, cmi_text, ha="center", va="top", fontsize=7, color=GREY)


@styled
def plot_training(log_history: Mapping[str, Sequence[Mapping[str, float]]], temperature: float = 4.0) -> Figure:
    """Draw cross-entropy (left) and CMI at one temperature (right), both in nats and logarithmic, over epochs.

    Solid: training data. Dashed: evaluation data, where the run was evaluated. Shaded, on the right: the weight of
    the CMI in the loss, in the model's colour, on an axis of its own.

    Args:
        log_history: `trainer.state.log_history` of 1 to 7 runs of `CMIMTrainer`, by model name.
        temperature: one of the configured temperatures.

    Raises:
        HfCmimError: a run that logged no such figures, no run, or more than 7.
    """
    colours = colours_of(log_history)
    key = f"cmi_T{temperature:g}"
    figure = Figure(figsize=(7.0, 2.7), layout="constrained")
    panels = figure.subplot_mosaic([["ce", key], ["ce", "cmi_weight"]], height_ratios=[5, 1], sharex=True)
    for name, entries in log_history.items():
        if not any(key in entry and "ce" in entry for entry in entries):
            seen = sorted({each for entry in entries for each in entry})
            raise HfCmimError(
                f"Expected entries with 'ce' and {key!r} in the log of {name!r}, got {seen}: there is no curve to"
                " draw. Train with CMIMTrainer, a logging_strategy other than 'no', and this temperature."
            )
        panels["cmi_weight"].fill_between(*_series(entries, "cmi_weight"), color=colours[name], alpha=0.5, linewidth=0)
    for panel, label in (("ce", "cross-entropy (nats)"), (key, f"CMI at $T$ = {temperature:g} (nats)")):
        _draw_series(panels[panel], log_history, panel, colours)
        panels[panel].set_ylabel(label)
    panels[key].tick_params(labelbottom=False)
    panels["ce"].set_xlabel("epoch")
    panels["cmi_weight"].set(xlabel="epoch", ylim=(0, None))
    panels["cmi_weight"].set_ylabel("weight", rotation=0, ha="right", va="center")
    legend = [legend_entry(color=colour, label=name) for name, colour in colours.items()]
    legend += [legend_entry(color=GREY, linestyle="-", label="training")]
    legend += [legend_entry(color=GREY, linestyle="--", linewidth=0.9, label="evaluation")]
    figure.legend(handles=legend, loc="outside upper center", ncols=len(legend))
    return figure


def _draw_series(
    axes: Axes, log_history: Mapping[str, Sequence[Mapping[str, float]]], key: str, colours: Mapping[str, str]
) -> None:
    kinds = ((key, "-", 1.5), (f"eval_{key}", "--", 0.9))
    logarithmic(axes, [v for log in log_history.values() for kind in kinds for v in _series(log, kind[0])[1]])
    for name, entries in log_history.items():
        for logged, dashes, width in kinds:
            epochs, values = _series(entries, logged)
            marker = "o" if len(values) == 1 else ""  # a line through one point cannot be seen
            axes.plot(epochs, values, marker + dashes, color=colours[name], linewidth=width, markersize=3)


def _series(entries: Sequence[Mapping[str, float]], key: str) -> tuple[list[float], list[float]]:
    chosen = [entry for entry in entries if key in entry]
    return [entry["epoch"] for entry in chosen], [entry[key] for entry in chosen]
