"""Sounds from WAV files, without a package for audio."""

import io
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.io import wavfile
from scipy.signal import resample_poly

from hf_cmim.errors import HfCmimError

LONGEST_SECONDS = 30
"""Largest length of a sound; the rest is cut off. Ours."""


def read_sound(sample: Any, rate: int) -> npt.NDArray[np.float32]:
    """Return a WAV file as one channel in [-1, 1], at another sampling rate if necessary.

    Args:
        sample: row of an audio column that `datasets` does not decode: `{"bytes": ..., "path": ...}`.
        rate: sampling rate of the model, in samples per second.

    Returns:
        An array of at most `LONGEST_SECONDS * rate` numbers.

    Raises:
        HfCmimError: a row without a file, or a file that is no WAV file.
    """
    name = (sample.get("path") if isinstance(sample, Mapping) else None) or "of a row without a path"
    try:
        file = io.BytesIO(sample["bytes"]) if sample["bytes"] is not None else Path(sample["path"])
        own_rate, values = wavfile.read(file)
    except (KeyError, OSError, TypeError, ValueError) as error:
        raise HfCmimError(
            f"The sound {name} cannot be read as a WAV file ({error}), and hf_cmim decodes no other format."
            " Convert the sounds first, for instance with: ffmpeg -i sound.mp3 sound.wav"
        ) from error
    if len(values) == 0:
        raise HfCmimError(f"The sound {name} is empty: no model can read it. Remove it.")
    # The range of integers is asymmetric: dividing by its half keeps silence at 0 where bytes are unsigned.
    if np.issubdtype(values.dtype, np.unsignedinteger):
        sound = values.astype(np.float32) / 128 - 1
    elif np.issubdtype(values.dtype, np.integer):
        sound = values.astype(np.float32) / -float(np.iinfo(values.dtype).min)
    else:
        sound = values.astype(np.float32)
    if sound.ndim == 2:
        sound = sound.mean(axis=1)
    sound = sound[: LONGEST_SECONDS * own_rate]
    if own_rate != rate:
        factor = Fraction(rate, own_rate)
        sound = resample_poly(sound, factor.numerator, factor.denominator)
    return np.ascontiguousarray(sound, dtype=np.float32)
