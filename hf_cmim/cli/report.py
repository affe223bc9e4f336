"""Show an audit again, or compare several in one page.

For one audit, its page and its section of a model card are written again beside it. For several,
one page shows verdicts, gains of each attack and accuracy of each model side by side.
"""

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from hf_cmim.cli.printing import say, say_lines
from hf_cmim.errors import HfCmimError
from hf_cmim.whole_files import write_whole

if TYPE_CHECKING:
    from hf_cmim.report import AuditReport

EXAMPLES = """\
examples:
  hf-cmim report outputs/audit              seconds: audit.html and audit.md beside audit.json
  hf-cmim report outputs/ce outputs/cmim    seconds: comparison.html
  hf-cmim report a/audit.json b/audit.json --output ab.html
"""
COMPARISON_NAME = "comparison.html"
MARK = "<!-- written by hf-cmim report -->"
"""Last line of a comparison. Only a file with this line is overwritten by the next comparison."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("audits", metavar="AUDIT", nargs="+", help="folder of an audit, or its audit.json")
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        help=f"page of a comparison; an earlier comparison is overwritten ({COMPARISON_NAME})",
    )


def run(options: argparse.Namespace) -> None:
    """Write the pages, and print the table of a single audit."""
    check_can_draw()
    from hf_cmim.cli.folders import check_audit_folder
    from hf_cmim.pages.terminal import audit_table
    from hf_cmim.report import AuditReport

    # All paths are checked before the first report is read, so that an error comes at once.
    for path in map(Path, options.audits):
        check_audit_folder(path)
    paths = list(dict.fromkeys(map(Path, options.audits)))
    if len(paths) > 1:
        say(f"Written: {write_comparison(paths, options.output or Path(COMPARISON_NAME))}")
        return
    if options.output is not None:
        raise HfCmimError(
            f"--output {options.output} is for comparisons, but there is one audit: its pages are written into its own"
            " folder. Remove --output, or name another audit to compare."
        )
    (path,) = paths
    report = AuditReport.read(path)
    written = write_pages(report, path if path.is_dir() else path.parent)
    say_lines(audit_table(report))
    say(f"Written: {', '.join(map(str, written))}")


def check_can_draw() -> None:
    """Raise an `HfCmimError` if the pictures of a page cannot be drawn."""
    if find_spec("matplotlib") is None:
        raise HfCmimError(
            "The pictures of a page need matplotlib, which is not installed: no page can be written. Install it with:"
            " pip install 'hf_cmim[plots]'"
        )


def write_pages(report: "AuditReport", folder: Path) -> list[Path]:
    """Write an audit's page and its section of a model card, and return their paths.

    Args:
        report: report of the audit.
        folder: folder of its audit.json.
    """
    from hf_cmim.pages.html import audit_page
    from hf_cmim.pages.markdown import audit_markdown

    pages = {"audit.html": audit_page(report), "audit.md": audit_markdown(report)}
    for name, text in pages.items():
        write_whole(folder / name, text)
    return [folder / name for name in pages]


def write_comparison(audits: list[Path], target: Path) -> Path:
    """Write the page that compares audits, and return its path.

    Args:
        audits: folders of audits, or their audit.json.
        target: page; only an earlier comparison is overwritten.

    Raises:
        HfCmimError: another file in the way, or an audit that cannot be read.
    """
    from hf_cmim.pages.html import comparison_page
    from hf_cmim.report import AuditReport

    reports = {path: AuditReport.read(path) for path in audits}
    # A wrong --output must not cost the user a file, so only our own comparisons are replaced.
    if target.exists() and not (target.is_file() and target.read_bytes().rstrip().endswith(MARK.encode())):
        raise HfCmimError(
            f"Expected --output to be a new file or an earlier comparison, got {target}, which is neither: its content"
            " would be lost. Choose another name, or move it away."
        )
    page = comparison_page({_name(path, reports): report for path, report in reports.items()})
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, f"{page.rstrip()}\n{MARK}\n")
    return target


def _name(path: Path, reports: "dict[Path, AuditReport]") -> str:
    """Return the name of an audit's folder, or its whole path if another folder has the same name."""
    folders = {audit: audit.resolve() if audit.is_dir() else audit.resolve().parent for audit in reports}
    name = folders[path].name
    is_unique = sum(folder.name == name for folder in folders.values()) == 1
    return name if is_unique else str(path)
