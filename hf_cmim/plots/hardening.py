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
from hf_cmim.functional.selection import select_valid
from hf_cmim.measurement import Measurement
from hf_cmim.plots.style import GREY, ROUNDING, colours_of, legend_entry, logarithmic, styled

# Tol's high-contrast set, without a colour of a model.
CLASS_COLOURS = ("#004488", "#BB5566", "#DDAA33")
CLASS_MARKERS = ("o", "s", "^")


@styled
def plot_cmi_curves(measurements: Mapping[str, Measurement]) -> Figure:
    """Draw CMI (nats, logarithmic) over temperature (octaves) for all models in one picture.

    Solid: correctly classified samples, with a dot at the largest value, which is also in the legend. Dashed: all
    samples. Dotted, at T -> 0: limit of the dashed curve, H(prediction | label). This is the entropy of the errors,
    which concentrating the outputs cannot remove. A CMI of 0 is below the axis; the legend states H = 0 for a model
    without such a limit.

    Args:
        measurements: 1 to 7 measurements by model name, on the same data.

    Raises:
        HfCmimError: there is no model, or there are more than 7.
    """
    colours = colours_of(measurements)
    figure = Figure(figsize=(3.5, 2.7 + 0.14 * len(measurements)), layout="constrained")
    axes = figure.add_subplot()
    curves = [curve for model in measurements.values() for curve in (model.cmi, model.cmi_correct)]
    logarithmic(axes, [cmi for curve in curves for cmi in curve])
    coldest, warmest = _temperature_range(measurements, axes.get_ylim()[0])
    # Three octaves to the left of the curves stand for T -> 0.
    limit_start = coldest / 8
    for name, model in measurements.items():
        colour, grid = colours[name], model.temperatures
        axes.plot(grid, model.cmi, "--", color=colour, linewidth=0.9)
        axes.plot(grid, model.cmi_correct, "-", color=colour, marker="o", markersize=1.6)
        axes.plot(model.cmi_sup_temperature, model.cmi_sup, "o", color=colour, markersize=4.5)
        if model.prediction_entropy > 0:
            axes.plot([limit_start, grid[0]], [model.prediction_entropy] * 2, ":", color=colour, linewidth=1.6)
    axes.set_xscale("log", base=2)
    axes.set_xlim(limit_start, warmest)
    first_octave, last_octave = math.ceil(math.log2(coldest)), math.floor(math.log2(warmest))
    # Fractions print as 1/4, not 0.25.
    ticks = [Fraction(2) ** octave for octave in range(first_octave, last_octave + 1, 2)]
    axes.set_xticks([limit_start, *map(float, ticks)], ["→ 0", *map(str, ticks)])
    axes.set(xlabel="temperature $T$", ylabel="CMI (nats)")
    model_entries = [
        legend_entry(color=colours[name], marker="o", markersize=4.5, label=f"{name}: {_headline(model)}")
        for name, model in measurements.items()
    ]
    title = "Largest CMI among correctly classified samples"
    figure.legend(handles=model_entries, loc="outside upper center", title=title)
    line_entries = [
        legend_entry(color=GREY, label="correctly classified"),
        legend_entry(color=GREY, linestyle="--", linewidth=0.9, label="all samples"),
        legend_entry(color=GREY, linestyle=":", linewidth=1.6, label="$H$(prediction | label)"),
    ]
    figure.legend(handles=line_entries, loc="outside lower center", ncols=3, columnspacing=1.2, handlelength=1.8)
    return figure


def _temperature_range(measurements: Mapping[str, Measurement], floor: float) -> tuple[float, float]:
    """Return the first and last temperature at which a curve is above the floor, or the whole grid if none is."""
    points = [point for model in measurements.values() for point in zip(model.temperatures, model.cmi, strict=True)]
    visible = [temperature for temperature, cmi in points if cmi > floor]
    temperatures = visible or [temperature for temperature, _ in points]
    return min(temperatures), max(temperatures)


def _headline(model: Measurement) -> str:
    largest = model.cmi_sup if model.cmi_sup > ROUNDING else 0
    value = f"{largest:#.2g} nats at $T$ = {model.cmi_sup_temperature:g}" if largest else "0 nats"
    return value if model.prediction_entropy else f"{value}, $H$ = 0"


def project_on_simplex(probs: Tensor) -> Tensor:
    """Return the positions `(..., 2)` of probabilities in the triangle (0, 0), (1, 0), (1/2, √3/2).

    Args:
        probs: `(..., 3)` probabilities; each row sums to 1.

    >>> project_on_simplex(torch.tensor([0.0, 1.0, 0.0]))
    tensor([1., 0.])
    """
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(0.75)]], dtype=probs.dtype, device=probs.device)
    return probs @ corners


def most_confused_classes(logits: Mapping[str, Tensor], labels: Tensor) -> list[int]:
    """Return the three classes that the models confuse most, in ascending order.

    The confusion of classes a and b is the mean probability (T = 1) of b on samples of a plus that of a on samples of
    b, averaged over the models. The result is the most confused pair and the class most confused with these two.

    Args:
        logits: `(..., C)` outputs by model name, C >= 3.
        labels: `(...)` integers in [0, C), or -100 to ignore.
    """
    cpu_labels = labels.cpu()
    model_centroids = [class_centroids(outputs.detach().cpu(), cpu_labels, [1.0])[0] for outputs in logits.values()]
    centroids = torch.stack(model_centroids)
    # -1 keeps a class from being its own partner; confusion itself is at least 0.
    confusion = (centroids + centroids.mT).mean(dim=0).fill_diagonal_(-1)
    first, second = divmod(int(confusion.argmax()), len(confusion))
    confusion_with_pair = confusion[first] + confusion[second]
    confusion_with_pair[[first, second]] = -1
    return sorted((first, second, int(confusion_with_pair.argmax())))


@styled
def plot_clusters(
    logits: Mapping[str, Tensor],
    labels: Tensor,
    classes: Sequence[int] | None = None,
    temperatures: Sequence[float] = (1.0, 4.0),
    class_names: Mapping[int, str] | Sequence[str] | None = None,
) -> Figure:
    """Draw the samples of three classes on the probability simplex: a row per temperature, a column per model.

    The three classes' probabilities softmax(z / T), renormalised to sum to 1, place a sample in the triangle. It is at
    a corner if the model is certain of that class, in the middle if the model cannot decide. A cross marks a class's
    centroid (the mean output, renormalised likewise). The CMI of all classes, in nats, is below each triangle.

    Args:
        logits: `(..., C)` outputs of 1 to 7 models by name, on the same samples.
        labels: `(...)` integers in [0, C), or -100 to ignore.
        classes: three distinct classes; by default `most_confused_classes`.
        temperatures: temperatures of the rows, each above 0.
        class_names: names of the classes, such as `model.config.id2label`; by default their numbers.

    Raises:
        HfCmimError: the logits have fewer than three classes, the classes are not three distinct ones, there is no
            model, or there are more than 7.
    """
    colours = colours_of(logits)
    num_classes = min(outputs.shape[-1] for outputs in logits.values())
    if num_classes < 3:
        raise HfCmimError(
            f"Expected logits of at least 3 classes, got {num_classes}. The simplex of two classes is a line,"
            " not a triangle. Use plot_cmi_curves for a binary classifier."
        )
    classes = most_confused_classes(logits, labels) if classes is None else list(classes)
    in_range = all(0 <= number < num_classes for number in classes)
    if len(classes) != 3 or len(set(classes)) != 3 or not in_range:
        raise HfCmimError(
            f"Expected three distinct classes in [0, {num_classes}), got {classes}. A triangle has one class per"
            " corner. Leave classes unset to draw the three most confused ones."
        )
    corner_names = [str(number if class_names is None else class_names[number]) for number in classes]
    # All columns together fill the width of a page of text, 7 inches, at most.
    side = min(2.4, 7.0 / len(logits))
    figure = Figure(figsize=(side * len(logits), 0.93 * side * len(temperatures) + 0.3), layout="constrained")
    grid = figure.subplots(len(temperatures), len(logits), squeeze=False)
    for column, (name, outputs) in enumerate(logits.items()):
        # Ignored samples have no class to be drawn in.
        outputs, targets = select_valid(outputs.detach().cpu(), labels.cpu())
        for row, temperature in enumerate(temperatures):
            axes = grid[row, column]
            _draw_triangle(axes, corner_names)
            _draw_clusters(axes, outputs, targets, classes, temperature)
            if column == 0:
                axes.text(-0.22, 0.45, f"$T$ = {temperature:g}", rotation=90, va="center", ha="center")
        grid[0, column].set_title(name, color=colours[name], fontweight="bold")
    entry = legend_entry(color="black", linestyle="", marker="+", markersize=9, mew=0.5)
    figure.legend([entry], ["class centroids"], loc="outside lower center")
    return figure


def _draw_triangle(axes: Axes, names: Sequence[str]) -> None:
    corners = project_on_simplex(torch.eye(3))
    # Back to the first corner, which closes the outline.
    axes.plot(*corners[[0, 1, 2, 0]].T, color=GREY, linewidth=0.6, zorder=0)
    alignments = (("right", "top", -0.02), ("left", "top", -0.02), ("center", "bottom", 0.03))
    for corner, name, colour, alignment in zip(corners.tolist(), names, CLASS_COLOURS, alignments, strict=True):
        horizontal, vertical, gap = alignment
        axes.text(corner[0], corner[1] + gap, name, ha=horizontal, va=vertical, color=colour, fontweight="bold")
    axes.set(xlim=(-0.1, 1.1), ylim=(-0.14, 0.95), aspect="equal")
    axes.set_axis_off()


def _draw_clusters(axes: Axes, logits: Tensor, labels: Tensor, classes: list[int], temperature: float) -> None:
    # A softmax over only the three classes equals the renormalised softmax over all.
    points = project_on_simplex(tempered_log_probs(logits[:, classes], [temperature])[0].exp())
    centroids = class_centroids(logits, labels, [temperature])[0][classes][:, classes]
    centroid_points = project_on_simplex(centroids / centroids.sum(dim=-1, keepdim=True))
    for number, centroid, colour, marker in zip(classes, centroid_points, CLASS_COLOURS, CLASS_MARKERS, strict=True):
        members = points[labels == number]
        samples = axes.plot(members[:, 0], members[:, 1], marker, color=colour, markersize=2.8, alpha=0.5, mew=0)
        # Viewers scroll a PDF with thousands of vector marks too slowly.
        samples[0].set_rasterized(len(members) > 2000)
        axes.plot(centroid[0], centroid[1], "+", color="black", markersize=9, mew=0.5, zorder=4)
    cmi = conditional_mutual_information(logits, labels, temperature).item()
    cmi_text = f"CMI {cmi:#.2g} nats" if cmi > ROUNDING else "CMI 0 nats"
    axes.text(0.5, -0.05, cmi_text, ha="center", va="top", fontsize=7, color=GREY)


@styled
def plot_training(log_history: Mapping[str, Sequence[Mapping[str, float]]], temperature: float = 4.0) -> Figure:
    """Draw cross-entropy (left) and CMI at one temperature (right), both in nats and logarithmic, over epochs.

    Solid: training data. Dashed: evaluation data, if the run was evaluated. Shaded, on a separate axis at the right:
    the weight of the CMI in the loss, in the model's colour.

    Args:
        log_history: `trainer.state.log_history` of 1 to 7 runs of `CMIMTrainer`, by model name.
        temperature: temperature of the CMI, one of those in the run's configuration.

    Raises:
        HfCmimError: a run did not log cross-entropy and this CMI, there is no run, or there are more than 7.
    """
    colours = colours_of(log_history)
    key = f"cmi_T{temperature:g}"
    figure = Figure(figsize=(7.0, 2.7), layout="constrained")
    # The weight has a narrow panel below the CMI, with the same epochs.
    panels = figure.subplot_mosaic([["ce", key], ["ce", "cmi_weight"]], height_ratios=[5, 1], sharex=True)
    for name, entries in log_history.items():
        if not any(key in entry and "ce" in entry for entry in entries):
            logged_keys = sorted({logged_key for entry in entries for logged_key in entry})
            raise HfCmimError(
                f"Expected entries with 'ce' and {key!r} in the log of {name!r}, got {logged_keys}. There is no curve"
                " to draw. Train with CMIMTrainer, a logging_strategy other than 'no', and this temperature."
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
    training_key, evaluation_key = key, f"eval_{key}"
    all_values: list[float] = []
    for entries in log_history.values():
        all_values += _series(entries, training_key)[1] + _series(entries, evaluation_key)[1]
    logarithmic(axes, all_values)
    for name, entries in log_history.items():
        for logged_key, dashes, width in ((training_key, "-", 1.5), (evaluation_key, "--", 0.9)):
            epochs, values = _series(entries, logged_key)
            # A line through a single point is invisible without a marker.
            marker = "o" if len(values) == 1 else ""
            axes.plot(epochs, values, marker + dashes, color=colours[name], linewidth=width, markersize=3)


def _series(entries: Sequence[Mapping[str, float]], key: str) -> tuple[list[float], list[float]]:
    logged_entries = [entry for entry in entries if key in entry]
    return [entry["epoch"] for entry in logged_entries], [entry[key] for entry in logged_entries]
