"""Pictures of output clusters before and after hardening, and of audits.

Every function returns a new `matplotlib.figure.Figure`, made without pyplot: no window opens and matplotlib's settings
do not change. `figure.savefig("curves.pdf")` writes it. Figures and fonts fit a paper's column (3.5 in) or text width
(7 in). The n-th model of a mapping has the same colour in every picture; colour-blind readers can tell the colours
apart. Requires the extra "plots".
"""

from hf_cmim.plots.attackers import AttackerLeak, plot_attackers
from hf_cmim.plots.audit import plot_accounting, plot_audit_curves, plot_forest
from hf_cmim.plots.defences import DefendedLeak, plot_defences
from hf_cmim.plots.hardening import (
    most_confused_classes,
    plot_clusters,
    plot_cmi_curves,
    plot_training,
    project_on_simplex,
)

__all__ = [
    "AttackerLeak",
    "DefendedLeak",
    "most_confused_classes",
    "plot_accounting",
    "plot_attackers",
    "plot_audit_curves",
    "plot_clusters",
    "plot_cmi_curves",
    "plot_defences",
    "plot_forest",
    "plot_training",
    "project_on_simplex",
]
