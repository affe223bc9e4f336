"""The flag --budget: a plan that fits a time limit, stored so that the same command continues with the same plan."""

import json
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from accelerate.utils import broadcast_object_list

from hf_cmim.audit.budget import LIGHT, AffordablePlan, affordable_plan, budget_hours, suggested_epochs
from hf_cmim.audit.plan import AuditPlan
from hf_cmim.audit.preview import Preview
from hf_cmim.cli.audit_preview import WIDTH, hours_text
from hf_cmim.cli.audit_setup import AuditSetup
from hf_cmim.cli.printing import say
from hf_cmim.errors import HfCmimError
from hf_cmim.plain_data import read_json
from hf_cmim.whole_files import write_whole

BUDGET_NAME = "budget.json"
"""File of the chosen plan in the folder of its audit."""
SUGGESTED = ("1h", "8h")
"""Budgets that a dry run suggests if the whole audit takes longer."""


def within_budget(setup: AuditSetup, text: str) -> AuditSetup:
    """Return the setup with a plan that fits a budget, and print the parts that were dropped.

    Raises:
        HfCmimError: a budget too small for any plan.
    """
    path = setup.folder / BUDGET_NAME
    stored: list[Any] = [None]
    if setup.is_main and path.is_file():
        stored = [read_json(path, f"the audit's {path}")]
    broadcast_object_list(stored)
    if isinstance(stored[0], dict) and stored[0].get("budget") == text:
        return _with_plan(setup, _with_choice(setup.audit.plan, stored[0]))
    affordable = affordable_plan(setup.audit.preview(), budget_hours(text))
    choice = [_choice(affordable.preview.plan, text)]
    # Each process has measured its own times; the main process decides for all.
    broadcast_object_list(choice)
    if setup.is_main:
        for line in _lines(affordable, text, float(setup.audit.args.num_train_epochs)):
            say(line)
        if not setup.is_dry_run:
            setup.folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(choice[0], indent=1))
    return _with_plan(setup, _with_choice(setup.audit.plan, choice[0]))


def _with_plan(setup: AuditSetup, plan: AuditPlan) -> AuditSetup:
    return replace(setup, audit=replace(setup.audit, plan=plan))


def _choice(plan: AuditPlan, text: str) -> dict[str, Any]:
    """Return the settings that a budget chooses, as JSON values."""
    light = {name: getattr(plan, name) for name in LIGHT}
    return {"budget": text, "families": list(plan.attacks.families), "looks": list(plan.looks), **light}


def _with_choice(plan: AuditPlan, choice: dict[str, Any]) -> AuditPlan:
    light = {name: choice[name] for name in LIGHT}
    return replace(plan, suite=plan.attacks.subset(choice["families"]), looks=tuple(choice["looks"]), **light)


def _lines(affordable: AffordablePlan, text: str, epochs: float) -> Iterator[str]:
    """Yield lines about the chosen plan, the dropped parts and the limits of the verdict."""
    preview = affordable.preview
    requested_hours = hours_text(affordable.full.hours)
    yield f"Within {text}: {_words(preview)}, {hours_text(preview.hours)} at most (the whole plan: {requested_hours})."
    for sentence in affordable.dropped:
        yield from _wrapped(f"Left out: {sentence}.")
    for sentence in affordable.limits:
        yield from _wrapped(f"Limit of the verdict: {sentence}")
    if affordable.dropped:
        flags = f"--families {' '.join(preview.families)} --looks {' '.join(map(str, preview.plan.looks))}"
        flags += "".join(
            f" --{name.replace('_', '-')} {getattr(preview.plan, name)}"
            for name in LIGHT
            if getattr(preview.plan, name) != getattr(affordable.full.plan, name)
        )
        yield from _wrapped(f"The same plan as flags: {flags}")
        if epochs > 1:
            yield from _wrapped(
                f"Everything would fit with num_train_epochs={suggested_epochs(affordable, epochs)} instead of"
                f" {epochs:g}, but students may then be far from converged. An audit checks that first."
            )
    yield ""


def suggestions(preview: Preview) -> Iterator[str]:
    """Yield one line for each suggested budget that is shorter than the whole audit."""
    for text in SUGGESTED:
        hours = budget_hours(text)
        if preview.hours <= hours:
            continue
        try:
            yield f"Too long? --budget {text}: {_words(affordable_plan(preview, hours).preview)}"
        except HfCmimError as error:
            yield from _wrapped(f"--budget {text} fits nothing. {error}")


def _words(preview: Preview) -> str:
    families = len(preview.families)
    return f"{families} attack{'s' if families > 1 else ''}, last look at {preview.plan.looks[-1]} seeds"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
