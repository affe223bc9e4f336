"""Pictures: what hardening does to output clusters, and what an audit found.

Every function returns a `matplotlib.figure.Figure` of its own, made without pyplot: no window opens, no setting of
matplotlib stays changed, and `figure.savefig("curves.pdf")` writes it. Sizes and letters suit a paper's column
(3.5 in) or text width (7 in). The n-th model of a mapping has the same colour in every picture; all colours stay apart
for colour-blind eyes. Needs the extra "plots".
"""

from hf_cmim.plots.audit import plot_accounting, plot_audit_curves, plot_forest
from hf_cmim.plots.hardening import (
    most_confused_classes,
    plot_clusters,
    plot_cmi_curves,
    plot_training,
    project_on_simplex,
)

__all__ = [
    "most_confused_classes",
    "plot_accounting",
    "plot_audit_curves",
    "plot_clusters",
    "plot_cmi_curves",
    "plot_forest",
    "plot_training",
    "project_on_simplex",
]
