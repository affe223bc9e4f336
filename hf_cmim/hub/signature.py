"""Detached Ed25519 signatures of a certificate, by `cryptography` (the extra "sign")."""

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
        certificate: the file.
        signature: where its signature is written.
        private_key: Ed25519 in PEM, without a password: `openssl genpkey -algorithm ed25519 -out key.pem`.

    Raises:
        HfCmimError: no such key, or no `cryptography`.
    """
    write_whole(signature, signature_of(read_bounded(certificate), private_key))


def signature_of(content: bytes, private_key: Path) -> bytes:
    """Return the 64 bytes that sign a content.

    Args:
        content: of a certificate's file.
        private_key: as in `sign`.

    Raises:
        HfCmimError: no such key, or no `cryptography`.
    """
    key: Ed25519PrivateKey = _load(private_key, "private")
    return bytes(key.sign(content))


def check_signature(certificate: Path, signature: Path, public_key: Path) -> str:
    """Return why a signature is not that of the key, or nothing.

    Args:
        certificate: the file.
        signature: of it.
        public_key: Ed25519 in PEM: `openssl pkey -in key.pem -pubout -out public.pem`.

    Raises:
        HfCmimError: no such key, or no `cryptography`.
    """
    key: Ed25519PublicKey = _load(public_key, "public")
    from cryptography.exceptions import InvalidSignature

    if not signature.is_file():
        return f"there is no {signature.name}: the certificate was not signed"
    try:
        key.verify(read_bounded(signature, MOST_BYTES_OF_SIGNATURE), read_bounded(certificate))
    except InvalidSignature:
        return f"{signature.name} was not made with the private key of {public_key}, or of another certificate"
    return ""


def _load(path: Path, kind: str) -> Any:
    if find_spec("cryptography") is None:
        raise HfCmimError(
            "Expected cryptography for signatures, got none: nothing could be signed or checked. Install it with"
            " pip install 'hf_cmim[sign]'."
        )
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    wanted = {"private": ed25519.Ed25519PrivateKey, "public": ed25519.Ed25519PublicKey}[kind]
    try:
        content = read_bounded(path)
        if kind == "private":
            key: Any = serialization.load_pem_private_key(content, password=None)
        else:
            key = serialization.load_pem_public_key(content)
    except (TypeError, ValueError) as error:  # of which every error of `read_bounded` is one
        raise HfCmimError(
            f"Expected an Ed25519 {kind} key in PEM at {path}, got none that can be read ({error}): nothing could be"
            " signed or checked. Make one with openssl genpkey -algorithm ed25519 -out key.pem."
        ) from None
    if not isinstance(key, wanted):
        raise HfCmimError(
            f"Expected an Ed25519 {kind} key in {path}, got {type(key).__name__}: signatures of several kinds would"
            " each need a check of their own. Make one with openssl genpkey -algorithm ed25519 -out key.pem."
        )
    return key
