"""Settings of every test: one thread, no Hub, quiet libraries."""

import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# triton is published for Linux alone; there a missing one is an error.
collect_ignore = [] if sys.platform == "linux" else ["functional/test_triton.py"]
