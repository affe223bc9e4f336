"""The page of one audit says what the report says, to anybody, whatever the names are."""

import ast
import re
from dataclasses import replace
from pathlib import Path

import pytest
from pages.page_reader import number, read, rows, section
from pages.reports import HOSTILE, VERDICTS, facts, hostile, report, small

from hf_cmim.pages import wording
from hf_cmim.pages.html import audit_page
from hf_cmim.report import Check

ROOT = Path(__file__).parents[2]
STYLE = (ROOT / "hf_cmim/pages/templates/style.css").read_text(encoding="utf-8")
HEADLINES = (
    "Distillable.",
    "Leaks less than 0.5 points.",
    "Undistillable within 0.5 points.",
    "Inconclusive at a margin of 0.5 points.",
)
FATAL = Check("test data seen", "fatal", "812 of 45,000 test samples also stand in the transfer set.")


@pytest.fixture(scope="module")
def page():
    return audit_page(report(attacks=4))


@pytest.fixture(scope="module")
def hostile_page():
    return audit_page(hostile())


def headings(document):
    return [each.text for each in document.all("h2")]


def headline(document):
    (found,) = (each for each in document.all("p") if "verdict" in each.classes)
    return found.text


@pytest.mark.parametrize("power", [False, None, True])
def test_first_line_says_that_there_is_no_power(power):
    """Catches the sentence below the verdict, where few read it, and one for an audit that has power or no control."""
    document = read(audit_page(small(power=power)))
    (main,) = document.all("main")
    first = next(each.text for each in main.all("p"))
    assert (first == wording.NO_POWER) == (power is False)
    assert (wording.NO_POWER in main.text) == (power is False)
    assert (wording.NO_CONTROL in main.text) == (power is None)


@pytest.mark.parametrize(("verdict", "words"), list(zip(VERDICTS, HEADLINES, strict=True)))
def test_verdict_picture_steps_and_scope_come_first_in_this_order(verdict, words):
    """Catches a verdict in other words, another criterion's verdict, and a scope that stands where nobody looks."""
    audit = small(verdict)
    other = replace(audit.primary, primary=False, verdict=VERDICTS[VERDICTS.index(verdict) - 1], comparisons=())
    document = read(audit_page(replace(audit, criteria=(audit.primary, other))))
    (header,) = document.all("header")
    assert next(header.all("h1")).text == audit.title
    assert headline(document) == words
    assert len(list(header.all("svg"))) == 1, "the picture stands with the verdict"
    assert audit.date in header.text
    assert headings(document)[:2] == ["What to do next", "What was audited"]
    scope, stated = audit.scope, section(document, "What was audited").text
    for part in (scope.suite, "0.5 points", scope.student, scope.transfer_set, scope.test_set, "45,000"):
        assert part in stated


def test_fatal_check_takes_the_verdict_away():
    """Catches a verdict in large letters above the check that says not to believe it."""
    document = read(audit_page(small(checks=(FATAL,))))
    (header,) = document.all("header")
    no_verdict = "No verdict, because a check failed: test data seen."
    assert headline(document) == no_verdict
    after = header.text.split(no_verdict)[1]
    assert after.lstrip().startswith(FATAL.sentence)
    assert "no verdict" in next(document.all("title")).text
    document = read(audit_page(small(checks=(replace(FATAL, severity="warning"),))))
    assert headline(document) == HEADLINES[2]


def test_order_of_the_sections(page):
    """Catches a section that is lost or moved: limits first, what only few need last."""
    assert headings(read(page)) == [
        "What to do next", "What was audited", "What the verdict does not say", "Attacks", "Attackers",
        "What labels alone give away", "What the gains are made of", "Spread of the output clusters",
        "Utility to its owner", "Controls", "What it cost", "Reasons for doubt", "How to repeat it", "All students",
    ]  # fmt: skip


@pytest.mark.parametrize("attacks", [1, 5, 31])
def test_every_attack_is_in_the_table_with_its_numbers(attacks):
    """Catches a table cut at some length, swapped bounds, fractions shown as points, a rounded-off sign."""
    audit = small(attacks=attacks)
    shown = rows(next(section(read(audit_page(audit)), "Attacks").all("table")))
    assert len(shown) == attacks
    for row, each in zip(shown, audit.primary.comparisons, strict=True):
        assert row[0] == each.attack
        values = [number(cell) for cell in row[2:5]]
        assert values == pytest.approx([100 * each.gain, 100 * each.lower, 100 * each.upper], abs=0.00501)
        assert row[1] == "below the margin", "a phone shows the first two columns"
        assert row[6:] == [str(each.seeds), "36"]
        accuracies = next(arm.accuracies for arm in audit.arms if arm.name == each.attack)
        assert number(row[5].split(" ± ")[0]) == pytest.approx(100 * sum(accuracies) / len(accuracies), abs=0.00501)


def test_baselines_are_named_where_attacks_have_their_own():
    """Catches a table that hides that each attack has a baseline of its own."""
    document = read(audit_page(small(reference="")))
    table = next(section(document, "Attacks").all("table"))
    assert [row[-1] for row in rows(table)] == ["self-distillation"] * 2


def test_other_criteria_are_folded_and_say_their_own_verdict():
    """Catches a described criterion that looks like the one named before the run, or repeats its verdict."""
    audit = small()
    paper = report(VERDICTS[0], attacks=2).criteria[1]
    document = read(audit_page(replace(audit, criteria=(audit.criteria[0], paper))))
    (details,) = (each for each in document.all("details") if "Described only" in each.text)
    assert "Distillable" in next(details.all("summary")).text
    assert len(list(details.all("svg"))) == 1
    (header,) = document.all("header")
    primary = next(header.all("svg"))
    assert all(each.tag != "details" for each in primary.above())


def test_utility_stands_beside_the_twin(page):
    """Catches swapped columns, a difference of the wrong sign, a figure of another name."""
    audit = report(attacks=4)
    shown = rows(next(section(read(page), "Utility to its owner").all("table")))
    for row, (field, scale) in zip(
        shown,
        [("accuracy", 100), ("top5_accuracy", 100), ("nll", 1), ("nll_calibrated", 1), ("ece", 100),
         ("ece_calibrated", 100), ("aurc", 1), ("within_total_ratio", 1)],
        strict=True,
    ):  # fmt: skip
        own, twin = scale * getattr(audit.teacher, field), scale * getattr(audit.twin, field)
        assert [number(cell) for cell in row[1:]] == pytest.approx([own, twin, own - twin], abs=0.00501)


def test_twin_of_the_same_name_keeps_its_curve():
    """Catches a legend by name that loses the model when its twin is called the same."""
    document = read(audit_page(small(teacher=facts("ViT"), twin=facts("ViT", spread=3.0))))
    labels = [each.text for each in section(document, "Spread of the output clusters").all("text")]
    assert labels[-2:] == ["ViT", "ViT, twin"]


def test_accounting_controls_costs_and_students_are_the_report_s(page):
    """Catches terms in another order than their heads, a control's own accuracy left out, students left out."""
    audit, document = report(attacks=4), read(page)
    (first, *_), terms = rows(next(section(document, "What the gains are made of").all("table"))), audit.accounting[0]
    estimates = [number(cell.split(" (")[0]) for cell in first[1:]]
    parts = (terms.gain, terms.loss_form, terms.teacher_errors, terms.class_similarity, terms.instance_information)
    assert estimates == pytest.approx([100 * each.estimate for each in parts], abs=0.00501)
    controls, differences = section(document, "Controls").all("table")
    twin, argmax = rows(controls)
    assert (twin[0], twin[1], twin[-1]) == ("CE twin", "Distillable", "92.81 %")
    assert argmax == ["CE model behind argmax", "Undistillable within 0.5 points", "", "", "", "", "0.31 points", ""]
    strongest, *others = rows(differences)  # the second control has none
    names = [each.attack for each in audit.controls[0].differences]
    assert strongest == [f"the strongest, {names[-1]} against {names[0]}", "+0.71 (+0.12, +1.30)", "12"]
    assert [row[0] for row in others] == names[1:]
    assert "740,000" in section(document, "What it cost").text
    students = section(document, "All students")
    for arm in audit.arms:
        assert arm.setting in students.text
        assert (
            ", ".join(f"{s}: {100 * a:.2f}" for s, a in zip(arm.seeds, arm.accuracies, strict=True)) in students.text
        )


def test_sections_without_data_are_left_out():
    """Catches headings with nothing under them."""
    bare = report(
        attacks=1, accounting=(), controls=(), checks=(), twin=None, arms=(), reproduction={}, power=None,
        label_floor=None, class_answers=None, teacher=facts("model", curve=(), path=""),
    )  # fmt: skip
    document = read(audit_page(replace(bare, scope=replace(bare.scope, training={}))))
    assert headings(document) == [
        "What to do next", "What was audited", "What the verdict does not say", "Attacks", "Attackers",
        "Utility to its owner",
        "What it cost",
    ]  # fmt: skip
    for each in document.all("section", "details"):
        assert any(len(list(each.all(tag))) for tag in ("p", "li", "svg", "table", "dl")), each.text
    assert "Where" not in next(document.all("dl")).text


def test_no_attack_compared_is_no_verdict_on_attacks():
    """Catches "every attack" said of none."""
    audit = small()
    nothing = replace(audit.primary, verdict="inconclusive", comparisons=(), smallest_margin=1.0)
    document = read(audit_page(replace(audit, criteria=(nothing,))))
    assert "No attack was compared with a baseline." in document.text
    assert "Attacks" not in headings(document)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_text_and_nothing_else(hostile_page, name):
    """Catches a name that becomes markup, a template, or is cut in the table."""
    document = read(hostile_page)
    table = next(section(document, "Attacks").all("table"))
    assert " ".join(name.split()) in [row[0] for row in rows(table)]
    assert not list(document.all("script", "b", "link", "img", "iframe"))
    assert "49 {% raw" not in hostile_page


def test_undecodable_path_can_be_written():
    """Catches a page that no file can hold, because a path held a byte that is no text."""
    assert audit_page(small(teacher=facts("model", path="folder\udce9", curve=()))).encode()


def test_page_asks_for_nothing(page, hostile_page):
    """Catches a font, script, picture or style sheet from elsewhere, and any address in what matplotlib writes."""
    for each in (page, hostile_page):
        assert not re.search(r"https?:|//|@import|javascript:", each.replace("</", ""))
        assert set(re.findall(r"url\(([^)]?)", each)) <= {"#"}
        for node in read(each).all():
            for name, value in node.attributes.items():
                assert name not in {"src", "srcset", "data", "action"}
                assert not name.startswith("on")
                assert name != "href" or value.startswith("#")


def test_identifiers_do_not_collide_between_pictures(hostile_page):
    """Catches pictures that share clip paths and marks, so that one is drawn with the other's."""
    document = read(hostile_page)
    identifiers = [node.attributes["id"] for node in document.all() if "id" in node.attributes]
    assert len(identifiers) == len(set(identifiers)) > 5
    referred = set(re.findall(r'(?:href="|url\()#([^")]+)', hostile_page))
    assert referred == set(identifiers)
    for picture in document.all("svg"):
        own = {node.attributes["id"] for node in picture.all() if "id" in node.attributes}
        inside = " ".join(value for node in picture.all() for value in node.attributes.values())
        assert set(re.findall(r"#([\w.-]+)", inside)) == own


def test_pictures_follow_the_page(page):
    """Catches letters turned into outlines, colours that vanish on dark ground, a style sheet that rules the page."""
    document = read(page)
    for picture in document.all("svg"):
        assert len(list(picture.all("text"))) > 5
        assert not re.search(
            r"#[0-9a-fA-F]{6}\b", " ".join(node.attributes.get("style", "") for node in picture.all())
        )
        assert not list(picture.all("style", "metadata"))
        assert picture.attributes["role"] == "img"
        assert picture.attributes["aria-label"]
        assert "width" not in picture.attributes
    used = set(re.findall(r"var\((--[\w-]+)\)", page))
    assert used <= set(re.findall(r"(--[\w-]+):", STYLE.partition("@media")[0]))


def contrast(first, second):
    """WCAG 2 contrast of two colours."""

    def luminance(colour):
        parts = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    darker, lighter = sorted((luminance(first), luminance(second)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_letters_can_be_read(scheme):
    """Catches a colour too close to the ground, in either scheme."""
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    block = STYLE.partition("prefers-color-scheme: dark")[0 if scheme == "light" else 2].partition("}")[0]
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))
    for name in ("ink", "soft", "accent", "below", "leak"):
        assert contrast(colours[name], colours["ground"]) >= 4.5, name


def test_page_fits_a_phone(hostile_page):
    """Catches a table that makes the whole page scroll sideways, and a page that a phone shrinks."""
    document = read(hostile_page)
    names = {node.attributes.get("name"): node.attributes.get("content") for node in document.all("meta")}
    assert names["viewport"] == "width=device-width, initial-scale=1"
    tables = list(document.all("table"))
    assert len(tables) >= 5
    for table in tables:
        assert any("scroll" in each.classes for each in table.above())
    assert re.search(r"\.scroll \{[^}]*overflow-x: auto", STYLE)
    assert re.search(r"pre \{[^}]*overflow-x: auto", STYLE)
    assert re.search(r"body \{[^}]*overflow-wrap: anywhere", STYLE)


def test_no_negative_zero():
    """Catches −0.00, which looks like a loss."""
    audit = small(attacks=1)
    (row,) = audit.primary.comparisons
    zero = replace(row, gain=-0.00001, lower=-0.004, upper=-0.0)
    criteria = (replace(audit.primary, comparisons=(zero,), smallest_margin=0.0),)
    document = read(audit_page(replace(audit, criteria=criteria)))
    assert rows(next(section(document, "Attacks").all("table")))[0][2:5] == ["0.00", "−0.40", "0.00"]
    assert "Every margin above 0 would hold" in document.text
    assert not re.search(r"[-−]0\.0+\b", document.text)


def test_templates_are_part_of_the_package():
    """Catches a wheel without the page: an editable install finds the files anyway."""
    for node in ast.walk(ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.keyword) and node.arg == "package_data":
            patterns = ast.literal_eval(node.value)["hf_cmim"]
    packed = {path for pattern in patterns for path in (ROOT / "hf_cmim").glob(pattern)}
    assert set((ROOT / "hf_cmim/pages/templates").iterdir()) <= packed
