"""Nothing private leaves the machine: every byte that is sent to the Hub is searched."""

import subprocess
import sys
from pathlib import Path

import pytest
from hub.running_hub import RunningHub
from recording_proxy import RecordingProxy

JOB = Path(__file__).with_name("private_job.py")
PRIVATE = (b"jane.doe", b"secret-project")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project in a home folder, both with names that nobody else should read, after it has pushed."""
    folder = tmp_path_factory.mktemp("machine") / "home" / "jane.doe" / "secret-project"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def pushed(project, tmp_path_factory):
    """Everything that was sent, and the files of every repository."""
    root = tmp_path_factory.mktemp("hub")
    hub = RunningHub(root)
    proxy = RecordingProxy(hub.port)
    try:
        environment = hub.environment(home=project.parent / "cache") | {
            "HF_ENDPOINT": f"http://127.0.0.1:{proxy.port}",
            "HOME": str(project.parent),
            "PYTHONPATH": f"{JOB.parents[1]}:{JOB.parents[2]}",
        }
        done = subprocess.run([sys.executable, JOB], env=environment, cwd=project, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-4000:]
    finally:
        hub.kill()
        proxy.close()
    stored = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    return proxy.sent(), stored


def test_no_name_of_a_user_or_a_project_is_sent(pushed):
    """Catches a home folder in a card, a certificate, an audit's page, a configuration or a header."""
    sent, stored = pushed
    assert len(sent) > 100_000
    assert [name for name, content in stored.items() if any(word in content for word in PRIVATE)] == []
    places = [sent[sent.index(word) - 200 : sent.index(word) + 100] for word in PRIVATE if word in sent]
    assert places == []


def test_the_records_still_say_what_was_run(pushed):
    """Catches records that are clean because they are empty."""
    sent, _ = pushed
    for words in (
        b"hf-cmim audit audit.yaml --output-dir outputs/audit",
        b"colours: train",
        b'"path": "outputs/cmim"',
        b'"path": "base"',
        b"Audit of outputs/cmim",
    ):
        assert words in sent, words


def test_the_token_is_sent_as_a_credential_only(pushed):
    """Catches a token in a file or a body."""
    sent, stored = pushed
    lines = [line for line in sent.splitlines() if b"hf_owner" in line]
    assert lines
    assert {line.partition(b":")[0].lower() for line in lines} == {b"authorization"}
    assert [name for name, content in stored.items() if b"hf_owner" in content] == []
