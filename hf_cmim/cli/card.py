"""Write a model's card anew from its certificate: README.md, its pictures, the audit's page.

What you wrote into the card outside of hf_cmim's own part stays, and so does metadata of your own.
"""

import argparse
from pathlib import Path

from hf_cmim.cli.printing import say

EXAMPLES = """\
examples:
  hf-cmim card outputs/cmim                                   seconds
  hf-cmim card outputs/cmim --repo user/name --license mit    as it will stand on the Hub
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="a model with its certificate")
    parser.add_argument("--repo", metavar="ID", default="", help="user/name that the card's commands show")
    parser.add_argument("--license", metavar="ID", help="the Hub's identifier of a license; unset: what the card says")


def run(options: argparse.Namespace) -> None:
    """Write the card."""
    from hf_cmim.hub.certificate import Certificate
    from hf_cmim.hub.model_card import write_card

    certificate = Certificate.read(options.folder)
    written = write_card(options.folder, certificate, repo_id=options.repo, license=options.license)
    say(f"Written: {', '.join(map(str, written))}")
