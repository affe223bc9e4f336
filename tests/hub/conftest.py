"""Hubs for the tests of this folder, and clients of them."""

from types import SimpleNamespace

import huggingface_hub
import pytest
from hub.running_hub import RunningHub
from huggingface_hub import HfApi, constants


@pytest.fixture(scope="session")
def hub(tmp_path_factory):
    """One Hub for all tests of a worker: use repository names of your own, order no faults."""
    running = RunningHub(tmp_path_factory.mktemp("hub"))
    yield running
    running.kill()
    assert running.log() == "", "the Hub itself is at fault"


@pytest.fixture
def fresh_hub(tmp_path):
    """An empty Hub of the test's own, to break and to kill."""
    running = RunningHub(tmp_path / "fresh_hub")
    yield running
    running.kill()
    assert running.log() == "", "the Hub itself is at fault"


@pytest.fixture
def hub_api(monkeypatch, tmp_path):
    """`hub_api(hub, token="hf_owner")`: a client in this process, with a cache of the test's own; False is anonymous.

    For `HfApi`'s methods alone. Whatever takes no endpoint (`from_pretrained`, `push_to_hub` of a model, a data set or
    a trainer, `pipeline`, `load_dataset`, `ModelCard`, the commands) reads HF_ENDPOINT and HF_HUB_OFFLINE once, at
    import: it must run in a process of its own, in the environment that `hub.environment(home=tmp_path)` returns.
    """
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # `make test` sets it
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))

    def api(hub: RunningHub, token: str | bool = "hf_owner") -> HfApi:
        return HfApi(endpoint=hub.endpoint, token=token)

    yield api
    huggingface_hub.close_session()


@pytest.fixture
def impatient(monkeypatch):
    """The client in this process tries a failing Hub again as often as ever, but without waiting 23 seconds for it."""
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda seconds: None))
