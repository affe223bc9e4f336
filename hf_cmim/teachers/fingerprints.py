"""Fingerprints: sha256 of values of any kind, the same in every process."""

import hashlib
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def digest(*values: Any) -> str:
    """Return the sha256 hex of tensors, arrays, text, bytes, numbers, None, and mappings and sequences of them.

    Any other value, an image for instance, enters by its pickle. Order matters in sequences, not in mappings.
    """
    sha = hashlib.sha256()
    _update(sha, values)
    return sha.hexdigest()


def _update(sha: Any, value: Any) -> None:
    """Add a value with its type, so that 1, "1" and [1] differ."""
    if isinstance(value, Mapping):
        sha.update(f"mapping {len(value)};".encode())
        # Sorted, so that the order of a mapping does not matter.
        for name in sorted(value, key=str):
            _update(sha, str(name))
            _update(sha, value[name])
    elif isinstance(value, list | tuple):
        sha.update(f"sequence {len(value)};".encode())
        for item in value:
            _update(sha, item)
    elif isinstance(value, Tensor):
        # Viewed as bytes, because numpy has no bfloat16.
        sha.update(f"tensor {value.dtype} {tuple(value.shape)};".encode())
        sha.update(value.detach().cpu().flatten().clone().view(torch.uint8).numpy())
    elif isinstance(value, np.ndarray) and value.dtype != object:
        sha.update(f"array {value.dtype} {value.shape};".encode())
        sha.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, str | int | float | None):
        text = f"{type(value).__name__} {value!r};".encode()
        sha.update(text)
    else:
        content = value if isinstance(value, bytes) else pickle.dumps(value, protocol=4)
        sha.update(f"bytes {len(content)};".encode())
        sha.update(content)
