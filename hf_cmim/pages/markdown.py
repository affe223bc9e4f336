"""An audit report as a section of a model card."""

import re
from collections.abc import Iterable, Iterator, Sequence

from hf_cmim.names import one_line
from hf_cmim.pages import attackers, defences, utility, wording
from hf_cmim.pages.quantities import bound_text, plain, points
from hf_cmim.report import AuditReport
from hf_cmim.statistics.states import state_of

STRONGEST = 10
"""Number of attacks that a card lists."""
ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
SPECIAL = re.compile(r"[\\`*_\[\]|~$#]")


def audit_markdown(report: AuditReport) -> str:
    """Return a section with verdict, criteria, strongest attacks, utility, doubts and the command to repeat it.

    Args:
        report: report to show. Its names may contain any character and are escaped.
    """
    return "\n\n".join(_blocks(report)) + "\n"


def escaped(text: str) -> str:
    r"""Return text, on one line, that Markdown shows literally in a sentence or table cell.

    >>> escaped("<b>|`kd`")
    '&lt;b&gt;\\|\\`kd\\`'
    """
    text = "".join(ENTITIES.get(letter, letter) for letter in one_line(text))
    return SPECIAL.sub(r"\\\g<0>", text)


def _blocks(report: AuditReport) -> Iterator[str]:
    yield "## Distillation audit"
    if report.power is False:
        yield f"**{wording.NO_POWER}**"
    if doubt := wording.first_doubt(report):
        yield f"**{escaped(doubt)}**"
    yield from _verdict(report)
    yield escaped(wording.smallest_margin_sentence(report.primary))
    if report.power is None:
        yield wording.NO_CONTROL
    scope = {"Model": report.teacher.name} | wording.scope_rows(report) | wording.control_row(report)
    yield _table(("audit", report.title), "ll", (*scope.items(), ("Date", report.date)))
    yield f"The verdict says nothing about: {'; '.join(name.lower() for name in wording.LIMITS)}."
    yield "### Criteria"
    yield _table(
        ("criterion", "verdict", "largest gain", "smallest margin"),
        "llrr",
        (
            (
                wording.QUESTIONS[result.criterion].title + (" (chosen before the run)" if result.primary else ""),
                wording.criterion_verdict(report, result),
                points(max(comparison.gain for comparison in result.comparisons)) if result.comparisons else "",
                bound_text(result.smallest_margin),
            )
            for result in report.criteria
        ),
    )
    if report.primary.comparisons:
        yield from _attacks(report)
    if sentences := wording.label_sentences(report):
        yield "### What labels alone give away"
        yield wording.LABELS
        yield "\n".join(f"- {escaped(sentence)}" for sentence in sentences)
    yield from _attackers(report)
    yield from _defences(report)
    if report.controls:
        yield "### Beside other teachers"
        yield f"Audited in the same way. {wording.EQUAL_SEEDS}"
        yield _controls(report)
        doubts = [(control.name, check) for control in report.controls for check in control.checks]
        if doubts:
            yield "\n".join(f"- {escaped(f'{name}, {check.name}: {check.sentence}')}" for name, check in doubts)
    yield "### Utility to its owner"
    yield from _utility(report)
    if report.learning_curve is not None:
        yield "### Are students trained long enough?"
        yield escaped(wording.curve_sentence(report.learning_curve))
    if report.checks:
        yield "### Reasons for doubt"
        yield "\n".join(f"- {escaped(check.name)}: {escaped(check.sentence)}" for check in report.checks)
    if report.reproduction:
        yield "### How to repeat it"
        yield from _reproduction(report)


def _verdict(report: AuditReport) -> Iterator[str]:
    primary = wording.left_aside(report, report.primary)
    name = wording.verdict_name(primary.verdict, report.margin)
    sentence = escaped(wording.verdict_sentence(primary, report.margin))
    fatal = wording.fatal_sentences(report)
    if not fatal:
        yield f"**{name}.** {sentence}"
        return
    yield f"**{escaped(wording.no_verdict(report.checks))}.**"
    yield "\n".join(f"- {escaped(reason)}" for reason in fatal)
    yield f"{wording.LEFT_ASIDE} {name}. {sentence}"


def _attacks(report: AuditReport) -> Iterator[str]:
    comparisons = sorted(report.primary.comparisons, key=lambda comparison: comparison.gain, reverse=True)
    yield "### Attacks"
    yield (
        f"The strongest {min(STRONGEST, len(comparisons))} of {len(comparisons)}. Gains in points of test accuracy"
        f" over {wording.QUESTIONS[report.primary.criterion].rival}. {wording.BOUNDS} {wording.STATES}"
    )
    yield _table(
        # The state comes second: a phone shows the first columns of a wide table.
        ("attack", "state", "gain", "lower", "upper", "seeds"),
        "llrrrr",
        (
            (
                comparison.attack,
                state_of(comparison, report.margin),
                points(comparison.gain),
                points(comparison.lower),
                points(comparison.upper),
                str(comparison.seeds),
            )
            for comparison in comparisons[:STRONGEST]
        ),
    )


def _attackers(report: AuditReport) -> Iterator[str]:
    sentences = attackers.attacker_sentences(report)
    if not sentences and not report.other_attackers:
        return
    yield "### Attackers"
    if report.other_attackers:
        yield attackers.ATTACKER_NOTE
        yield _table(
            ("attacker", "samples", "verdict", "largest gain", "smallest margin"),
            "lrlrr",
            (
                (
                    attackers.attacker_text(each.scope.attacker),
                    f"{each.scope.num_transfer:,}",
                    wording.attacker_verdict(each),
                    points(max(comparison.gain for comparison in each.primary.comparisons))
                    if each.primary.comparisons
                    else "",
                    bound_text(each.primary.smallest_margin),
                )
                for each in report.by_attacker.values()
            ),
        )
    if sentences:
        yield "\n".join(f"- {sentence}" for sentence in sentences)


def _defences(report: AuditReport) -> Iterator[str]:
    compared = defences.defences_of(report)
    if not compared:
        return
    columns = defences.columns_of(report)
    yield "### Defences compared"
    yield f"{defences.note(report)} {defences.ON_THE_WAY_OUT if defences.has_channel(report) else ''}".rstrip()
    yield _table(
        ("teacher", "verdict", "accuracy", "NLL, nats", "ECE", *columns.values(), "price, answers"),
        f"llrrr{'r' * len(columns)}r",
        (
            (defence.name, defence.verdict, *defence.utility, *map(defence.leak, columns), defence.price)
            for defence in compared
        ),
    )


def _utility(report: AuditReport) -> Iterator[str]:
    rows = utility.utility_rows(report)
    if report.twin is None:
        yield _table(("measure", report.teacher.name), "lr", ((row.name, row.model) for row in rows))
    else:
        head = ("measure", report.teacher.name, report.twin.name, "difference")
        yield _table(head, "lrrr", ((row.name, row.model, row.twin, row.change) for row in rows))
    if report.teacher.membership_auc is not None:
        yield utility.MEMBERSHIP_NOTE


def _controls(report: AuditReport) -> str:
    rows = []
    for control in report.controls:
        cells = [control.name, wording.control_verdict(control, report.margin)]
        if control.differences:
            first = control.differences[0]
            cells += [wording.compared_attacks(first, True), wording.interval_text(first.difference), str(first.seeds)]
        rows.append(cells + [""] * (5 - len(cells)))
    return _table(("teacher", "verdict", "compared", "difference", "seeds"), "lllrr", rows)


def _reproduction(report: AuditReport) -> Iterator[str]:
    rows = {name: plain(value) for name, value in report.reproduction.items()}
    if command := rows.pop("command", ""):
        # A fence must be longer than every run of backticks inside it.
        runs = re.findall("`+", command)
        fence = "`" * max(3, 1 + max(map(len, runs), default=0))
        yield f"{fence}\n{command}\n{fence}"
    if rows:
        yield "\n".join(f"- {escaped(name)}: {escaped(value)}" for name, value in rows.items())


def _table(head: Sequence[str], sides: str, rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; `sides` has one letter per column: l for text, r for numbers."""
    # A cell with a bare pipe or newline would shift all later columns, so every cell is escaped.
    rule = ["--:" if side == "r" else "---" for side in sides]
    lines = [[escaped(cell) for cell in head], rule, *([escaped(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
