"""Put a model on the Hub with its certificate and its card, in one commit.

Only the model leaves this machine: weights, configuration, processor or tokenizer, certificate,
card, pictures. Training arguments, optimizer states, centroids, answers and data stay. Whoever
downloads it needs neither hf_cmim nor remote code.
"""

import argparse
from pathlib import Path

from hf_cmim.cli.printing import say

EXAMPLES = """\
examples:
  hf-cmim push outputs/cmim user/name --dry-run        what would be sent; nothing is
  hf-cmim push outputs/cmim user/name --license mit    seconds, and the upload of the weights
  hf-cmim push outputs/cmim user/name --private --branch candidate
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="a classifier as save_pretrained leaves it")
    parser.add_argument("repo", metavar="ID", help="user/name; made where there is none")
    parser.add_argument("--branch", metavar="NAME", help="to write to (main); made where there is none")
    parser.add_argument("--private", action=argparse.BooleanOptionalAction, help="whether a new repository is private")
    parser.add_argument("--license", metavar="ID", help="the Hub's identifier of a license; unset: what the card says")
    parser.add_argument("--message", metavar="TEXT", default="Upload a certified model", help="of the commit")
    parser.add_argument("--force", action="store_true", help="overwrite even another model; its commits remain")
    parser.add_argument("--dry-run", action="store_true", help="list what would be sent and what not, and stop")


def run(options: argparse.Namespace) -> None:
    """Certify where there is no certificate, write the card, and upload."""
    from hf_cmim.hub.certificate import Certificate
    from hf_cmim.hub.files import read_config
    from hf_cmim.hub.model_card import write_card
    from hf_cmim.hub.transfer import Repository
    from hf_cmim.hub.upload import check_is_certified, planned_upload
    from hf_cmim.report import CERTIFICATE_NAME

    folder: Path = options.folder
    repository = Repository(options.repo, branch=options.branch)
    read_config(folder)
    if options.dry_run and not (folder / CERTIFICATE_NAME).is_file():
        say(f"{CERTIFICATE_NAME} and README.md would be written first.")
    if not options.dry_run:
        if not (folder / CERTIFICATE_NAME).is_file():
            from hf_cmim.hub.certify import certify  # seconds, which others need not wait

            certify(folder)
        check_is_certified(folder)
        write_card(folder, Certificate.read(folder), repo_id=options.repo, license=options.license)
    planned = planned_upload(folder)
    for name, size in planned.files.items():
        say(f"{'would send' if options.dry_run else 'sending':10}  {size:>14,} bytes  {name}")
    if planned.kept_back:
        say(f"stays here: {', '.join(planned.kept_back)}")
    if options.dry_run:
        return
    commit = repository.push(folder, private=options.private, force=options.force, message=options.message)
    say(commit.commit_url)
    say(f"Anyone can check it: hf-cmim verify {options.repo}")
