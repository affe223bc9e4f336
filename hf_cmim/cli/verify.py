"""Check that a certificate matches the weights, and that its verdicts follow from its results.

TARGET is a folder or a Hub id. From the Hub, only the files in the certificate are downloaded. The
exit status is 0 only if every check holds: nothing was changed since the owner wrote the
certificate. Only a new measurement shows whether its numbers are true.
"""

import argparse
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hf_cmim.cli.audit_flags import SplitFlags, StudentFlags, TransferFlags
from hf_cmim.cli.flags import add_groups
from hf_cmim.cli.printing import say
from hf_cmim.errors import HfCmimError

if TYPE_CHECKING:
    from hf_cmim.hub.verification import Finding

EXAMPLES = """\
examples:
  hf-cmim verify user/name                                check hashes and verdicts: seconds
  hf-cmim verify outputs/cmim --public-key public.pem     check the signature as well
  hf-cmim verify outputs/cmim --remeasure --dataset DATA  measure accuracy and CMI again on the test
                                                          data of the audit or the trainer
  hf-cmim verify outputs/cmim --config audit.yaml --remeasure --spot-check 3
      train three students again as well, with the file that `hf-cmim audit` was given
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags; a missing flag is None."""
    parser.add_argument("target", metavar="TARGET", help="folder, or user/name on the Hub")
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit on the Hub (main)")
    parser.add_argument(
        "--public-key",
        metavar="KEY",
        type=Path,
        help="public key whose owner must have signed: Ed25519 for certify --sign; a curve P-256, P-384 or P-521, or a"
        " root certificate, for certify --model-signing",
    )
    _add_measurements(parser)


def _add_measurements(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("measuring again")
    group.add_argument(
        "--remeasure", action=argparse.BooleanOptionalAction, help="measure accuracy and CMI again on your data"
    )
    group.add_argument(
        "--spot-check",
        metavar="N",
        type=int,
        help="train a student with a new seed for N random arms, and compare it with the audit's students of that arm",
    )
    group.add_argument("--config", metavar="FILE", help="YAML file of `hf-cmim audit`; flags override it")
    group.add_argument(
        "--output-dir", metavar="DIR", help="folder of the students that are trained again (outputs/spot_check)"
    )
    groups = {
        "data, for measuring again": (SplitFlags, TransferFlags),
        "student, for --spot-check": (StudentFlags,),
    }
    add_groups(parser, groups)


def run(options: argparse.Namespace) -> int:
    """Print every finding; return 0 if all hold, else 1."""
    from hf_cmim.hub.certificate import Certificate
    from hf_cmim.hub.verification import self_reported

    target = _open(options)
    if target.commit:
        say(f"{options.target} at commit {target.commit}")
    all_hold, trained_again = True, 0
    for finding in _findings(options, target):
        all_hold &= finding.holds
        trained_again += finding.name == "trained again"
        say(f"{'holds' if finding.holds else 'FAILS'}  {finding.name}: {finding.sentence}")
    if not all_hold:
        say(f"The certificate of {options.target} does not hold.")
        return 1
    say("Everything that was checked holds.")
    certificate = Certificate.read(target.folder)
    for sentence in self_reported(certificate, trained_again=trained_again, is_remeasured=bool(options.remeasure)):
        say(sentence)
    return 0


@dataclass(frozen=True)
class _Target:
    """Model to verify: its folder, and for a repository also the commit, all paths, and faults of the listing."""

    folder: Path
    commit: str = ""
    paths: Collection[str] | None = None
    faults: Collection[str] = ()


def _open(options: argparse.Namespace) -> _Target:
    if Path(options.target).is_dir():
        if options.revision is not None:
            raise HfCmimError(
                f"--revision {options.revision} is a branch, tag or commit on the Hub, and {options.target} is a"
                " local folder: the flag would have no effect. Remove it, or give user/name."
            )
        return _Target(Path(options.target))
    if Path(options.target).exists() or options.target.count("/") != 1 or options.target[0] in "./~":
        raise HfCmimError(
            f"Expected a folder or user/name on the Hub, got {options.target!r}, which is neither: nothing was"
            " checked. Check the spelling of the folder."
        )
    from hf_cmim.hub.transfer import Repository

    fetched = Repository(options.target, branch=options.revision).fetch()
    return _Target(fetched.folder, fetched.commit, fetched.paths, fetched.faults)


def _findings(options: argparse.Namespace, target: _Target) -> "Iterator[Finding]":
    from hf_cmim.hub.certificate import Certificate
    from hf_cmim.hub.verification import Finding, check_certificate

    # A repository with a wrong listing was not downloaded, so there is nothing else to check.
    findings = [Finding("files", False, fault) for fault in target.faults]
    repo_id = options.target if target.commit else ""
    if not findings:
        findings += check_certificate(target.folder, options.public_key, paths=target.paths, repo_id=repo_id)
    yield from findings
    # A model that does not hold is never loaded and measured.
    holds = all(finding.holds for finding in findings)
    is_measured = options.remeasure or options.spot_check is not None
    if not holds or not is_measured:
        return
    from hf_cmim.cli.measuring_again import remeasure, train_again

    certificate = Certificate.read(target.folder)
    if options.remeasure:
        yield from remeasure(options, target.folder, certificate)
    if options.spot_check is not None:
        yield from train_again(options, target.folder, certificate)
