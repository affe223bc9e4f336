"""A deployed classifier as a black-box teacher, asked over the network.

Use it to audit your own service, or one whose owner agreed. You state the agreement in words; it is stored with the
results. The number and the rate of requests are limited.
"""

import io
import math
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any, Literal, cast, final

import torch
from huggingface_hub import InferenceClient, get_token
from huggingface_hub.errors import HfHubHTTPError
from torch import Tensor

from hf_cmim.errors import HfCmimError
from hf_cmim.names import safe_text
from hf_cmim.teachers.answers import TOLERANCE
from hf_cmim.teachers.base import AbstractTeacher
from hf_cmim.teachers.bounded_answers import AnswerLimits, bounded_answers
from hf_cmim.teachers.fingerprints import digest
from hf_cmim.teachers.ledger import QueryLedger

Task = Literal["image-classification", "text-classification"]

LONGEST_PAUSE = 60.0
"""Longest pause between two tries, in seconds, even if the service asks for more."""

_INPUT_NAMES = {"image-classification": "image", "text-classification": "text"}
# HTTPError of httpx or httpx2, depending on the version of huggingface_hub: no answer came.
_TRANSPORT_ERROR = cast(type[Exception], HfHubHTTPError.__bases__[0])


@final
class EndpointTeacher(AbstractTeacher):
    """A teacher behind an inference endpoint, asked sample by sample through `huggingface_hub.InferenceClient`.

    Inputs are `{"image": [PIL images or encoded bytes]}` or `{"text": [strings]}`. PIL images are sent as PNG, without
    loss. Answers are (label, score) pairs, mapped to classes by name; missing classes share the remaining probability.

    A request that fails for now (429, 5xx, no connection, timeout) is sent again after a pause. The pause doubles each
    time, or is the one that the service asks for. The client cannot know which requests are billed, so the budget
    counts every request, including retries.

    No fingerprint sees the weights behind an endpoint: store its answers in a cache, and ask again when it changes.

    Args:
        client_or_model: client with a model and a timeout, or a Hub id or URL (then with 60 seconds, and the token
            you are logged in with).
        task: "image-classification" or "text-classification".
        class_names: names of all labels of the service, in any order.
        authorization: sentence that says who allowed this audit and how; stored with the results.
        budget: most requests that may be sent.
        requests_per_second: most requests that start in a second.
        max_concurrency: most requests that run at once.
        retries: number of times that a request is sent again.
        first_pause: seconds before the first retry.
        top_k: number of labels to ask for; None for all. With None an answer without some of them is an error.

    Attributes:
        ledger: ledger that counts the requests.

    Raises:
        HfCmimError: no authorisation, no budget, no rate, or a client without a timeout.
    """

    def __init__(
        self,
        client_or_model: InferenceClient | str,
        *,
        task: Task = "image-classification",
        class_names: Sequence[str],
        authorization: str,
        budget: int,
        requests_per_second: float,
        max_concurrency: int = 4,
        retries: int = 5,
        first_pause: float = 1.0,
        top_k: int | None = None,
    ) -> None:
        num_classes = len(class_names)
        super().__init__(
            num_classes, class_names, returns="probs", hides_classes=top_k is not None and top_k < num_classes
        )
        self.client = (
            InferenceClient(model=client_or_model, timeout=60) if isinstance(client_or_model, str) else client_or_model
        )
        self.client.headers.setdefault("Accept-Encoding", "identity")
        _check_terms(self.client, task, authorization, requests_per_second)
        if min(max_concurrency, 1 if top_k is None else top_k) < 1 or min(retries, first_pause) < 0:
            raise HfCmimError(
                "Expected max_concurrency and top_k of at least 1, retries and first_pause of at least 0, got"
                f" {max_concurrency}, {top_k}, {retries} and {first_pause}. The defaults are 4, None, 5 and 1.0."
            )
        self.task: Task = task
        self.authorization = authorization.strip()
        self.ledger = QueryLedger(budget)
        self.max_concurrency = max_concurrency
        self.retries = retries
        self.first_pause = first_pause
        self.top_k = num_classes if top_k is None else top_k
        self._rate = RateLimit(requests_per_second)
        self._columns = {name: column for column, name in enumerate(class_names)}

    def record(self) -> dict[str, Any]:
        """Return the description that is stored with results: with authorisation, endpoint and requests sent."""
        return super().record() | {
            "authorization": self.authorization,
            "endpoint": self.client.model,
            "task": self.task,
            "top_k": self.top_k,
            "ledger": self.ledger.to_dict(),
        }

    def _identity(self) -> str:
        return digest(self.client.model, self.client.provider, self.task, self.top_k)

    def _answer(self, inputs: Mapping[str, Any], labels: Tensor | None) -> Tensor:
        name = _INPUT_NAMES[self.task]
        if name not in inputs:
            raise HfCmimError(f"Expected {name!r} among the inputs for {self.task}, got {sorted(inputs)}.")
        samples = [_sendable(sample, self.task) for sample in inputs[name]]
        # All or none: half a batch would be paid and lost.
        self.ledger.check(len(samples))
        executor = ThreadPoolExecutor(max_workers=self.max_concurrency)
        try:
            futures = [executor.submit(self._ask, sample) for sample in samples]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            # After a failure, requests that have not started are never sent.
            executor.shutdown(cancel_futures=True)
        for future in done:
            future.result()  # raises the error of a failed request
        rows = [future.result() for future in futures]
        return torch.tensor(rows, dtype=torch.float64).reshape(-1, self.num_classes)

    def _ask(self, sample: Any) -> list[float]:
        """Return the probabilities of one sample, with retries while they can help."""
        for attempt in range(self.retries + 1):
            self._rate.wait()
            self.ledger.charge(1)
            self.ledger.asked(1)
            try:
                return self._probs(self._send(sample))
            except (HfHubHTTPError, _TRANSPORT_ERROR) as error:
                pause = _pause(error, self.first_pause * 2**attempt)
                if pause is None or attempt == self.retries:
                    # Without the cause, because a server may repeat the token in its message.
                    raise self._failed(error, attempt + 1) from None
            time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def _failed(self, error: Exception, attempts: int) -> HfCmimError:
        status = f"status {error.response.status_code}" if isinstance(error, HfHubHTTPError) else type(error).__name__
        token = self.client.token if isinstance(self.client.token, str) else get_token()
        lines = str(error).splitlines() or [""]
        message = safe_text(lines[0].replace(token, "***") if token else lines[0])[:300]
        return HfCmimError(
            f"{self.client.model} did not answer, after {attempts} tries ({status}: {message}): this sample has no"
            " answer. Check the service, or allow more retries; answers in a cache are kept."
        )

    def _send(self, sample: Any) -> Any:
        seconds = float(self.client.timeout or LONGEST_PAUSE)
        try:
            with bounded_answers(AnswerLimits(seconds)):
                return self._request(sample)
        # Some of these are also a ValueError, which the next clause would catch.
        except (HfHubHTTPError, HfCmimError):
            raise
        # The client's parser recurses for ever on a score of nan.
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
            raise self._unreadable(str(error)) from error

    def _request(self, sample: Any) -> Any:
        if self.task == "image-classification":
            return self.client.image_classification(sample, top_k=self.top_k)
        return self.client.text_classification(sample, top_k=self.top_k)

    def _unreadable(self, content: str) -> HfCmimError:
        excerpt = safe_text(content)[:200]
        return HfCmimError(
            f"Expected a JSON list of labels with scores from {self.client.model}, got something else ({excerpt}):"
            f" another service, or another task than {self.task}. Send one request by hand and read the answer."
        )

    def _probs(self, elements: Sequence[Any]) -> list[float]:
        """Return one answer by class.

        Raises:
            HfCmimError: labels that are unknown, repeated or missing, or scores that are not probabilities.
        """
        scores: dict[int, float] = {}
        for element in elements:
            label, score = getattr(element, "label", None), getattr(element, "score", None)
            if not isinstance(label, str) or not isinstance(score, int | float):
                raise self._unreadable(repr(element))
            column = self._columns.get(label)
            if column is None:
                raise HfCmimError(
                    f"Expected labels among {list(self._columns)[:8]}, got {label!r} from {self.client.model}: its"
                    " probability would go to other classes. Give the service's names of its labels as class_names."
                )
            if not 0 <= score <= 1 + TOLERANCE:
                raise HfCmimError(
                    f"Expected scores in [0, 1], got {score} for {label!r} from {self.client.model}: perhaps logits."
                    " Let the service answer with its softmax."
                )
            if column in scores:
                raise HfCmimError(
                    f"Expected each label once, got {label!r} twice from {self.client.model}: its probability would be"
                    " ambiguous. Correct the names of the service's labels."
                )
            scores[column] = float(score)
        missing = self.num_classes - len(scores)
        if not scores or (missing and not self.hides_classes):
            raise HfCmimError(
                f"Expected all {self.num_classes} classes, got {len(scores)} from {self.client.model}: the service"
                " hides the others, which would then look equally probable. Set top_k to the number that it returns."
            )
        return self._completed(scores, missing)

    def _completed(self, scores: Mapping[int, float], missing: int) -> list[float]:
        """Return a row that sums to 1; the missing classes share the remaining probability.

        Raises:
            HfCmimError: scores that are not a distribution.
        """
        total = math.fsum(scores.values())
        if total > 1 + TOLERANCE or (not missing and total < 1 - TOLERANCE):
            raise HfCmimError(
                f"Expected scores that sum to {'at most ' if missing else ''}1, got {total:.4g} from"
                f" {self.client.model}: sigmoid scores of a multi-label head. Let the service answer with its softmax."
            )
        hidden_probability = max(0.0, 1 - total) / missing if missing else 0.0
        row = [scores.get(column, hidden_probability) for column in range(self.num_classes)]
        return [probability / math.fsum(row) for probability in row]


class RateLimit:
    """A limit that spaces the starts of requests evenly, over all threads.

    Args:
        per_second: most starts in a second, above 0.
    """

    def __init__(self, per_second: float) -> None:
        self._interval = 1 / per_second
        self._next = -math.inf
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Wait until the next request may start."""
        with self._lock:
            now = time.monotonic()
            begin = max(now, self._next)
            self._next = begin + self._interval
        if begin > now:
            time.sleep(begin - now)


def _check_terms(client: InferenceClient, task: str, authorization: str, requests_per_second: float) -> None:
    if task not in _INPUT_NAMES:
        raise HfCmimError(f"Expected a task among {list(_INPUT_NAMES)}, got {task!r}.")
    if client.model is None or client.timeout is None:
        raise HfCmimError(
            f"Expected a client with a model and a timeout, got model={client.model!r} and timeout={client.timeout!r}:"
            " the Hub would choose some model, or an audit would wait for ever for a lost answer. Use"
            " InferenceClient(model=..., timeout=60)."
        )
    if len(authorization.split()) < 3:
        raise HfCmimError(
            f"Expected authorization as a sentence that says who allowed these queries, got {authorization!r}: asking"
            " a service in bulk without its owner's consent can break its terms and the law. Write down, for instance,"
            ' "Our own endpoint; agreed with its operations team on 3 May."'
        )
    if not 0 < requests_per_second < math.inf:
        raise HfCmimError(
            f"Expected requests_per_second above 0 and finite, got {requests_per_second}: without a limit an audit is"
            " a denial of service. Ask the owner for the rate that the service can take."
        )


def _sendable(sample: Any, task: Task) -> Any:
    """Return an image as encoded bytes, or a text unchanged.

    Raises:
        HfCmimError: any other input; the client would open a path or URL.
    """
    if task == "text-classification":
        if isinstance(sample, str):
            return sample
        raise HfCmimError(f"Expected texts as strings, got {type(sample).__name__}.")
    if isinstance(sample, bytes):
        return sample
    # Only images need PIL.
    from PIL import Image

    if not isinstance(sample, Image.Image):
        raise HfCmimError(f"Expected images as PIL images or encoded bytes, got {type(sample).__name__}.")
    encoded = io.BytesIO()
    sample.save(encoded, format="PNG")
    return encoded.getvalue()


def _pause(error: Exception, backoff: float) -> float | None:
    """Return the seconds to wait before the next try, or None if another try cannot help."""
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status != 429 and status < 500:
            return None
        retry_after = error.response.headers.get("Retry-After", "")
        # The header may also hold a date, which is ignored.
        backoff = max(backoff, float(retry_after) if retry_after.isdigit() else 0.0)
    return min(backoff, LONGEST_PAUSE)
