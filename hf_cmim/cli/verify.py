"""Check that a certificate belongs to the weights beside it, and its verdicts to its results.

TARGET is a folder or a Hub id, of which only the files that the certificate names are downloaded.
The exit status is 0 only if everything holds. That shows that nothing was changed since the owner
wrote it; whether the numbers are true shows only measuring again.
"""

import argparse
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hf_cmim.cli.audit import add_data, add_student
from hf_cmim.cli.printing import say
from hf_cmim.errors import HfCmimError

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
    from hf_cmim.hub.certificate import Certificate
    from hf_cmim.hub.verification import self_reported

    target = _open(options)
    if target.commit:
        say(f"{options.target} at commit {target.commit}")
    is_right, trained_again = True, 0
    for finding in _findings(options, target):
        is_right &= finding.holds
        trained_again += finding.name == "trained again"
        say(f"{'holds' if finding.holds else 'FAILS'}  {finding.name}: {finding.sentence}")
    if not is_right:
        say(f"The certificate of {options.target} does not hold.")
        return 1
    say("Everything that was checked holds.")
    certificate = Certificate.read(target.folder)
    for sentence in self_reported(certificate, trained_again=trained_again, is_remeasured=bool(options.remeasure)):
        say(sentence)
    return 0


@dataclass(frozen=True)
class _Target:
    """The model that is verified: where its files are; of a repository, commit, paths and what is wrong with them."""

    folder: Path
    commit: str = ""
    paths: Collection[str] | None = None
    faults: Collection[str] = ()


def _open(options: argparse.Namespace) -> _Target:
    if Path(options.target).is_dir():
        if options.revision is not None:
            raise HfCmimError(
                f"--revision {options.revision} is a branch, tag or commit on the Hub, and {options.target} is a"
                " folder here: it would be ignored. Leave it out, or give user/name."
            )
        return _Target(Path(options.target))
    if Path(options.target).exists() or options.target.count("/") != 1 or options.target[0] in "./~":
        raise HfCmimError(
            f"Expected a folder or user/name on the Hub, got {options.target!r}, which is neither: nothing was"
            " checked. Look for a typing error in the folder's name."
        )
    from hf_cmim.hub.transfer import Repository

    fetched = Repository(options.target, branch=options.revision).fetch()
    return _Target(fetched.folder, fetched.commit, fetched.paths, fetched.faults)


def _findings(options: argparse.Namespace, target: _Target) -> "Iterator[Finding]":
    from hf_cmim.hub.certificate import Certificate
    from hf_cmim.hub.verification import Finding, check_certificate

    findings = [Finding("files", False, fault) for fault in target.faults]
    repo_id = options.target if target.commit else ""
    if not findings:
        findings += check_certificate(target.folder, options.public_key, paths=target.paths, repo_id=repo_id)
    yield from findings
    if not (options.remeasure or options.spot_check is not None) or not all(each.holds for each in findings):
        return
    from hf_cmim.cli.measuring_again import remeasure, train_again

    certificate = Certificate.read(target.folder)
    if options.remeasure:
        yield from remeasure(options, target.folder, certificate)
    if options.spot_check is not None:
        yield from train_again(options, target.folder, certificate)
