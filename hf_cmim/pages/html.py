"""Audits as self-contained HTML files: no network, script or font. Needs the extra "plots"."""

from collections.abc import Iterator, Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hf_cmim.errors import HfCmimError
from hf_cmim.pages import attackers, defences, utility, wording
from hf_cmim.pages.next_steps import next_steps
from hf_cmim.pages.quantities import bound_text, decimal, duration, percent, plain, points, spread
from hf_cmim.pages.svg import inline_svg
from hf_cmim.plots.attackers import AttackerLeak, plot_attackers
from hf_cmim.plots.audit import plot_accounting, plot_audit_curves, plot_forest, terms_of
from hf_cmim.plots.defences import DefendedLeak, plot_defences
from hf_cmim.report import ArmResult, AuditReport, Costs, ModelFacts
from hf_cmim.statistics.states import state_of


def audit_page(report: AuditReport) -> str:
    """Return the page of one audit: the verdict, its picture and the next steps, then scope, limits and evidence.

    Args:
        report: report to show; the page's verdict is that of its primary criterion.

    Returns:
        HTML document, without sections for missing data.
    """
    reproduction = {name: plain(value) for name, value in report.reproduction.items()}
    return _rendered(
        "audit.html",
        report=report,
        fatal=wording.fatal_sentences(report),
        steps=next_steps(report),
        scope=_identity(report.teacher) | wording.scope_rows(report) | wording.control_row(report),
        arms={arm.name: arm for arm in report.arms},
        pictures=_pictures(report),
        costs=_costs(report.costs, report.sittings),
        command=reproduction.pop("command", ""),
        reproduction=reproduction,
        training={name: plain(value) for name, value in report.scope.training.items()},
    )


def comparison_page(reports: Mapping[str, AuditReport]) -> str:
    """Return one page that compares audits: verdicts, each attack's gain in each audit, and each model's utility.

    Args:
        reports: reports by name of the audit. Where scopes differ, the page says so first: gains measured on different
            data, students or suites cannot be compared.

    Raises:
        HfCmimError: an empty mapping.
    """
    if not reports:
        raise HfCmimError("No report was given, so the page would be empty. Give the audits to compare.")
    differences = dict(wording.scope_differences(reports))
    scope = wording.scope_rows(next(iter(reports.values())))
    gains = {
        name: {comparison.attack: comparison for comparison in report.primary.comparisons}
        for name, report in reports.items()
    }
    return _rendered(
        "comparison.html",
        reports=reports,
        differences=differences,
        common={part: value for part, value in scope.items() if part not in differences},
        gains=gains,
        attacks=list(dict.fromkeys(attack for column in gains.values() for attack in column)),
        fatal={name: wording.fatal_sentences(report) for name, report in reports.items()},
    )


def _rendered(template: str, **values: Any) -> str:
    environment = Environment(
        loader=PackageLoader("hf_cmim.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "bound": bound_text,
        "decimal": decimal,
        "percent": percent,
        "points": points,
        "spread": spread,
    }
    functions = (
        wording.control_row,
        wording.error_sentence,
        wording.smallest_margin_sentence,
        wording.largest_gain,
        wording.verdict_definition,
        wording.verdict_name,
        wording.verdict_sentence,
        seed_accuracies,
        state_of,
        terms_of,
    )
    environment.globals |= {function.__name__: function for function in functions} | {
        "attackers": attackers,
        "defences": defences,
        "utility": utility,
        "wording": wording,
    }
    page = environment.get_template(template).render(values)
    # A path may hold bytes that are not valid text.
    return page.encode("utf-8", "replace").decode()


def _pictures(report: AuditReport) -> dict[str, Markup]:
    pictures = {
        f"forest-{result.criterion}": inline_svg(
            plot_forest(result, report.margin),
            f"forest-{result.criterion}",
            f"Gain of each attack, {wording.QUESTIONS[result.criterion].title}; the table of attacks has the numbers.",
        )
        for result in report.criteria
        if result.comparisons
    }
    if report.accounting:
        pictures["accounting"] = inline_svg(
            plot_accounting(report.accounting), "accounting", "Terms of each attack's gain; a table has the numbers."
        )
    leaks = [
        AttackerLeak(
            attackers.ATTACKERS[each.scope.attacker.origin], each.scope.num_transfer, each.primary.comparisons[0]
        )
        for each in report.by_attacker.values()
        if each.primary.comparisons
    ]
    if report.other_attackers and leaks:
        pictures["attackers"] = inline_svg(
            plot_attackers(leaks, report.margin),
            "attackers",
            "Largest gain of each attacker; a table has the numbers.",
        )
    column = defences.primary_column(report)
    defended = [
        DefendedLeak(each.name, each.facts.nll, each.leaks[column].largest_gain)
        for each in defences.defences_of(report)
        if each.facts is not None and column in each.leaks
    ]
    if len(defended) > 1:
        pictures["defences"] = inline_svg(
            plot_defences(defended, report.margin),
            "defences",
            "Largest gain of each defence over the NLL of its answers; a table has the numbers.",
        )
    models = {report.teacher.name: report.teacher}
    if report.twin:
        # Teacher and twin may have one name; neither may hide the other.
        twin_name = f"{report.twin.name}, twin" if report.twin.name in models else report.twin.name
        models[twin_name] = report.twin
    models_with_curve = {name: facts for name, facts in models.items() if facts.curve}
    if models_with_curve:
        pictures["curves"] = inline_svg(
            plot_audit_curves(models_with_curve), "curves", "Conditional mutual information over temperature."
        )
    return pictures


def _identity(facts: ModelFacts) -> dict[str, str]:
    rows = {"Model": facts.name, "Where": facts.path, "Fingerprint": facts.fingerprint}
    return {name: value for name, value in rows.items() if value}


def _costs(costs: Costs, sittings: int) -> dict[str, str]:
    return {
        "Answers an attacker would pay for": f"{costs.queries_paid:,} (the most expensive single student)",
        "Answers asked for": f"{costs.queries_asked:,}",
        "Students trained": f"{costs.students:,}",
        "Steps of all students": f"{costs.student_steps:,}",
        "Time of all processes": duration(costs.seconds),
        "Started or continued": f"{sittings:,} times" if sittings != 1 else "once",
    }


def seed_accuracies(arm: ArmResult) -> Iterator[tuple[int, float]]:
    """Yield pairs of seed and test accuracy of an arm."""
    return zip(arm.seeds, arm.accuracies, strict=True)
