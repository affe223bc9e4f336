"""An audit report as plain text for a terminal of 100 columns."""

from collections.abc import Iterator, Sequence

from hf_cmim.names import cells, one_line, shortened
from hf_cmim.pages import attackers, defences, wording
from hf_cmim.pages.quantities import MINUS, points
from hf_cmim.report import NOT_CONVERGED, AuditReport
from hf_cmim.statistics.states import state_of

WIDTH = 100
NAME_WIDTH = 44
NUMBER_WIDTH = 8
DEFENCE_WIDTH = 26
PRICE_WIDTH = 10


def audit_table(report: AuditReport) -> str:
    """Return the verdict, one row per attack and the reasons for doubt, at most 100 columns wide.

    Args:
        report: report to show. Control characters in its names are removed.
    """
    return "\n".join(_lines(report)) + "\n"


def _lines(report: AuditReport) -> Iterator[str]:
    if report.power is False:
        yield from _wrapped(wording.NO_POWER)
        yield ""
    if doubt := wording.first_doubt(report):
        yield from _wrapped(doubt)
        yield ""
    yield shortened(f"{report.title}, {report.date}", WIDTH)
    yield ""
    fatal = wording.fatal_sentences(report)
    primary = wording.left_aside(report, report.primary)
    if fatal:
        yield from _wrapped(f"{wording.no_verdict(report.checks)}.")
        for sentence in fatal:
            yield from _wrapped(sentence)
        yield ""
        yield wording.LEFT_ASIDE
    yield f"{wording.verdict_name(primary.verdict, report.margin)}."
    yield from _wrapped(wording.verdict_sentence(primary, report.margin))
    yield from _wrapped(wording.smallest_margin_sentence(report.primary))
    if report.power is None:
        yield from _wrapped(wording.NO_CONTROL)
    yield ""
    for name, value in wording.scope_rows(report).items():
        yield f"{name:18}{shortened(value, WIDTH - 18)}"
    for result in report.criteria:
        if not result.primary:
            name = wording.criterion_verdict(report, result)
            yield from _wrapped(f"Described only, {wording.QUESTIONS[result.criterion].title}: {name}.")
    for other in report.other_attackers:
        text = f"{attackers.attacker_text(other.scope.attacker)}: {wording.attacker_verdict(other)}."
        yield from _wrapped(f"An attacker with {text} {wording.smallest_margin_sentence(other.primary)}")
    for sentence in (*wording.label_sentences(report), *attackers.attacker_sentences(report)):
        yield from _wrapped(sentence)
    if report.primary.comparisons:
        yield ""
        yield _row("attack", ("gain", "lower", "upper", "seeds"), "state")
        for comparison in report.primary.comparisons:
            values = (comparison.gain, comparison.lower, comparison.upper)
            numbers = [points(value).replace(MINUS, "-") for value in values]
            yield _row(comparison.attack, (*numbers, str(comparison.seeds)), state_of(comparison, report.margin))
    yield from _defences(report)
    for control in report.controls:
        yield ""
        yield from _wrapped(wording.control_sentence(control, report.margin))
        for check in control.checks:
            if check.severity == "warning":
                yield from _wrapped(f"warning, {control.name}, {check.name}: {check.sentence}")
    for check in report.checks:
        # Fatal checks and the doubt about convergence are printed above the verdict.
        if check.severity == "warning" and check.name != NOT_CONVERGED:
            yield ""
            yield from _wrapped(f"warning, {check.name}: {check.sentence}")


def _defences(report: AuditReport) -> Iterator[str]:
    """Yield the table of defences, then one table for each further attacker and criterion."""
    compared = defences.defences_of(report)
    if not compared:
        return
    yield ""
    yield "Defences compared"
    for number, (column, title) in enumerate(defences.columns_of(report).items()):
        heads = ("accuracy", "NLL", "ECE") if number == 0 else ()
        words = () if number else ("price", "verdict")
        yield shortened(title, WIDTH)
        yield _defence_row("teacher", (*heads, "gain", "lower", "upper"), *words)
        for defence in compared:
            leak = defence.leaks.get(column)
            largest = None if leak is None else leak.largest_gain
            values = () if largest is None else (largest.gain, largest.lower, largest.upper)
            numbers = [points(value).replace(MINUS, "-") for value in values] or [""] * 3
            figures = [text.removesuffix(" %") for text in defence.utility] if number == 0 else []
            words = () if number else (defence.price, defence.verdict)
            yield _defence_row(defence.name, (*figures, *numbers), *words)
    yield from _wrapped(defences.note(report))
    if defences.has_channel(report):
        yield from _wrapped(defences.ON_THE_WAY_OUT)


def _defence_row(name: str, numbers: Sequence[str], price: str = "", verdict: str = "") -> str:
    name = shortened(name, DEFENCE_WIDTH)
    padding = " " * (DEFENCE_WIDTH - cells(name))
    columns = "".join(f"{number:>{NUMBER_WIDTH}}" for number in numbers)
    return f"{name}{padding}{columns}{price:>{PRICE_WIDTH}}  {verdict}".rstrip()


def _row(name: str, numbers: Sequence[str], state: str) -> str:
    name = shortened(name, NAME_WIDTH)
    padding = " " * (NAME_WIDTH - cells(name))
    columns = "".join(f"{number:>{NUMBER_WIDTH}}" for number in numbers)
    return f"{name}{padding}{columns}  {state}".rstrip()


def _wrapped(text: str) -> Iterator[str]:
    """Yield the lines of a paragraph; a word wider than the terminal is shortened."""
    line = ""
    for word in one_line(text.replace(MINUS, "-")).split():
        word = shortened(word, WIDTH)
        if line and cells(line) + 1 + cells(word) > WIDTH:
            yield line
            line = word
        else:
            line = f"{line} {word}".lstrip()
    yield line
