"""Bind a model's files to its audit: write cmim_certificate.json and the model card.

The certificate holds the SHA-256 of every file that determines the model's answers, the training
settings, the measurements, and the audit with the result of every student. `hf-cmim verify` checks
it. If the files are unchanged, the claims of an earlier certificate are kept.
"""

import argparse
from pathlib import Path

from hf_cmim.cli.printing import say

EXAMPLES = """\
examples:
  hf-cmim certify outputs/cmim --audit outputs/audit     a few seconds, most of them for hashing
  hf-cmim certify outputs/cmim                           no audit: the card says "not audited"
  hf-cmim certify outputs/cmim --sign key.pem            with a signature, cmim_certificate.json.sig
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder of a classifier, from save_pretrained")
    parser.add_argument("--audit", metavar="AUDIT", type=Path, help="folder of an audit of this model")
    parser.add_argument(
        "--sign",
        metavar="KEY",
        type=Path,
        help="sign with this Ed25519 private key in PEM; make one with: openssl genpkey -algorithm ed25519 -out KEY",
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
