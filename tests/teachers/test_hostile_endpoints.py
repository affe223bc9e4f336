"""Services that attack whoever asks them: each with the sentence that ends it."""

import gzip
import json
import socket
import threading
import time

import huggingface_hub
import pytest
from huggingface_hub import InferenceClient

from hf_cmim.errors import HfCmimError
from hf_cmim.teachers import EndpointTeacher, bounded_answers

NAMES = ("cat", "dog")
TOKEN = "hf_abcdefghijklmnopqrstuvwxyz"
GOOD = [[{"label": "cat", "score": 0.75}, {"label": "dog", "score": 0.25}]]


def answered(body, status="200 OK", **headers):
    """A whole answer, byte by byte as it travels."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = {"Content-Length": str(len(content)), "Content-Type": "application/json"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return [f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + content]


def endless(piece, pause=0.0):
    yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    while True:
        time.sleep(pause)
        yield f"{len(piece):x}\r\n".encode() + piece + b"\r\n"


@pytest.fixture
def ask(monkeypatch):
    """Start a server that gives the pieces to every connection, and ask it once."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    huggingface_hub.close_session()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(pieces):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    connection.recv(65536)
                    for piece in pieces() if callable(pieces) else pieces:
                        connection.sendall(piece)
                except OSError:
                    continue

    def once(pieces, **settings):
        threading.Thread(target=serve, args=(pieces,), daemon=True).start()
        client = InferenceClient(
            model=f"http://127.0.0.1:{listener.getsockname()[1]}", token=TOKEN, timeout=settings.pop("timeout", 5)
        )
        teacher = EndpointTeacher(
            client, task="text-classification", class_names=NAMES, authorization="Our own server, in this test.",
            budget=10, requests_per_second=1e6, first_pause=0.0, retries=settings.pop("retries", 0),
        )  # fmt: skip
        return teacher({"text": ["x"]})

    yield once
    listener.close()
    huggingface_hub.close_session()


def scored(*scores):
    return [[{"label": name, "score": score} for name, score in zip(NAMES, scores, strict=True)]]


BOMB = gzip.compress(b"[" + b" " * 20_000_000 + b"]")
BODIES = [
    (answered(BOMB, Content_Encoding="gzip"), "compressed its answer although it was asked not to"),
    (answered(b"x", Content_Encoding="br"), "compressed its answer"),
    (lambda: endless(b" " * 500_000), "more than 10,000,000 bytes as one answer"),
    (answered(b"[" * 100_000), "got something else"),
    (answered(b"{"), "got something else"),
    (answered(b""), "got something else"),
    (answered(b"\xff\xfe"), "got something else"),
    (answered(b"<html>\x1b[2Jlogin</html>"), "got something else"),
    (answered({"error": "x"}), "got something else"),
    (answered([[]]), "Expected all 2 classes, got 0"),
    (answered([5]), "got something else"),
    (answered([["cat"]]), "got something else"),
    (answered([[{"label": "cat"}]]), "got something else"),
    (answered(b'[[{"label": "cat", "score": NaN}]]'), "got something else|scores in"),
    (answered(b'[[{"label": "cat", "score": 1e999}]]'), "got something else|scores in"),
    (answered(scored(0.5, "0.5")), "got something else"),
    (answered(scored(1.5, -0.5)), "scores in .0, 1."),
    (answered(scored(0.5, 0.1)), "scores that sum to 1"),
    (answered(scored(0.9, 0.9)), "scores that sum to 1"),
    (answered([[{"label": "cat", "score": 0.5}] * 2]), "Expected each label once"),
    (answered([[{"label": "c\x1bat", "score": 0.5}]]), r"got 'c\\x1bat'"),
    (answered([[{"label": 7, "score": 0.5}]]), "got something else"),
    (answered(b"", "400 Bad Request"), "did not answer, after 1 tries .status 400"),
    (answered(b"", "503 Down"), "status 503"),
    (answered({"error": f"bad token {TOKEN}"}, "401 No"), "status 401"),
    (answered(b"", "302 Found", Location="http://127.0.0.1:9/"), "did not answer"),
    (answered(b"[", Content_Length="100"), "did not answer"),
    ([b"no http at all\r\n\r\n"], "did not answer"),
    ([b""], "did not answer"),
    ([b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n"], "did not answer|something else"),
    ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"], "did not answer"),
]  # fmt: skip


@pytest.mark.parametrize(("pieces", "said"), BODIES, ids=range(len(BODIES)))
def test_a_hostile_answer_is_one_sentence(ask, pieces, said):
    """Catches memory that fills, a traceback of the client, a token that is repeated, and letters that act."""
    with pytest.raises(HfCmimError, match=said) as caught:
        ask(pieces)
    assert TOKEN not in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_byte_a_moment_ends_at_the_deadline(ask):
    """Catches a service that keeps an audit waiting for ever, each byte just in time."""
    begin = time.monotonic()
    with pytest.raises(HfCmimError, match="for more than 0.5 seconds"):
        ask(lambda: endless(b" ", pause=0.05), timeout=0.5)
    assert time.monotonic() - begin < 5


def test_an_honest_answer_passes_and_others_are_not_limited(ask):
    """Catches limits that stay on the client for whatever else uses it."""
    assert ask(answered(GOOD)).exp().tolist() == [pytest.approx([0.75, 0.25])]
    assert bounded_answers._current.__dict__.get("limits") is None
