"""Pictures inside an HTML page: text stays text, colours follow the page. Needs the extra "plots"."""

import io
import re
import warnings
from typing import Any
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

from hf_cmim.plots.style import GREY, MODEL_COLOURS

# fonttype "none" keeps text as text; a fixed hashsalt makes identical pictures identical bytes.
SETTINGS: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "hf_cmim"}
# Colours of the plots and the variables of the style sheet that replace them, on light and dark ground.
VARIABLES = {"#000000": "ink", GREY: "soft", MODEL_COLOURS[0]: "below", MODEL_COLOURS[1]: "leak"}
REFERENCE = re.compile(r"#([\w.-]+)")


def inline_svg(figure: Figure, prefix: str, description: str) -> Markup:
    """Return a picture as an `svg` element.

    Args:
        figure: figure drawn in the colours of `hf_cmim.plots.audit`.
        prefix: prefix of the picture's identifiers, unique in the page.
        description: text for screen readers.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        # The browser draws the letters, so a glyph that matplotlib's font lacks does not matter.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
        figure.savefig(buffer, format="svg", transparent=True)
    root = ElementTree.fromstring(buffer.getvalue())
    for element in root.iter():
        element.tag = _local(element.tag)
        attributes = {_local(name): value for name, value in element.attrib.items()}
        element.attrib.clear()
        element.attrib.update({name: _adapted(name, value, prefix) for name, value in attributes.items()})
    _tidy(root)
    # The style sheet sets the size.
    del root.attrib["width"], root.attrib["height"]
    root.attrib.update({"role": "img", "aria-label": description})
    # Markup is safe here: ElementTree has escaped every name.
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _local(name: str) -> str:
    """Return a name without its namespace, which HTML does not need."""
    return name.rpartition("}")[2]


def _adapted(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return f"{prefix}-{value}"
    if name in {"href", "clip-path"}:
        return REFERENCE.sub(rf"#{prefix}-\1", value)
    if name == "style":
        for colour, variable in VARIABLES.items():
            value = re.sub(re.escape(colour), f"var(--{variable})", value, flags=re.IGNORECASE)
        # Matches the list of font families as matplotlib writes it, before and since 3.10.
        return re.sub(r"'DejaVu Sans'[^;]*", "var(--sans)", value)
    return value


def _tidy(root: ElementTree.Element) -> None:
    """Remove the date, unused identifiers, and the picture's style sheet, which would apply to the whole page."""
    values = [value for element in root.iter() for value in element.attrib.values()]
    referenced_identifiers = set(REFERENCE.findall(" ".join(values)))
    for parent in root.iter():
        for child in list(parent):
            if child.tag in {"metadata", "style"}:
                parent.remove(child)
        if parent.get("id") not in referenced_identifiers:
            parent.attrib.pop("id", None)
