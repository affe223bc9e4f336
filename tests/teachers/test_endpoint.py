"""An endpoint as a teacher, against a real server on this machine."""

import base64
import contextlib
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import InferenceClient
from PIL import Image

from hf_cmim.channels import FLOOR
from hf_cmim.errors import HfCmimError
from hf_cmim.teachers import EndpointTeacher, endpoint

NAMES = ("cat", "dog", "owl")
PROBS = {"first": (0.7, 0.2, 0.1), "second": (0.1, 0.3, 0.6), "third": (0.0, 0.0, 1.0)}
OUR_SERVER = "Our own server, started by this very test."


def shown(probs, order=(2, 0, 1)):
    """An answer as pipelines give it, in an order of its own."""
    return [{"label": NAMES[index], "score": probs[index]} for index in order]


class Server:
    """Answers texts by `PROBS`; what `acts` holds for a request's number goes first."""

    def __init__(self):
        self.requests = []
        self.acts = {}
        self.under_way = self.most_under_way = 0
        self.gate = None
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with lock:
                    number = len(outer.requests)
                    outer.requests.append((dict(self.headers), body))
                    outer.under_way += 1
                    outer.most_under_way = max(outer.most_under_way, outer.under_way)
                if outer.gate is not None:
                    outer.gate.wait(10)
                status, headers, content = outer.answer(number, body)
                with lock:
                    outer.under_way -= 1
                payload = content if isinstance(content, bytes) else json.dumps(content).encode()
                with contextlib.suppress(ConnectionError):  # the client may have given up
                    self.send_response(status)
                    for name, value in ({"Content-Length": str(len(payload))} | headers).items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(payload)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.released = threading.Event()

    def answer(self, number, body):
        act = self.acts.get(number, self.acts.get("always"))
        if act == "hang":
            self.released.wait(30)
        elif act is not None:
            return act
        return 200, {}, [shown(PROBS[json.loads(body)["inputs"]])]


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)  # it blocks every request
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    huggingface_hub.close_session()
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.released.set()
    server.http.shutdown()
    server.http.server_close()
    thread.join()
    huggingface_hub.close_session()


def teacher(server, **settings):
    defaults = {
        "task": "text-classification", "class_names": NAMES, "authorization": OUR_SERVER, "budget": 100,
        "requests_per_second": 1e6, "first_pause": 0.0,
    }  # fmt: skip
    client = InferenceClient(model=server.url, timeout=settings.pop("timeout", 10))
    return EndpointTeacher(client, **(defaults | settings))


def texts(*names):
    return {"text": list(names)}


def test_texts_are_answered_in_their_order(server):
    """Catches scores taken in the service's order, answers in the order of their arrival, and the default top 5."""
    names = ["first", "second", "third"] * 5
    answers = teacher(server)(texts(*names))
    assert answers.exp().tolist() == [pytest.approx(PROBS[name], abs=1e-6) for name in names]
    assert answers.isfinite().all()
    sent = [json.loads(body) for _, body in server.requests]
    assert sorted(request["inputs"] for request in sent) == sorted(names)
    assert {request["parameters"]["top_k"] for request in sent} == {3}


def test_images_arrive_without_loss(server):
    """Catches a lossy encoding, and PIL images that this client does not take."""
    server.acts["always"] = (200, {}, shown(PROBS["first"]))
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels[::-1]).save(encoded, format="PNG")
    asked = teacher(server, task="image-classification", max_concurrency=1)
    answers = asked({"image": [Image.fromarray(pixels), encoded.getvalue()]})
    assert answers.exp().tolist() == [pytest.approx(PROBS["first"], abs=1e-6)] * 2
    arrived = [json.loads(body)["inputs"] for _, body in server.requests]
    decoded = [np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in arrived]
    assert np.array_equal(decoded[0], pixels)
    assert np.array_equal(decoded[1], pixels[::-1])


def test_hidden_classes_share_what_is_left(server):
    """Catches top-k answers that are renormalised, or given to the wrong classes."""
    server.acts[0] = (200, {}, [[{"label": "owl", "score": 0.6}]])
    server.acts[1] = (200, {}, [[{"label": "dog", "score": 1.0}]])
    asked = teacher(server, top_k=1, max_concurrency=1)
    answers = asked(texts("first", "second"))
    assert asked.hides_classes
    assert answers[0].exp().tolist() == pytest.approx([0.2, 0.2, 0.6])
    assert answers[1].exp().tolist() == pytest.approx([FLOOR, 1.0, FLOOR])
    assert json.loads(server.requests[0][1])["parameters"]["top_k"] == 1
    assert not teacher(server).hides_classes
    assert not teacher(server, top_k=3).hides_classes


@pytest.mark.parametrize("act", [(503, {}, b"loading"), (429, {"Retry-After": "0"}, b""), (500, {}, b""), "hang"])
def test_passing_failures_are_tried_again(act, server):
    """Catches an audit that dies at the first hiccup, and retries that no budget counts."""
    server.acts = {0: act, 1: act}
    asked = teacher(server, timeout=0.3)
    answers = asked(texts("first"))
    assert answers[0].exp().tolist() == pytest.approx(PROBS["first"])
    assert len(server.requests) == 3
    assert (asked.ledger.num_paid, asked.ledger.num_asked) == (3, 3)


@pytest.mark.parametrize(("act", "error"), [((503, {}, b""), "status 503"), ("hang", "Timeout")], ids=["503", "hang"])
def test_lasting_failures_end(act, error, server):
    """Catches retries without end."""
    server.acts["always"] = act
    with pytest.raises(HfCmimError, match=error):
        teacher(server, retries=2, timeout=0.2)(texts("first"))
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_refusals_are_not_tried_again(status, server):
    """Catches retries that cannot help: they cost money and look like an attack."""
    server.acts["always"] = (status, {}, b"no")
    with pytest.raises(HfCmimError, match="status 4|status 5"):
        teacher(server)(texts("first"))
    assert len(server.requests) == 1


def test_no_server_is_tried_again_and_ends(server):
    """Catches a lost connection that ends the audit at once, or never."""
    asked = teacher(server, retries=2)
    asked.client.model = "http://127.0.0.1:1"
    with pytest.raises(HfCmimError, match="Connect"):
        asked(texts("first"))
    assert asked.ledger.num_asked == 3


def test_pauses_double_and_follow_the_service(server, monkeypatch):
    """Catches a service in trouble that is hammered, and a wish of it that is ignored or obeyed without limit."""
    server.acts = {
        0: (503, {}, b""), 1: (503, {}, b""), 2: (429, {"Retry-After": "17"}, b""),
        3: (429, {"Retry-After": "99999"}, b""), 4: (429, {"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}, b""),
    }  # fmt: skip
    pauses = []
    monkeypatch.setattr(endpoint.time, "sleep", pauses.append)
    teacher(server, first_pause=2.0, requests_per_second=1e9)(texts("first"))
    assert [pause for pause in pauses if pause > 0.1] == [2.0, 4.0, 17.0, 60.0, 32.0]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"<html>", "something else"),
        (b"\xff\xfe", "something else"),
        ([], "something else"),
        ({"error": "loading"}, "something else"),
        ([[{"name": "cat", "p": 1.0}]], "something else"),
        ([[{"label": "cat", "score": "high"}]], "something else"),
        (shown(PROBS["first"]), "something else"),
        ([[*shown(PROBS["first"]), {"label": "bat", "score": 0.0}]], "'bat'"),
        ([[*shown(PROBS["first"]), {"label": "cat", "score": 0.0}]], "'cat' twice"),
        ([shown((0.9, 0.8, 0.7))], "sigmoid"),
        ([shown((0.1, 0.1, 0.1))], "sigmoid"),
        ([shown((7.0, 0.1, 0.1))], r"\[0, 1\], got 7"),
        (b'[[{"label": "cat", "score": NaN}]]', "something else"),
        ([shown(PROBS["first"])[:2]], "Expected all 3 classes, got 2"),
        ([[]], "Expected all 3 classes, got 0"),
    ],
)
def test_garbage_is_refused(content, named, server):
    """Catches answers that would be read as some distribution or other."""
    server.acts["always"] = (200, {}, content)
    with pytest.raises(ValueError, match=named):
        teacher(server)(texts("first"))
    assert len(server.requests) == 1, "garbage is not worth another query"


def test_budget_counts_each_request(server):
    """Catches half a batch that is paid and lost, and retries beyond the budget."""
    asked = teacher(server, budget=4, max_concurrency=1)
    asked(texts("first", "second"))
    with pytest.raises(ValueError, match="2 more queries, got 3"):
        asked(texts("first", "second", "third"))
    assert len(server.requests) == 2
    server.acts["always"] = (503, {}, b"")
    with pytest.raises(ValueError, match="0 more queries, got 1"):
        asked(texts("first"))
    assert len(server.requests) == 4


def test_nothing_is_sent_after_a_failure(server):
    """Catches a batch that goes on being paid although its answers are lost."""
    server.acts["always"] = (404, {}, b"")
    with pytest.raises(HfCmimError, match="status 4|status 5"):
        teacher(server, max_concurrency=1, budget=500)(texts(*["first"] * 500))
    assert len(server.requests) < 500


def test_concurrency_is_used_and_bounded(server):
    """Catches one request at a time, and more at once than was agreed: the gate opens only for three."""
    server.gate = threading.Barrier(3)
    teacher(server, max_concurrency=3)(texts(*["first"] * 12))
    assert server.most_under_way == 3


def test_rate_is_bounded(monkeypatch):
    """Catches bursts: whatever the time between them, 4 a second begin at least a quarter apart."""
    clock = [100.0]
    monkeypatch.setattr(endpoint.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(endpoint.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    rate = endpoint.RateLimit(4.0)
    begun = []
    for idle in (0, 0, 0, 0.1, 3.0, 0):
        clock[0] += idle
        rate.wait()
        begun.append(clock[0])
    assert begun == pytest.approx([100.0, 100.25, 100.5, 100.75, 103.75, 104.0])


def test_record_holds_the_authorisation(server):
    """Catches results that do not say who allowed the queries, or how many there were."""
    asked = teacher(server)
    asked(texts("first", "second"))
    record = json.loads(json.dumps(asked.record()))
    assert record["authorization"] == OUR_SERVER
    assert record["endpoint"] == server.url
    assert record["ledger"] == {"budget": 100, "paid": 2, "asked": 2, "samples": []}


def test_fingerprint_follows_the_endpoint(server):
    """Catches a cache of one service that is taken for another's."""
    same = teacher(server).fingerprint()
    other = teacher(server)
    other.client.model = "http://127.0.0.1:1"
    assert teacher(server, budget=5).fingerprint() == same
    assert len({same, other.fingerprint(), teacher(server, top_k=2).fingerprint()}) == 3


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"authorization": ""}, "who allowed"),
        ({"authorization": "  yes "}, "who allowed"),
        ({"budget": 0}, "budget"),
        ({"requests_per_second": 0}, "denial of service"),
        ({"requests_per_second": float("inf")}, "denial of service"),
        ({"task": "audio-classification"}, "audio-classification"),
        ({"max_concurrency": 0}, "max_concurrency"),
        ({"top_k": 0}, "top_k"),
        ({"retries": -1}, "retries"),
        ({"timeout": None}, "wait for ever"),
    ],
)
def test_terms_are_demanded(settings, named):
    """Catches an audit without consent, limit or end."""

    class Nowhere:
        url = "http://127.0.0.1:1"

    with pytest.raises(ValueError, match=named):
        teacher(Nowhere, **settings)


@pytest.mark.parametrize("missing", ["authorization", "budget", "requests_per_second", "class_names"])
def test_terms_have_no_default(missing):
    """Catches a term that somebody made optional."""
    settings = {"authorization": OUR_SERVER, "budget": 1, "requests_per_second": 1.0, "class_names": NAMES}
    del settings[missing]
    with pytest.raises(TypeError, match=missing):
        EndpointTeacher("http://127.0.0.1:1", **settings)


@pytest.mark.parametrize(
    ("task", "inputs", "named"),
    [
        ("text-classification", {"image": ["first"]}, "'text' among the inputs"),
        ("text-classification", {"text": [b"first"]}, "bytes"),
        ("image-classification", {"image": ["/etc/passwd"]}, "str"),
        ("image-classification", {"image": torch.zeros(1, 3, 8, 8)}, "Tensor"),
    ],
)
def test_inputs_of_another_kind_are_refused(task, inputs, named, server):
    """Catches a path that is opened and sent, and tensors that no service reads."""
    with pytest.raises(ValueError, match=named):
        teacher(server, task=task)(inputs)
    assert server.requests == []
