"""Ed25519 signatures of certificates and attestations, made by the package `cryptography` (the extra "sign")."""

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_cmim.errors import HfCmimError
from hf_cmim.whole_files import read_bounded, write_whole

MOST_BYTES_OF_SIGNATURE = 64

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey


def sign(certificate: Path, signature: Path, private_key: Path) -> None:
    """Write the signature of a certificate.

    Args:
        certificate: path of the certificate.
        signature: path of the signature to write.
        private_key: Ed25519 key in PEM, without a password: `openssl genpkey -algorithm ed25519 -out key.pem`.

    Raises:
        HfCmimError: no Ed25519 key there, or `cryptography` is not installed.
    """
    write_whole(signature, signature_of(read_bounded(certificate), private_key))


def signature_of(content: bytes, private_key: Path) -> bytes:
    """Return the signature, 64 bytes, of a content.

    Args:
        content: bytes of a certificate's file.
        private_key: Ed25519 key, as in `sign`.

    Raises:
        HfCmimError: no Ed25519 key there, or `cryptography` is not installed.
    """
    key: Ed25519PrivateKey = _load(private_key, "private")
    return bytes(key.sign(content))


def key_id(private_key: Path) -> str:
    """Return the name of a key that others see: the sha256 hex of its public key in DER.

    Raises:
        HfCmimError: no Ed25519 key there, or `cryptography` is not installed.
    """
    key: Ed25519PrivateKey = _load(private_key, "private")
    from cryptography.hazmat.primitives import serialization

    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(public).hexdigest()


def is_signed_by(content: bytes, signature: bytes, public_key: Path) -> bool:
    """Return True if a signature was made with the private key of an Ed25519 key.

    Raises:
        HfCmimError: no Ed25519 key there, or `cryptography` is not installed.
    """
    key: Ed25519PublicKey = _load(public_key, "public")
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, content)
    except InvalidSignature:
        return False
    return True


def check_signature(certificate: Path, signature: Path, public_key: Path) -> str:
    """Return the reason why a signature does not fit a key and a certificate, or "" if it fits.

    Args:
        certificate: path of the certificate.
        signature: path of its signature.
        public_key: Ed25519 key in PEM: `openssl pkey -in key.pem -pubout -out public.pem`.

    Raises:
        HfCmimError: no Ed25519 key there, or `cryptography` is not installed.
    """
    # Loaded first: a wrong key is the caller's mistake, whatever the files are.
    _load(public_key, "public")
    if not signature.is_file():
        return f"there is no {signature.name}: the certificate was not signed"
    if is_signed_by(read_bounded(certificate), read_bounded(signature, MOST_BYTES_OF_SIGNATURE), public_key):
        return ""
    return (
        f"{signature.name} does not fit {public_key}: another key made it, or the certificate changed since it was"
        " signed"
    )


def _load(path: Path, kind: str) -> Any:
    if find_spec("cryptography") is None:
        raise HfCmimError(
            "Signatures need the package cryptography, which is not installed: nothing was signed or checked. Install"
            " it with: pip install 'hf_cmim[sign]'"
        )
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    key_class = {"private": ed25519.Ed25519PrivateKey, "public": ed25519.Ed25519PublicKey}[kind]
    try:
        content = read_bounded(path)
        if kind == "private":
            key: Any = serialization.load_pem_private_key(content, password=None)
        else:
            key = serialization.load_pem_public_key(content)
    # Errors of `read_bounded` are HfCmimErrors, hence ValueErrors.
    except (TypeError, ValueError) as error:
        raise HfCmimError(
            f"Expected an Ed25519 {kind} key in PEM at {path}, got none that can be read ({error}): nothing could be"
            " signed or checked. Make one with: openssl genpkey -algorithm ed25519 -out key.pem"
        ) from None
    # Any key in PEM loads without an error, RSA included; `check_signature` knows only how Ed25519 verifies.
    if not isinstance(key, key_class):
        raise HfCmimError(
            f"Expected an Ed25519 {kind} key in {path}, got {type(key).__name__}: hf_cmim checks no other kind of"
            " signature. Make one with: openssl genpkey -algorithm ed25519 -out key.pem"
        )
    return key
