"""What every picture shares: letters, colours, a logarithmic axis, and the rule that matplotlib stays as it was."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hf_cmim.errors import HfCmimError

# Okabe and Ito 2008, ordered so that neighbours differ in lightness too.
MODEL_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#555555"
STYLE: dict[Any, Any] = {
    "font.size": 8, "axes.labelsize": 8, "axes.titlesize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "legend.fontsize": 7, "legend.title_fontsize": 7, "legend.frameon": False,
    "axes.linewidth": 0.6, "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 200,
}  # fmt: skip
DECADES_SHOWN = 4  # powers of ten that a logarithmic axis shows below its largest value
ROUNDING = 1e-12  # nats; a smaller CMI, a difference of entropies in float64, is taken as 0

Parameters = ParamSpec("Parameters")
legend_entry = functools.partial(Line2D, [], [])


def styled(plot: Callable[Parameters, Figure]) -> Callable[Parameters, Figure]:
    """Draw with our sizes and leave matplotlib's settings as they were."""

    @functools.wraps(plot)
    def draw(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            return plot(*args, **kwargs)

    return draw


def colours_of(models: Mapping[str, object]) -> dict[str, str]:
    """Return each model's colour.

    Raises:
        HfCmimError: no model, or more than there are colours.
    """
    if not 1 <= len(models) <= len(MODEL_COLOURS):
        raise HfCmimError(
            f"Expected 1 to {len(MODEL_COLOURS)} models in one picture, got {len(models)}: colours would repeat, and"
            " models could not be told apart. Draw several pictures."
        )
    return dict(zip(models, MODEL_COLOURS, strict=False))


def logarithmic(axes: Axes, values: Sequence[float]) -> None:
    """Make the y axis logarithmic and show the values' upper decades; a 0 lies below any such axis."""
    positive = [value for value in values if ROUNDING < value < math.inf] or [1.0]
    axes.set_yscale("log", nonpositive="clip")
    axes.set_ylim(max(min(positive) / 1.5, max(positive) * 10.0**-DECADES_SHOWN), max(positive) * 1.5)
