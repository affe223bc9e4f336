"""The GPU report: everything in one command, where one part's failure costs the others nothing."""

import json
import sys
import time

from scripts import ROOT, load_script

REPORT = load_script(ROOT / "benchmarks/gpu_report.py")


def test_all_parts_fit_into_eight_minutes():
    """Catches a part that is added and pushes the last ones out of the time for which a GPU is lent."""
    assert sum(part.limit for part in REPORT.gpu_parts()) <= 480
    for part in [*REPORT.gpu_parts(), *REPORT.cpu_parts()]:
        assert part.words[0] == "-m" or (ROOT / part.words[0]).is_file()


def test_a_failing_and_an_endless_part_are_told_and_the_rest_runs(tmp_path, monkeypatch, capsys):
    """Catches one part that ends the report, a worker that outlives its part, and results that wait for the end."""
    report, worker = tmp_path / "gpu_report.json", tmp_path / "worker"
    beats = f"import time\nwhile True: open({str(worker)!r}, 'a').write('.'); time.sleep(.05)"
    endless = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {beats!r}])"
    seen = f"import json; print('parts before:', len(json.load(open({str(report)!r}))['parts']))"
    parts = [
        REPORT.Part("fails", "to pass", ("-c", "print('why'); raise SystemExit(3)"), 60),
        REPORT.Part("endless", "", ("-c", endless), 3),
        REPORT.Part("looks", "", ("-c", seen), 60),
    ]
    monkeypatch.setattr(REPORT, "cpu_parts", lambda: parts)
    monkeypatch.setattr(sys, "argv", ["gpu_report.py", "--device", "cpu", "--output_dir", str(tmp_path)])
    assert REPORT.main() == 1
    results = json.loads(report.read_text())["parts"]
    assert [each["result"] for each in results] == [
        "failed with exit status 3",
        "ended after its limit of 3 s",
        "done",
    ]
    assert results[2]["output"] == "parts before: 2\n"
    text = (tmp_path / "gpu_report.md").read_text()
    assert "## fails\n\nfailed with exit status 3" in text
    assert "why" in text
    beaten = worker.stat().st_size
    time.sleep(0.3)
    assert worker.stat().st_size == beaten, "the endless part's worker still runs"


def test_a_machine_without_a_gpu_is_told_so(monkeypatch, capsys):
    """Catches a report of CPU figures that is taken for one of a GPU."""
    monkeypatch.setattr(REPORT.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu_report.py"])
    assert REPORT.main() == 2
    assert "no GPU" in capsys.readouterr().err
