"""Limits on the answers of a service: size and time, and no compression, which could hide the size."""

import importlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from huggingface_hub import get_session
from huggingface_hub.errors import HfHubHTTPError

from hf_cmim.errors import HfCmimError

MOST_BYTES = 10_000_000
"""Size of the largest answer that is read, in bytes: a hundred times that of ten thousand classes."""
# httpx or httpx2, depending on the version of huggingface_hub.
_http: Any = importlib.import_module(HfHubHTTPError.__bases__[0].__module__.partition(".")[0])
_current = threading.local()


@dataclass(frozen=True)
class AnswerLimits:
    """Limits of the answers that one thread reads.

    Attributes:
        seconds: longest time for one answer, from the request on.
        most_bytes: largest size of one answer.
    """

    seconds: float
    most_bytes: int = MOST_BYTES


@contextmanager
def bounded_answers(limits: AnswerLimits) -> Iterator[None]:
    """Apply the limits to every answer that this thread reads through the Hub's client.

    Without limits the client reads a body to its end, however long it takes and however large it is decompressed.
    """
    client = get_session()
    hooks = client.event_hooks
    if _bound not in hooks["response"]:
        client.event_hooks = {**hooks, "response": [*hooks["response"], _bound]}
    _current.limits, _current.deadline = limits, time.monotonic() + limits.seconds
    try:
        yield
    finally:
        _current.limits = None


def _bound(response: Any) -> None:
    """Limit a response, if this thread has limits."""
    limits: AnswerLimits | None = getattr(_current, "limits", None)
    if limits is None:
        return
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise HfCmimError(
            "The service compressed its answer although it was asked not to: a few bytes could expand to any number."
            " Switch compression off in the service."
        )
    response.stream = _BoundedStream(response.stream, limits, _current.deadline)


class _BoundedStream(_http.SyncByteStream):  # type: ignore[misc]
    """A body that ends with an error at its limits."""

    def __init__(self, stream: Any, limits: AnswerLimits, deadline: float) -> None:
        self._stream = stream
        self._limits = limits
        self._deadline = deadline

    def __iter__(self) -> Iterator[bytes]:
        received = 0
        for piece in self._stream:
            received += len(piece)
            if received > self._limits.most_bytes:
                raise HfCmimError(
                    f"The service sent more than {self._limits.most_bytes:,} bytes as one answer: this is no list of"
                    " labels. Send one request by hand and read the answer."
                )
            if time.monotonic() > self._deadline:
                raise HfCmimError(
                    f"The service sent one answer for more than {self._limits.seconds:g} seconds: an audit would not"
                    " end. If the service is so slow, use a client with a longer timeout."
                )
            yield piece

    def close(self) -> None:
        """Close the body."""
        self._stream.close()
