"""A Hub in a process of its own, as tests hold it."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

from hanging import HANGING

SERVER = Path(__file__).with_name("hub_server.py")


class Request(NamedTuple):
    """What was asked of the Hub: `bytes` counts the body, sent or received."""

    method: str
    path: str
    bytes: int
    status: int


class RunningHub:
    """A Hub that can be told to fail, killed, and started again with what it had on disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port = 0
        self.restart()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def restart(self) -> None:
        """Start the server, after a kill on the same port. What was ordered and recorded before is forgotten."""
        self.root.mkdir(parents=True, exist_ok=True)
        port_file = self.root / "port"
        port_file.unlink(missing_ok=True)
        command = [sys.executable, str(SERVER), "--root", str(self.root), "--port-file", str(port_file)]
        with (self.root / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port), "--until-stdin-closes"], stdin=subprocess.PIPE, stderr=log
            )
        deadline = time.monotonic() + HANGING
        while not port_file.exists():
            assert self.process.poll() is None, f"the Hub did not start: {self.log()}"
            assert time.monotonic() < deadline, "the Hub does not start"
            time.sleep(0.02)
        self.port = int(port_file.read_text())

    def log(self) -> str:
        """What the server complained about: empty unless it is at fault itself."""
        return (self.root / "log").read_text()

    def wait_for_death(self) -> None:
        """Wait until a server that was told to die has done so."""
        self.process.wait(60)
        self.process.stdin.close()

    def kill(self) -> None:
        self.process.kill()
        self.wait_for_death()

    def _control(self, **order: Any) -> dict[str, Any]:
        data = json.dumps(order).encode() if order else None
        # Whatever proxy the environment names, it cannot reach this machine's loopback.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self.endpoint}/_control", data=data, timeout=60) as answer:
            return json.load(answer)

    def control(self, **order: Any) -> None:
        """Order what shall go wrong.

        `die_after_bytes=N`: end in the middle of an upload, N bytes of LFS files from now.
        `fail={"path_contains": ..., "method": ..., "times": ..., "status": ...}`: answer so many such requests with
        an error (by default any method, once, 503). `reset=True`: forget all that, and the record of requests.
        """
        self._control(**order)

    def requests(self) -> list[Request]:
        """Return what was asked since the start or the last reset."""
        return [Request(*fields) for fields in self._control()["requests"]]

    def environment(self, token: str | None = "hf_owner", *, home: Path) -> dict[str, str]:
        """Return variables for a process that takes this for its Hub, with caches of its own under `home`."""
        others = ("HF_", "HUGGING", "TRANSFORMERS_")  # among them what forbids to go online
        kept = {key: value for key, value in os.environ.items() if not key.startswith(others)}
        return {
            **kept,
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",  # or uploads look for a store that this Hub does not have
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "NO_PROXY": "127.0.0.1",
            "OMP_NUM_THREADS": "1",
            **({"HF_TOKEN": token} if token else {}),
        }
