"""Check that a certificate belongs to the weights beside it, and its verdicts to its results.

TARGET is a folder or a Hub id, of which only the files that the certificate names are downloaded.
The exit status is 0 only if everything holds. That shows that nothing was changed since the owner
wrote it; whether the numbers are true shows only measuring again.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hf_cmim.cli.audit import add_data, add_student

if TYPE_CHECKING:
    from hf_cmim.hub.verification import Finding

EXAMPLES = """\
examples:
  hf-cmim verify user/name                                hashes and verdicts: seconds
  hf-cmim verify outputs/cmim --public-key public.pem     and whose certificate it is
  hf-cmim verify outputs/cmim --remeasure --dataset DATA  and accuracy and CMI, on the audit's or
                                                          the trainer's own test data
  hf-cmim verify outputs/cmim --config audit.yaml --remeasure --spot-check 3
      and three students, trained again by the settings that `hf-cmim audit` was given
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags; what is not given is None."""
    parser.add_argument("target", metavar="TARGET", help="a folder, or user/name on the Hub")
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit on the Hub (main)")
    parser.add_argument("--public-key", metavar="KEY", type=Path, help="Ed25519 public key that must have signed it")
    _add_again(parser)


def _add_again(parser: argparse.ArgumentParser) -> None:
    again = parser.add_argument_group("measuring again")
    again.add_argument("--remeasure", action=argparse.BooleanOptionalAction, help="accuracy and CMI, on given data")
    again.add_argument(
        "--spot-check",
        metavar="N",
        type=int,
        help="train N random arms of the audit again, each with a fresh seed, and compare with what they foretell",
    )
    again.add_argument("--config", metavar="FILE", help="YAML file of `hf-cmim audit`; flags override it")
    again.add_argument(
        "--output-dir", metavar="DIR", help="folder of the students that are trained again (outputs/spot_check)"
    )
    add_data(parser.add_argument_group("data, for measuring again"))
    add_student(parser.add_argument_group("student, for --spot-check"))


def run(options: argparse.Namespace) -> int:
    """Print every finding; return 0 if all hold, else 1."""
    from hf_cmim.hub.verification import SELF_REPORTED

    folder, others = _local_folder(options)
    is_checked, is_right = False, True
    for finding in _findings(options, folder, others):
        is_right &= finding.holds
        is_checked |= finding.name == "trained again"
        is_checked |= finding.name == "signature" and options.public_key is not None
        print(f"{'holds' if finding.holds else 'FAILS'}  {finding.name}: {finding.sentence}", flush=True)
    if not is_right:
        print(f"The certificate of {options.target} does not hold.")
        return 1
    print(f"Everything holds.{'' if is_checked else f' It is {SELF_REPORTED}'}")
    return 0


def _local_folder(options: argparse.Namespace) -> tuple[Path, list[str]]:
    """Return where the files are, and the names of uncertified weights that were left on the Hub."""
    from hf_cmim.hub.transfer import Repository

    if Path(options.target).is_dir():
        return Path(options.target), []
    return Repository(options.target, branch=options.revision).fetch()


def _findings(options: argparse.Namespace, folder: Path, others: list[str]) -> "Iterator[Finding]":
    from hf_cmim.hub.certificate import Certificate
    from hf_cmim.hub.verification import Finding, check_certificate

    found = list(check_certificate(folder, options.public_key))
    if others:
        names = ", ".join(others)
        found.append(Finding("files", False, f"{names} on the Hub: not certified, and a loader may take it instead"))
    yield from found
    if not (options.remeasure or options.spot_check is not None) or not all(each.holds for each in found):
        return
    from hf_cmim.cli.measuring_again import remeasure, train_again

    certificate = Certificate.read(folder)
    if options.remeasure:
        yield from remeasure(options, folder, certificate)
    if options.spot_check is not None:
        yield from train_again(options, folder, certificate)
