"""Bind a model's files to what is said about it: write cmim_certificate.json and the card.

The certificate holds the SHA-256 of every file that determines the model's answers, what it was
trained with, what was measured, and its audit with every student's result. `hf-cmim verify` checks
it. An earlier certificate of the same files keeps what is not given anew.
"""

import argparse
from pathlib import Path

from hf_cmim.cli.printing import say

EXAMPLES = """\
examples:
  hf-cmim certify outputs/cmim --audit outputs/audit     a few seconds, most of them for hashing
  hf-cmim certify outputs/cmim                           no audit: the card says "not audited"
  hf-cmim certify outputs/cmim --sign key.pem            beside it, cmim_certificate.json.sig
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="a classifier as save_pretrained leaves it")
    parser.add_argument("--audit", metavar="AUDIT", type=Path, help="folder of an audit of this very model")
    parser.add_argument(
        "--sign",
        metavar="KEY",
        type=Path,
        help="Ed25519 private key in PEM: openssl genpkey -algorithm ed25519 -out key.pem",
    )


def run(options: argparse.Namespace) -> None:
    """Write the certificate, its signature and the card."""
    from hf_cmim.hub.certify import certify
    from hf_cmim.hub.files import SIGNATURE_NAME
    from hf_cmim.hub.model_card import write_card
    from hf_cmim.report import CERTIFICATE_NAME, AuditReport

    folder: Path = options.folder
    audit = None if options.audit is None else AuditReport.read(options.audit)
    certificate = certify(folder, audit=audit, private_key=options.sign)
    written = [folder / CERTIFICATE_NAME, *([folder / SIGNATURE_NAME] if options.sign is not None else [])]
    say(f"Written: {', '.join(map(str, [*written, *write_card(folder, certificate)]))}")
