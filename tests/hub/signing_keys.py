"""Keys and certificates of the kinds that signatures are made with, as PEM files."""

import datetime
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def write_pair(folder: Path, key) -> tuple[Path, Path]:
    """The private and the public half of a key."""
    folder.mkdir(exist_ok=True)
    private, public = folder / "key.pem", folder / "public.pem"
    none = serialization.NoEncryption()
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, none))
    shape = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    public.write_bytes(key.public_key().public_bytes(*shape))
    return private, public


@dataclass(frozen=True)
class Issued:
    """A root's certificate, and a key with the certificate that the root issued for it."""

    root: Path
    private: Path
    certificate: Path


def issued(folder: Path) -> Issued:
    """A new root and a new key that it certifies for signing."""
    root, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    private, _ = write_pair(folder, key)
    root_path, leaf_path = folder / "root.pem", folder / "leaf.pem"
    root_path.write_bytes(_certificate("root", root, "root", root, is_root=True))
    leaf_path.write_bytes(_certificate("owner", key, "root", root, is_root=False))
    return Issued(root_path, private, leaf_path)


def _certificate(name: str, key, issuer: str, issuing_key, *, is_root: bool) -> bytes:
    def named(words):
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, words)])

    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only",
         "decipher_only"), False,
    )  # fmt: skip
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_root, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=not is_root, key_cert_sign=is_root, crl_sign=is_root, **usage),
            critical=True,
        )
    )
    return builder.sign(issuing_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
