"""Upload a model to the Hub with its certificate and its card, in one commit.

Only these files leave this machine: weights, configuration, processor or tokenizer, certificate,
card and pictures. Training arguments, optimizer states, centroids, answers and data stay. Users of
the model need neither hf_cmim nor remote code.
"""

import argparse
from pathlib import Path

from hf_cmim.cli.printing import say

EXAMPLES = """\
examples:
  hf-cmim push outputs/cmim user/name --dry-run        list the files, upload nothing
  hf-cmim push outputs/cmim user/name --license mit    seconds, plus the upload of the weights
  hf-cmim push outputs/cmim user/name --private --branch candidate
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder of a classifier, from save_pretrained")
    parser.add_argument("repo", metavar="ID", help="repository as user/name; created if it is missing")
    parser.add_argument("--branch", metavar="NAME", help="branch to write to (main); created if it is missing")
    parser.add_argument("--private", action=argparse.BooleanOptionalAction, help="make a new repository private")
    parser.add_argument("--license", metavar="ID", help="license identifier of the Hub (the card's present one)")
    parser.add_argument("--message", metavar="TEXT", default="Upload a certified model", help="message of the commit")
    parser.add_argument("--force", action="store_true", help="overwrite a different model; its commits remain")
    parser.add_argument("--dry-run", action="store_true", help="list the files that would be sent or stay, and stop")


def run(options: argparse.Namespace) -> None:
    """Write a missing certificate and the card, and upload the model."""
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
            # Imported here: transformers takes seconds, and a certified model does not need it.
            from hf_cmim.hub.certify import certify

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
