"""A picture inside a page: text stays text, colours follow the page, identifiers are its own. Needs "plots"."""

import io
import re
import warnings
from typing import Any
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

from hf_cmim.plots.style import GREY, MODEL_COLOURS

# Text stays text, and the same picture gives the same bytes.
SETTINGS: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "hf_cmim"}
# The page's style sheet says what each of these is on light and on dark ground.
VARIABLES = {"#000000": "ink", GREY: "soft", MODEL_COLOURS[0]: "below", MODEL_COLOURS[1]: "leak"}
REFERENCE = re.compile(r"#([\w.-]+)")


def inline_svg(figure: Figure, prefix: str, description: str) -> Markup:
    """Return the picture as an `svg` element.

    Args:
        figure: drawn in the colours of `hf_cmim.plots.audit`.
        prefix: differs from that of every other picture in the page, because identifiers are the page's.
        description: what a screen reader says.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        # The reader's browser draws the letters, with fonts of its own.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
        figure.savefig(buffer, format="svg", transparent=True)
    root = ElementTree.fromstring(buffer.getvalue())
    for element in root.iter():
        element.tag = _local(element.tag)
        attributes = {_local(name): value for name, value in element.attrib.items()}
        element.attrib.clear()
        element.attrib.update({name: _adapted(name, value, prefix) for name, value in attributes.items()})
    _tidy(root)
    del root.attrib["width"], root.attrib["height"]  # the style sheet gives the size
    root.attrib.update({"role": "img", "aria-label": description})
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # ElementTree escaped every name in it


def _local(name: str) -> str:
    """Return a name without its namespace, which HTML knows by itself."""
    return name.rpartition("}")[2]


def _adapted(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return f"{prefix}-{value}"
    if name in {"href", "clip-path"}:
        return REFERENCE.sub(rf"#{prefix}-\1", value)
    if name == "style":
        for colour, variable in VARIABLES.items():
            value = re.sub(re.escape(colour), f"var(--{variable})", value, flags=re.IGNORECASE)
        # The list of families, in the words of matplotlib before and after 3.10.
        return re.sub(r"'DejaVu Sans'[^;]*", "var(--sans)", value)
    return value


def _tidy(root: ElementTree.Element) -> None:
    """Remove the date, the picture's own style sheet, which would rule the page, and identifiers nobody refers to."""
    referred = set(REFERENCE.findall(" ".join(value for each in root.iter() for value in each.attrib.values())))
    for parent in root.iter():
        for child in list(parent):
            if child.tag in {"metadata", "style"}:
                parent.remove(child)
        if parent.get("id") not in referred:
            parent.attrib.pop("id", None)
