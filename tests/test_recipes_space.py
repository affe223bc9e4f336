"""recipes/space: both answers, clusters and the verdict of a pair of models, and sentences where there are none."""

import gc
import sys
from dataclasses import replace

import pytest
import torch
import yaml
from datasets import ClassLabel, Dataset, Features, Image
from hub.certified import NAMES, certified_model, save_model
from PIL import Image as PILImage
from scripts import ROOT, load_script
from transformers import AutoModelForImageClassification

from hf_cmim import HfCmimError
from hf_cmim.hub.certify import certify

SPACE = ROOT / "recipes/space"
HOSTILE = "<img src=x onerror=alert(1)>"


def picture(seed):
    pixels = torch.randint(0, 255, (4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return PILImage.fromarray(pixels.numpy())


@pytest.fixture(scope="module")
def app():
    sys.path.insert(0, str(SPACE))
    yield load_script(SPACE / "app.py")
    sys.path.remove(str(SPACE))


@pytest.fixture(scope="module")
def samples(app):
    return sys.modules["samples"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A hardened model with an audit, its twin, and data."""
    folder = tmp_path_factory.mktemp("space")
    certified_model(folder / "hardened")
    save_model(folder / "twin", seed=1)
    features = Features({"image": Image(), "label": ClassLabel(names=list(NAMES))})
    rows = {"image": [picture(seed) for seed in range(90)], "label": [seed % 3 for seed in range(90)]}
    Dataset.from_dict(rows, features=features).to_parquet(folder / "data.parquet")
    return folder


@pytest.fixture
def pair(app, folder):
    paths = {name: str(folder / name) for name in ("hardened", "twin")}
    return app.Pair(title="Three digits", **paths, dataset=str(folder / "data.parquet"))


def test_answers_are_those_of_both_models(app, pair, folder):
    """Catches answers of one model under both names, another processor, and a temperature that changes nothing."""
    image = picture(1_000)
    shown, figure = app.answers(pair, image, 4.0)
    pixels = app.open_pair(pair).view.processor([image], return_tensors="pt")["pixel_values"]
    for name, path in ((app.TWIN, "twin"), (app.HARDENED, "hardened")):
        model = AutoModelForImageClassification.from_pretrained(folder / path).eval()
        with torch.no_grad():
            expected = torch.exp(model(pixels).logits[0] / 4)
        assert list(shown[name]) == list(NAMES)
        torch.testing.assert_close(torch.tensor([*shown[name].values()]), expected / expected.sum())
    assert shown[app.TWIN] != shown[app.HARDENED]
    assert [axes.get_title() for axes in figure.axes] == [app.TWIN, app.HARDENED]
    # The star lies at the mean of the corners, weighted with the probabilities.
    first, second, third = shown[app.TWIN].values()
    (star,) = [line for line in figure.axes[0].lines if line.get_marker() == "*"]
    assert star.get_xydata()[0].tolist() == pytest.approx([second + third / 2, third * 3**0.5 / 2], abs=1e-6)
    assert first + second + third == pytest.approx(1)


def test_the_verdict_comes_with_its_limits(app, pair):
    """Catches a page that praises a model without what the verdict is limited to."""
    text = app.open_pair(pair).verdict
    assert text.startswith("## Undistillable within 0.5 points\n")
    for limit in ("CE twin: ", "smallest margin", "says nothing about: other data", "| Student |", "45,000 samples"):
        assert limit in text


def test_a_model_without_an_audit_has_no_verdict(app, pair, tmp_path):
    """Catches a verdict from nowhere."""
    certified_model(tmp_path / "model", audited=False)
    assert "was not audited" in app.open_pair(replace(pair, hardened=str(tmp_path / "model"))).verdict


@pytest.mark.parametrize("name", ["hardened", "twin", "dataset"])
@pytest.mark.parametrize("path", ["missing", "../../etc/passwd", f"{HOSTILE}.png"])
def test_a_missing_model_is_one_sentence_without_a_path(app, pair, folder, name, path, capsys):
    """Catches a traceback, and a path of the server on the page; the owner finds it in the log."""
    broken = replace(pair, **{name: str(folder / path)})
    with pytest.raises(app.VisitorError, match=r"^“Three digits” cannot be opened: .*Choose other models") as error:
        app.open_pair(broken)
    assert str(folder) not in str(error.value)
    assert str(folder) in capsys.readouterr().out


def test_a_model_that_was_changed_is_not_shown(app, pair, tmp_path):
    """Catches answers and a verdict under a certificate of other weights."""
    certified_model(tmp_path / "model")
    save_model(tmp_path / "model", seed=5)
    with pytest.raises(app.VisitorError, match="certificate of “Three digits” does not hold, so neither answers nor"):
        app.open_pair(replace(pair, hardened=str(tmp_path / "model")))


def test_a_twin_with_other_classes_is_refused(app, pair, tmp_path, capsys):
    """Catches answers under the names of other classes."""
    save_model(tmp_path / "twin", names=("zero", "two", "one"))
    with pytest.raises(app.VisitorError):
        app.open_pair(replace(pair, twin=str(tmp_path / "twin")))
    assert "has other classes than" in capsys.readouterr().out


def test_names_of_classes_are_shown_as_they_are(app, pair, tmp_path):
    """Catches a class name that is read as a formula or as HTML."""
    names = ("$x", HOSTILE, "two")
    features = Features({"image": Image(), "label": ClassLabel(names=list(names))})
    rows = {"image": [picture(seed) for seed in range(30)], "label": [seed % 3 for seed in range(30)]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "data.parquet")
    for number, folder in enumerate(("hardened", "twin")):
        save_model(tmp_path / folder, number, names)
    certify(tmp_path / "hardened")
    paths = {"hardened": str(tmp_path / "hardened"), "twin": str(tmp_path / "twin")}
    shown, figure = app.answers(replace(pair, **paths, dataset=str(tmp_path / "data.parquet")), picture(0), 1.0)
    assert list(shown[app.TWIN]) == list(names)
    figure.canvas.draw()  # a formula without an end would raise


def written(folder, name, content):
    (folder / name).write_bytes(content)
    return str(folder / name)


def test_a_sample_that_cannot_be_answered_is_one_sentence(app, samples, tmp_path):
    """Catches a traceback, a sample that keeps the page busy, and a file of the server that is read."""
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    picture(0).save(tmp_path / "secret.png")
    picture(0).save(uploads / f"{HOSTILE}.png")
    (uploads / "link.png").symlink_to(tmp_path / "secret.png")
    only_uploads, no_image = "Only an image that you upload", "The file is no image"
    for path, sentence in (
        (None, "There is no image to answer"),
        (str(tmp_path / "secret.png"), only_uploads),
        (f"{uploads}/../secret.png", only_uploads),
        (str(uploads / "link.png"), only_uploads),
        (
            written(uploads, "large.png", b"P4 5000 4001\n"),
            "The image has 5,000 x 4,001 pixels. Give one of at most 20,000,000",
        ),
        (written(uploads, "bomb.png", b"P4 20000 20000\n"), no_image),
        (written(uploads, "a.svg", b"<svg onload='alert(1)'/>"), no_image),
        (written(uploads, "cut.png", (uploads / f"{HOSTILE}.png").read_bytes()[:60]), no_image),
        (str(uploads), no_image),
    ):
        with pytest.raises(app.VisitorError, match=f"^{sentence}"):
            samples.read_image(path, uploads)
    assert samples.read_image(str(uploads / f"{HOSTILE}.png"), uploads).tobytes() == picture(0).tobytes()
    for text, sentence in ((" \n", "There is no text to answer"), ("a" * 5_001, "The text has 5,001 letters")):
        with pytest.raises(app.VisitorError, match=f"^{sentence}"):
            samples.read_text(text)
    assert samples.read_text(HOSTILE) == HOSTILE


@pytest.mark.parametrize("text", ["", "[]", "a: b", "- title: A\n  hardened: b", "- {"])
def test_a_file_without_pairs_is_refused(app, text, tmp_path):
    """Catches a page without models, which nobody could use."""
    (tmp_path / "pairs.yaml").write_text(text)
    with pytest.raises(HfCmimError, match="pairs of models"):
        app.read_pairs(tmp_path / "pairs.yaml")


def test_the_files_of_the_space_agree(app):
    """Catches a Space that starts with another gradio than the tested one, or without its file."""
    _, front, _ = (SPACE / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    settings = yaml.safe_load(front)
    assert (settings["sdk"], settings["app_file"]) == ("gradio", "app.py")
    pinned = f"gradio=={settings['sdk_version']}"
    for file in (SPACE / "requirements.txt", ROOT / "constraints.txt"):
        assert pinned in file.read_text(encoding="utf-8").splitlines()
    assert [pair.title for pair in app.read_pairs(SPACE / "pairs.yaml").values()] == ["Clothes"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # gradio uses what starlette deprecates
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # and leaves event loops open
def test_the_page_answers_over_http(app, pair, tmp_path, monkeypatch):
    """Catches a page that does not start, a hostile file name that is shown, and a file of the server that is read."""
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    missing = replace(pair, title="Missing", hardened="missing")
    page = app.build_page({pair.title: pair, missing.title: missing})
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    try:
        client = Client(address, verbose=False)
        image = tmp_path / f"{HOSTILE}.png"
        picture(0).save(image)
        message, twin, _, figure = client.predict(pair.title, handle_file(image), "", 4, api_name="/answer")
        expected, _ = app.answers(pair, picture(0), 4.0)
        assert message == ""
        shares = {each["label"]: each["confidence"] for each in twin["confidences"]}
        assert shares == pytest.approx(expected[app.TWIN])
        assert figure["plot"].startswith("data:image/")
        message, twin, *_ = client.predict(pair.title, None, "", 4, api_name="/answer")
        assert message.startswith("There is no image to answer.")
        assert not twin
        message, *_ = client.predict("Missing", handle_file(image), "", 4, api_name="/answer")
        assert message.startswith("“Missing” cannot be opened")
        message, *_ = client.predict(pair.title, {"path": str(image)}, "", 4, api_name="/answer")
        assert message == "Only an image that you upload can be answered."
        (tmp_path / "broken.png").write_bytes(b"no image")
        message, *_ = client.predict(pair.title, handle_file(tmp_path / "broken.png"), "", 4, api_name="/answer")
        assert message.startswith("The file is no image")
        with pytest.raises(AppError, match="not in the list of choices"):
            client.predict("Elsewhere", handle_file(image), "", 4, api_name="/answer")
    finally:
        page.close()
        gc.collect()  # here, where its open loops are no error
