"""Settings of every test: one thread, no Hub, quiet libraries."""

import os
import sys

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# triton is published for Linux alone; there a missing one is an error.
collect_ignore = [] if sys.platform == "linux" else ["functional/test_triton.py"]


@pytest.fixture(autouse=True)
def own_verbosity():
    """Give every test the verbosity of transformers, which the commands lower for the whole process."""
    from transformers.utils import logging

    level, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    yield
    logging.set_verbosity(level)
    (logging.enable_progress_bar if has_bars else logging.disable_progress_bar)()
