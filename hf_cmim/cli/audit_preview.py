"""Preview of an audit as text for a terminal of 100 columns."""

import textwrap
from collections.abc import Iterator

from hf_cmim.audit.convergence import STUDENTS
from hf_cmim.audit.preview import SPREADS, Preview

WIDTH = 100
MARGIN_NOTE = (
    "Reachable margin: approximately the smallest margin within which an audit that ends with this look calls the"
    " model undistillable with probability .8, if every attack truly loses half a point. The spread is the standard"
    " deviation of a student's test accuracy over seeds."
)
TIME_NOTE = (
    "Times are measured now, on two students that took a few steps side by side on this machine. They assume that"
    " every attack continues to each look: an attack below the margin stops, and a proven leak ends the audit."
)


def preview_text(preview: Preview) -> str:
    """Return the number of students, the hours and the reachable margins as text."""
    return "\n".join(_lines(preview))


def _lines(preview: Preview) -> Iterator[str]:
    costs = preview.costs
    transfer, validation, test = costs.sizes
    yield f"Samples: {transfer:,} to ask about, {validation:,} to choose settings on, {test:,} to test on"
    yield f"Teachers: {costs.teachers}, twin and controls included"
    if len(costs.attacker_shares) > 1:
        names = ", ".join(attacker.name for attacker in preview.plan.attackers)
        yield f"Attackers: {names}; students are counted for one of them, hours for all"
    yield from textwrap.wrap(f"Attacks: {', '.join(preview.families)}", WIDTH, subsequent_indent="  ")
    yield ""
    yield "Screen of each teacher, on validation data"
    yield from (f"{number:8,}  {name}" for name, number in preview.screened.items())
    yield f"{preview.screen_students:8,}  students in all, {hours_text(preview.screen_hours)}"
    yield f"{STUDENTS:8,}  students' worth of steps first, to test if students are trained long enough"
    yield "Confirmation, on test data, for each teacher"
    yield from (f"{number:8,}  {name}" for name, number in preview.confirmed.items())
    yield f"{preview.accounting_students:8,}  more students at most at the end, to account for gains"
    yield ""
    cheapest, most_expensive = preview.queries
    yield f"One student: {costs.steps:,} steps, {_seconds(costs.seconds)}{_live(preview)}"
    yield f"             {cheapest:,} answers to pay for, {most_expensive:,} under the most expensive attack"
    yield f"Processes:   {costs.processes}"
    yield ""
    spreads = "".join(f"{f'{100 * spread:g}':>8}" for spread in SPREADS)
    yield f"{'look':>6}{'students':>10}{'until then':>14}   reachable margin in points at a spread of"
    yield f"{'seeds':>6}{'to confirm':>12}{'':12}  {spreads} points"
    for look in preview.looks:
        margins = "".join(f"{100 * margin:8.2f}" for margin in look.margins)
        yield f"{look.seeds:6}{look.students:10,}{hours_text(look.hours):>14}  {margins}"
    yield ""
    for note in (TIME_NOTE, MARGIN_NOTE):
        yield from textwrap.wrap(note, WIDTH)


def _live(preview: Preview) -> str:
    if preview.live_seconds < 0.01 * preview.costs.seconds:
        return ""
    return f", and {_seconds(preview.live_seconds)} on average for live answers of the teacher"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:,.0f} s"


def hours_text(hours: float) -> str:
    """Return a time in minutes, or in hours from one hour on."""
    return f"{60 * hours:.1f} min" if hours < 1 else f"{hours:,.1f} h"
