"""Write a model's card again from its certificate: README.md, its pictures, the audit's page.

Your own text outside of hf_cmim's part of the card is kept, and so are your own metadata.
"""

import argparse
from pathlib import Path

from hf_cmim.cli.printing import say

EXAMPLES = """\
examples:
  hf-cmim card outputs/cmim                                   seconds
  hf-cmim card outputs/cmim --repo user/name --license mit    with commands for that repository
  hf-cmim card outputs/cmim --benchmark owner/data default    and its accuracy for a leaderboard
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder of a certified model")
    parser.add_argument("--repo", metavar="ID", default="", help="user/name for the card's commands (folder name)")
    parser.add_argument("--license", metavar="ID", help="license identifier of the Hub (the card's present one)")
    parser.add_argument(
        "--benchmark",
        metavar=("ID", "TASK"),
        nargs=2,
        help="benchmark of the Hub that was measured, and its task in the data set's eval.yaml (the present one)",
    )


def run(options: argparse.Namespace) -> None:
    """Write the card."""
    from hf_cmim.hub.certificate import Certificate
    from hf_cmim.hub.eval_results import Benchmark
    from hf_cmim.hub.model_card import write_card

    certificate = Certificate.read(options.folder)
    benchmark = None if options.benchmark is None else Benchmark(*options.benchmark)
    written = write_card(
        options.folder, certificate, repo_id=options.repo, license=options.license, benchmark=benchmark
    )
    say(f"Written: {', '.join(map(str, written))}")
