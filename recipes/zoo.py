# /// script
# dependencies = ["hf_cmim[plots]", "pillow"]
# ///
"""Make a gallery of checkpoints: train, audit, certify and publish each entry with its card, and print one table.

    python recipes/zoo.py recipes/zoo/clothes_small.yaml recipes/zoo/clothes.yaml
    python recipes/zoo.py recipes/zoo/*.yaml --push USER --license mit --change software.dataset=FOLDER

An entry is a file for `hf-cmim harden`, which trains a twin with cross-entropy and a hardened model, certifies and
audits it. Run the command again after a kill: nothing that is finished is made anew. With --push the hardened model
goes to USER/ENTRY and its twin to USER/ENTRY-twin; that needs a token. An entry that fails does not stop the others.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hf_cmim import AuditReport, HfCmimError
from hf_cmim.cli import harden
from hf_cmim.cli.flags import read_flags
from hf_cmim.cli.harden_flags import HardenFlags
from hf_cmim.hub.certificate import Certificate
from hf_cmim.hub.model_card import write_card
from hf_cmim.hub.transfer import Repository
from hf_cmim.pages.markdown import escaped
from hf_cmim.pages.quantities import percent, points
from hf_cmim.pages.wording import control_verdict, criterion_verdict
from hf_cmim.statistics import Comparison


@dataclass(frozen=True)
class Entry:
    """A finished entry of the gallery: its name, its audit, and the folder or repository of the hardened model."""

    name: str
    report: AuditReport
    where: str


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; None is that of this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("entries", nargs="+", type=Path, metavar="FILE", help="YAML files of hf-cmim harden")
    parser.add_argument(
        "--change", action="append", default=[], metavar="ENTRY.FLAG=VALUE", help="other value of a flag of an entry"
    )
    parser.add_argument("--push", metavar="USER", help="user or organisation of the Hub to publish to")
    parser.add_argument("--private", action=argparse.BooleanOptionalAction, help="make new repositories private")
    parser.add_argument("--license", metavar="ID", help="license identifier of the Hub, for all cards")
    return parser.parse_args(words)


def flags_of(file: Path, changes: Sequence[str]) -> HardenFlags:
    """Return the flags of an entry, with the changes of the command line that name it."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    harden.add_arguments(parser)
    start = f"{file.stem}."
    words = [f"--{change.removeprefix(start)}" for change in changes if change.startswith(start)]
    return read_flags(parser.parse_args([str(file), *words]), HardenFlags)


def check_changes(entries: Sequence[Path], changes: Sequence[str]) -> None:
    """Refuse a change of an entry that is not made: it would have no effect."""
    names = [file.stem for file in entries]
    for change in changes:
        if change.partition(".")[0] not in names or "=" not in change:
            raise HfCmimError(f"Expected --change ENTRY.FLAG=VALUE of {', '.join(names)}, got {change!r}.")


def made(file: Path, options: argparse.Namespace) -> Entry:
    """Train, audit and certify an entry as far as it is not there yet, and publish it."""
    result, report = harden.harden_and_audit(flags_of(file, options.change))
    if report is None:
        raise HfCmimError(f"{file} has quick-audit: false, and a gallery shows verdicts. Remove the setting.")
    if not options.push:
        return Entry(file.stem, report, result.model)
    repository = f"{options.push}/{file.stem}"
    for folder, name in ((result.twin, f"{repository}-twin"), (result.model, repository)):
        write_card(Path(folder), Certificate.read(Path(folder)), repo_id=name, license=options.license)
        Repository(name).push(folder, private=options.private)
    return Entry(file.stem, report, repository)


def leak_text(comparison: Comparison | None) -> str:
    """Return the largest gain of an attack with its bounds, in points."""
    if comparison is None:
        return "none"
    return f"{points(comparison.gain)} [{points(comparison.lower)}, {points(comparison.upper)}]"


def gallery_table(entries: Sequence[Entry]) -> str:
    """Return a Markdown table of the hardened models and their twins, two rows for each entry."""
    head = ("model", "accuracy", "verdict", "largest gain of an attack, points", "where")
    lines = [head, ("---",) * len(head)]
    for entry in entries:
        report, primary = entry.report, entry.report.primary
        (twin,) = (control for control in report.controls if control.facts == report.twin)
        largest = max(primary.comparisons, key=lambda comparison: comparison.gain, default=None)
        verdict = escaped(criterion_verdict(report, primary))
        accuracies = percent(report.teacher.accuracy), percent(report.twin.accuracy)
        lines.append((entry.name, accuracies[0], verdict, leak_text(largest), f"`{entry.where}`"))
        of_twin = escaped(control_verdict(twin, report.margin))
        lines.append(("its twin", accuracies[1], of_twin, leak_text(twin.largest_gain), ""))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Make all entries, and print the table and the failures."""
    options = parse_arguments()
    check_changes(options.entries, options.change)
    finished, failures = [], []
    for file in options.entries:
        print(f"\n{file}", flush=True)
        try:
            finished.append(made(file, options))
        except HfCmimError as error:
            print(error, flush=True)
            failures.append(f"{file}: {error}")
    print(f"\n{gallery_table(finished)}\n")
    if failures:
        sys.exit("\n".join(["Not finished:", *failures]))


if __name__ == "__main__":
    try:
        main()
    except HfCmimError as error:
        sys.exit(str(error))
