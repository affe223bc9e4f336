"""Signatures of OpenSSF's `model_signing` (the extra "sigstore"), which its own tools verify without hf_cmim.

A signature is about the certified files, the certificate and the attestation. Cards, pictures and other signatures
may change later, so they are not signed.
"""

import tempfile
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, final

from hf_cmim.errors import HfCmimError
from hf_cmim.hub.certificate import Certificate
from hf_cmim.hub.files import ATTESTATION_NAME, DOCUMENTS, MODEL_SIGNATURE_NAME, link_out_of
from hf_cmim.names import one_line, safe_text
from hf_cmim.report import CERTIFICATE_NAME
from hf_cmim.whole_files import read_bounded, write_whole

MOST_BYTES_OF_SIGNATURE = 10_000_000
"""Largest size of a signature that is read: it lists every file, of which there are at most some thousands."""


@final
class ModelSigner:
    """A signer of model folders.

    Args:
        private_key: key on a curve P-256, P-384 or P-521 in PEM, without a password:
            `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem`.
        certificates: certificate of the key in PEM, then those of its issuers below the root; empty for a plain key.

    Raises:
        HfCmimError: no such key or certificates, or `model_signing` is not installed.
    """

    def __init__(self, private_key: Path, certificates: Sequence[Path] = ()) -> None:
        _check_installed()
        from model_signing import signing

        for path in (private_key, *certificates):
            read_bounded(path)
        self._config = signing.Config()
        try:
            if certificates:
                # model_signing 1.1.1 cannot read a chain without certificates. The key's own adds no trust.
                chain = certificates[1:] or certificates[:1]
                self._config.use_certificate_signer(
                    private_key=private_key, signing_certificate=certificates[0], certificate_chain=chain
                )
            else:
                self._config.use_elliptic_key_signer(private_key=private_key)
        # The library raises AttributeError for keys of other kinds, TypeError for keys with a password.
        except (AttributeError, TypeError, ValueError) as error:
            raise HfCmimError(
                f"Expected a private key on a curve P-256, P-384 or P-521 in PEM at {private_key}, with its own"
                f" certificate if one is given, got none that model_signing can use ({one_line(str(error))}): nothing"
                " was signed. Make one with: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out KEY"
            ) from None

    def sign(self, folder: Path, certificate: Certificate) -> Path:
        """Write the signature of a certified model, and return its path.

        Args:
            folder: folder of the model.
            certificate: certificate in the folder.
        """
        with tempfile.TemporaryDirectory() as temporary:
            signature = Path(temporary) / MODEL_SIGNATURE_NAME
            self._config.set_hashing_config(_SignedFiles(folder, certificate)).sign(folder, signature)
            write_whole(folder / MODEL_SIGNATURE_NAME, signature.read_bytes())
        return folder / MODEL_SIGNATURE_NAME


def model_signature_fault(folder: Path, certificate: Certificate, public_key: Path) -> str:
    """Return the reason why a model's signature does not fit its files and a key, or "" if it fits.

    Args:
        folder: folder of the model, whose files are as certified.
        certificate: certificate of the model.
        public_key: public key in PEM, or the root certificate that the signer's certificate must lead to.

    Raises:
        HfCmimError: no such key, or `model_signing` is not installed.
    """
    _check_installed()
    from model_signing import verifying

    config = verifying.Config().set_hashing_config(_SignedFiles(folder, certificate))
    try:
        if is_certificate(public_key):
            config.use_certificate_verifier(certificate_chain=[public_key])
        else:
            config.use_elliptic_key_verifier(public_key=public_key)
    except (AttributeError, ValueError) as error:
        raise HfCmimError(
            f"Expected a public key on a curve P-256, P-384 or P-521, or a certificate, in PEM at {public_key}, got"
            f" none that model_signing can use ({one_line(str(error))}): nothing was checked."
        ) from None
    signature = folder / MODEL_SIGNATURE_NAME
    if not signature.is_file():
        return f"there is no {MODEL_SIGNATURE_NAME}: the model was not signed for this kind of key"
    if target := link_out_of(folder, signature):
        return f"{MODEL_SIGNATURE_NAME} is a link out of the folder, to {safe_text(target)}"
    with tempfile.TemporaryDirectory() as temporary:
        # A copy of bounded size, because the library would read a file of any size or a pipe.
        copy = Path(temporary) / MODEL_SIGNATURE_NAME
        copy.write_bytes(read_bounded(signature, MOST_BYTES_OF_SIGNATURE))
        try:
            config.verify(folder, copy)
        # Whatever is wrong with a file of unknown origin, the library may raise: KeyError, InvalidSignature, and more.
        except Exception as error:
            reason = one_line(str(error)) or type(error).__name__
            return safe_text(
                f"{MODEL_SIGNATURE_NAME} does not fit {public_key} and the certified files ({reason[:300]}): another"
                " key made it, or they changed since"
            )
    return ""


def is_certificate(path: Path) -> bool:
    """Return True if a file in PEM holds a certificate."""
    return b"-----BEGIN CERTIFICATE-----" in read_bounded(path)


def is_for_models(public_key: Path) -> bool:
    """Return True if `model_signing` can check with a file: a certificate, or a public key on an elliptic curve."""
    if is_certificate(public_key):
        return True
    if find_spec("cryptography") is None:
        return False
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        return isinstance(serialization.load_pem_public_key(read_bounded(public_key)), ec.EllipticCurvePublicKey)
    except ValueError:
        return False


@final
class _SignedFiles:
    """The hashing of `model_signing`, of the files that are signed only; it takes the place of a `hashing.Config`."""

    def __init__(self, folder: Path, certificate: Certificate) -> None:
        from model_signing import hashing

        names = [*certificate.files, CERTIFICATE_NAME]
        if (folder / ATTESTATION_NAME).is_file():
            names.append(ATTESTATION_NAME)
        self._files = [folder / name for name in sorted(names)]
        # The signature names the ignored paths, so that the library's own command passes over the same ones. A folder
        # in the Hub's cache consists of links.
        self._config = hashing.Config().set_ignored_paths(paths=sorted(DOCUMENTS - {*names})).set_allow_symlinks(True)

    def hash(self, model_path: Path, *, files_to_hash: Iterable[Path] | None = None) -> Any:
        """Return the hashes of the files that are signed, whichever files the caller asks for."""
        return self._config.hash(model_path, files_to_hash=self._files)

    def add_ignored_paths(self, *, model_path: Path, paths: Iterable[Path]) -> None:
        """Ignore the paths that a signature asks to leave out: it must cover all files that are signed."""


def _check_installed() -> None:
    if find_spec("model_signing") is None or find_spec("OpenSSL") is None:
        raise HfCmimError(
            "Signatures of model_signing need the packages model-signing and pyOpenSSL, of which at least one is not"
            " installed: nothing was signed or checked. Install them with: pip install 'hf_cmim[sigstore]'"
        )
