"""An audit as plain text for a terminal of 100 columns."""

from collections.abc import Iterator, Sequence

from hf_cmim.names import cells, one_line, shortened
from hf_cmim.pages import wording
from hf_cmim.pages.quantities import MINUS, points
from hf_cmim.report import NOT_CONVERGED, AuditReport
from hf_cmim.statistics.states import state_of

WIDTH = 100
NAME_WIDTH = 44
NUMBER_WIDTH = 8


def audit_table(report: AuditReport) -> str:
    """Return the verdict, a row for each attack, and the reasons for doubt; no line is wider than 100 columns.

    Args:
        report: its names may hold any character; control characters do not reach the terminal.
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
    if report.primary.comparisons:
        yield ""
        yield _row("attack", ("gain", "lower", "upper", "seeds"), "state")
        for each in report.primary.comparisons:
            numbers = [points(value).replace(MINUS, "-") for value in (each.gain, each.lower, each.upper)]
            yield _row(each.attack, (*numbers, str(each.seeds)), state_of(each, report.margin))
    for control in report.controls:
        yield ""
        yield from _wrapped(wording.control_sentence(control, report.margin))
        for check in control.checks:
            if check.severity == "warning":
                yield from _wrapped(f"warning, {control.name}, {check.name}: {check.sentence}")
    for check in report.checks:
        if check.severity == "warning" and check.name != NOT_CONVERGED:  # the others are above
            yield ""
            yield from _wrapped(f"warning, {check.name}: {check.sentence}")


def _row(name: str, numbers: Sequence[str], state: str) -> str:
    name = shortened(name, NAME_WIDTH)
    padding = " " * (NAME_WIDTH - cells(name))
    return f"{name}{padding}{''.join(f'{number:>{NUMBER_WIDTH}}' for number in numbers)}  {state}".rstrip()


def _wrapped(text: str) -> Iterator[str]:
    """Yield a paragraph's lines; a word wider than the terminal is shortened."""
    line = ""
    for word in one_line(text.replace(MINUS, "-")).split():
        word = shortened(word, WIDTH)
        if line and cells(line) + 1 + cells(word) > WIDTH:
            yield line
            line = word
        else:
            line = f"{line} {word}".lstrip()
    yield line
