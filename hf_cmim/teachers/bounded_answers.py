"""Limits on what a service may send as an answer: its bytes, its time, and no compression that could hide either."""

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
"""Largest answer that is read: a hundred times that of ten thousand classes."""
_http: Any = importlib.import_module(HfHubHTTPError.__bases__[0].__module__.partition(".")[0])  # httpx or httpx2
_current = threading.local()


@dataclass(frozen=True)
class AnswerLimits:
    """Limits of the answers that one thread reads.

    Attributes:
        seconds: total time for one answer, from the request on.
        most_bytes: size of one answer.
    """

    seconds: float
    most_bytes: int = MOST_BYTES


@contextmanager
def bounded_answers(limits: AnswerLimits) -> Iterator[None]:
    """Hold every answer that this thread reads through the Hub's client to the limits.

    The client reads a body to its end, however long that takes and whatever a few compressed bytes become.
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
    limits: AnswerLimits | None = getattr(_current, "limits", None)
    if limits is None:
        return
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise HfCmimError(
            "The service compressed its answer though it was asked not to: a few bytes could become any number. Switch"
            " compression off where the service runs."
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
                    f"The service sent more than {self._limits.most_bytes:,} bytes as one answer: it is no list of"
                    " labels. Send it one request by hand and look."
                )
            if time.monotonic() > self._deadline:
                raise HfCmimError(
                    f"The service sent one answer for more than {self._limits.seconds:g} seconds: an audit would not"
                    " end. Give a client with a longer timeout if it is really so slow."
                )
            yield piece

    def close(self) -> None:
        """Close the body itself."""
        self._stream.close()
