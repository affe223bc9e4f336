"""Settings of every test: one thread, no Hub, quiet libraries."""

import gc
import os
import sys

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# triton is published for Linux alone; there a missing one is an error.
collect_ignore = [] if sys.platform == "linux" else ["functional/test_triton.py"]


def pytest_collection_finish() -> None:
    """Exclude everything that was imported from garbage collection.

    Each Trainer collects, and walking all modules took half the time of a small training.
    """
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Undo this at the end, because extensions report objects that are never freed as leaks."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def own_verbosity():
    """Give every test the verbosity of a new process: commands lower it, also in the fixtures of other modules."""
    from transformers.utils import logging

    logging.set_verbosity_warning()
    logging.enable_progress_bar()
