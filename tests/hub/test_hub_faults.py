"""A test Hub that fails on order: what others test against it is worth as much as its faults are real."""

from pathlib import Path

import numpy as np
import pytest
from huggingface_hub.errors import HfHubHTTPError

try:
    from httpx2 import TransportError
except ImportError:  # huggingface_hub 1 stands on its predecessor
    from httpx import TransportError

WEIGHTS = np.random.default_rng(0).bytes(3_000_000)


@pytest.fixture
def api(fresh_hub, hub_api, impatient):
    api = hub_api(fresh_hub)
    api.create_repo("owner/model")
    fresh_hub.control(reset=True)
    return api


def push(api) -> str:
    return api.upload_file(path_or_fileobj=WEIGHTS, path_in_repo="model.safetensors", repo_id="owner/model").oid


def test_death_in_the_middle_of_an_upload(fresh_hub, api):
    """Catches a half file that counts as uploaded, and a restart that forgets or invents a commit."""
    start = api.model_info("owner/model").sha
    fresh_hub.control(die_after_bytes=1_000_000)
    with pytest.raises(RuntimeError, match=r"uploading 'model.safetensors'") as error:
        push(api)
    assert isinstance(error.value.__cause__, TransportError)
    fresh_hub.wait_for_death()
    fresh_hub.restart()
    assert api.model_info("owner/model").sha == start
    assert api.list_repo_files("owner/model") == [".gitattributes"]
    assert push(api) != start
    sent = [request.bytes for request in fresh_hub.requests() if request.method == "PUT"]
    assert sent == [len(WEIGHTS)]
    assert Path(api.hf_hub_download("owner/model", "model.safetensors")).read_bytes() == WEIGHTS


def test_death_comes_at_the_byte_that_was_ordered(fresh_hub, api):
    """Catches a count that forgets the files before: the second of two would go through."""
    fresh_hub.control(die_after_bytes=len(WEIGHTS) + 1)
    push(api)
    with pytest.raises(RuntimeError):
        api.upload_file(path_or_fileobj=WEIGHTS[:-1], path_in_repo="b.safetensors", repo_id="owner/model")
    fresh_hub.wait_for_death()


def test_failures_end_when_they_were_ordered_to(fresh_hub, api):
    """Catches a fault that hits other requests or never ends, or that the record does not show."""
    fresh_hub.control(fail={"path_contains": "/_lfs/", "method": "POST", "times": 2, "status": 503})
    push(api)
    asked = [(request.method, request.status) for request in fresh_hub.requests() if "/_lfs/" in request.path]
    assert asked == [("PUT", 200), ("POST", 503), ("POST", 503), ("POST", 200)]
    fresh_hub.control(fail={"path_contains": "/commit/", "times": 1, "status": 503})
    with pytest.raises(HfHubHTTPError, match="503"):  # a commit is not tried again: it might have succeeded
        api.delete_file("model.safetensors", repo_id="owner/model")
    assert "model.safetensors" in api.list_repo_files("owner/model")
    api.delete_file("model.safetensors", repo_id="owner/model")


def test_reset_forgets_faults_and_requests(fresh_hub, api):
    """Catches faults that leak into what comes after them."""
    fresh_hub.control(fail={"path_contains": "/api/", "times": 9, "status": 500}, die_after_bytes=10)
    with pytest.raises(HfHubHTTPError, match="500"):
        api.whoami()
    fresh_hub.control(reset=True)
    assert fresh_hub.requests() == []
    push(api)
    assert [request.method for request in fresh_hub.requests() if "/_lfs/" in request.path] == ["PUT", "POST"]


def test_state_and_cache_outlive_the_server(fresh_hub, api):
    """Catches a Hub that keeps anything in memory alone, and downloads that need it once they are made."""
    commit = push(api)
    api.create_tag("owner/model", tag="v1")
    path = api.hf_hub_download("owner/model", "model.safetensors")
    fresh_hub.kill()
    assert api.hf_hub_download("owner/model", "model.safetensors") == path
    assert api.snapshot_download("owner/model", local_files_only=True) == str(Path(path).parent)
    with pytest.raises(TransportError):
        api.model_info("owner/model")
    fresh_hub.restart()
    assert api.model_info("owner/model", revision="v1").sha == commit
