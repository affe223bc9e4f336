"""Bind a model's files to its audit: write cmim_certificate.json and the model card.

The certificate holds the SHA-256 of every file that determines the model's answers, the training
settings, the measurements, and the audit with the result of every student. `hf-cmim verify` checks
it. If the files are unchanged, the claims of an earlier certificate are kept.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from hf_cmim.cli.printing import say
from hf_cmim.errors import HfCmimError

if TYPE_CHECKING:
    from hf_cmim.hub.model_signature import ModelSigner

EXAMPLES = """\
examples:
  hf-cmim certify outputs/cmim --audit outputs/audit     a few seconds, most of them for hashing
  hf-cmim certify outputs/cmim                           no audit: the card says "not audited"
  hf-cmim certify outputs/cmim --sign key.pem            with a signature, cmim_certificate.json.sig
  hf-cmim certify outputs/cmim --audit outputs/audit --attest --sign key.pem
                                                         and a signed statement (in-toto)
  hf-cmim certify outputs/cmim --model-signing ec.pem    with OpenSSF's signature, model.sig
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
    parser.add_argument(
        "--attest",
        action="store_true",
        help="write the audit's result as an in-toto statement as well, in an envelope that --sign signs",
    )
    parser.add_argument(
        "--model-signing",
        metavar="KEY",
        type=Path,
        help="sign with OpenSSF model_signing and this private key on a curve P-256, P-384 or P-521 in PEM",
    )
    parser.add_argument(
        "--signing-certificate",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="certificate of the key of --model-signing; give the flag again for each issuer below the root",
    )


def run(options: argparse.Namespace) -> None:
    """Write the certificate, its signatures, its attestation and the card."""
    from hf_cmim.hub.certify import certify
    from hf_cmim.hub.files import ATTESTATION_NAME, SIGNATURE_NAME
    from hf_cmim.hub.model_card import write_card
    from hf_cmim.report import CERTIFICATE_NAME, AuditReport

    folder: Path = options.folder
    # Made first: a wrong key is refused before anything is written.
    signer = _model_signer(options)
    audit = None if options.audit is None else AuditReport.read(options.audit)
    certificate = certify(folder, audit=audit, private_key=options.sign, attests=options.attest)
    written = [folder / CERTIFICATE_NAME]
    if options.sign is not None:
        written.append(folder / SIGNATURE_NAME)
    if options.attest:
        written.append(folder / ATTESTATION_NAME)
    if signer is not None:
        written.append(signer.sign(folder, certificate))
    say(f"Written: {', '.join(map(str, [*written, *write_card(folder, certificate)]))}")


def _model_signer(options: argparse.Namespace) -> "ModelSigner | None":
    if options.model_signing is None:
        if options.signing_certificate:
            raise HfCmimError(
                "--signing-certificate belongs to a key, and --model-signing names none: nothing would be signed. Add"
                " --model-signing KEY."
            )
        return None
    from hf_cmim.hub.model_signature import ModelSigner

    return ModelSigner(options.model_signing, options.signing_certificate)
