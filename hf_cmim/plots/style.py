"""Style of all pictures: fonts, colours and a logarithmic axis, without a change of matplotlib's settings."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hf_cmim.errors import HfCmimError

# Okabe and Ito 2008, in an order in which neighbours also differ in lightness.
MODEL_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#555555"
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.title_fontsize": 7,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 200,
}
# Powers of ten that a logarithmic axis shows below its largest value.
DECADES_SHOWN = 4
# A CMI is a difference of entropies in float64. Below this value, in nats, it counts as 0.
ROUNDING = 1e-12

Parameters = ParamSpec("Parameters")
legend_entry = functools.partial(Line2D, [], [])


def styled(plot: Callable[Parameters, Figure]) -> Callable[Parameters, Figure]:
    """Apply our style while the function draws, and restore matplotlib's settings afterwards."""

    @functools.wraps(plot)
    def draw(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            return plot(*args, **kwargs)

    return draw


def colours_of(models: Mapping[str, object]) -> dict[str, str]:
    """Return the colour of each model, by name.

    Raises:
        HfCmimError: there is no model, or there are more than 7.
    """
    if not 1 <= len(models) <= len(MODEL_COLOURS):
        raise HfCmimError(
            f"Expected 1 to {len(MODEL_COLOURS)} models in one picture, got {len(models)}. Each model needs its own"
            f" colour, and there are {len(MODEL_COLOURS)}. Draw several pictures."
        )
    # Not strict: there are usually more colours than models.
    return dict(zip(models, MODEL_COLOURS, strict=False))


def logarithmic(axes: Axes, values: Sequence[float]) -> None:
    """Make the y axis logarithmic and show the upper decades of the values; a 0 lies below the axis."""
    positive = [value for value in values if ROUNDING < value < math.inf] or [1.0]
    # Clipping draws a curve down to the axis at a 0; masking would cut a gap.
    axes.set_yscale("log", nonpositive="clip")
    lowest_decade = max(positive) * 10.0**-DECADES_SHOWN
    axes.set_ylim(max(min(positive) / 1.5, lowest_decade), max(positive) * 1.5)
