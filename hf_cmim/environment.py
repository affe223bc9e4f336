"""Device and versions that a number was measured with."""

import platform
import time
from importlib.metadata import version
from typing import Any

import torch
from accelerate import PartialState

PACKAGES = ("hf_cmim", "torch", "transformers", "accelerate", "numpy", "scipy")


def describe_environment() -> dict[str, Any]:
    """Return date, device, number of processes and versions, ready for JSON."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU",
        "processes": PartialState().num_processes,
        "versions": {name: version(name) for name in PACKAGES},
    }
