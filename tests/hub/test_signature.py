"""Signatures: whose certificate it is."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hub.signing_keys import write_pair

from hf_cmim.hub.signature import check_signature, sign


@pytest.fixture
def pair(tmp_path):
    return write_pair(tmp_path, ed25519.Ed25519PrivateKey.generate())


@pytest.fixture
def certificate(tmp_path):
    path = tmp_path / "certificate.json"
    path.write_text("{}", encoding="utf-8")
    return path


def test_a_signature_belongs_to_its_key_and_its_certificate(certificate, pair, tmp_path):
    """Catches a signature that is never looked at."""
    private, public = pair
    signature = tmp_path / "certificate.json.sig"
    sign(certificate, signature, private)
    assert check_signature(certificate, signature, public) == ""
    _, stranger = write_pair(tmp_path / "other", ed25519.Ed25519PrivateKey.generate())
    assert "another key made it" in check_signature(certificate, signature, stranger)
    certificate.write_text("{} ", encoding="utf-8")
    assert "another key made it" in check_signature(certificate, signature, public)


def test_the_known_answer_of_the_standard(tmp_path):
    """Catches another algorithm, or another message than the file itself: RFC 8032, section 7.1, test 1."""
    secret = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
    known = (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0"
        "595bbe24655141438e7a100b"
    )
    private, _ = write_pair(tmp_path, ed25519.Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret)))
    empty, signature = tmp_path / "empty", tmp_path / "empty.sig"
    empty.write_bytes(b"")
    sign(empty, signature, private)
    assert signature.read_bytes().hex() == known


def test_a_missing_signature_is_said(certificate, pair, tmp_path):
    """Catches an unsigned certificate that passes for a signed one."""
    assert "was not signed" in check_signature(certificate, tmp_path / "no.sig", pair[1])


def test_keys_of_other_kinds_are_refused(certificate, tmp_path):
    """Catches a traceback of the library, and an algorithm nobody chose."""
    private, public = write_pair(tmp_path, ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(ValueError, match="Expected an Ed25519 private key in .* got E"):
        sign(certificate, tmp_path / "x.sig", private)
    (tmp_path / "x.sig").write_bytes(b"x")
    with pytest.raises(ValueError, match="Expected an Ed25519 public key in"):
        check_signature(certificate, tmp_path / "x.sig", public)
    with pytest.raises(ValueError, match="Expected an Ed25519 private key in PEM at .*nothing could be signed"):
        sign(certificate, tmp_path / "x.sig", tmp_path / "no.pem")


def test_without_the_library_it_says_which_extra(certificate, pair, tmp_path, monkeypatch):
    """Catches an ImportError."""
    monkeypatch.setattr("hf_cmim.hub.signature.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"hf_cmim\[sign\]"):
        sign(certificate, tmp_path / "x.sig", pair[0])
