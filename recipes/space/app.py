"""Show a hardened classifier beside its twin: answers to an image or a text, clusters, and the verdict of the audit.

    PAIRS=pairs.yaml python app.py

The file names the models that visitors can choose from. Visitors name neither models nor files. `build_page` builds
the page; everything else works without gradio.
"""

import os
import random
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from pairs import HARDENED, TWIN, OpenedPair, Pair, VisitorError, logits_of, open_pair, read_pairs
from samples import LONGEST_TEXT, read_image, read_text
from torch import Tensor

from hf_cmim.pages.markdown import escaped
from hf_cmim.plots import plot_clusters, project_on_simplex

INTRODUCTION = """# A classifier that is hardened against copying, beside its twin

Both models learned the same samples. One was trained with plain cross-entropy. The other was hardened by minimising
[conditional mutual information](https://arxiv.org/abs/2507.00012), so that a student learns less from its answers.

Ask both. An attacker softens answers with a temperature before a student learns from them; at 1 you see them as they
are."""
SMALL_IMAGES = "#image img {min-height: 180px; object-fit: contain; image-rendering: pixelated}"
"""Style that shows an image of a few pixels large enough to see."""
CAPTION = """Test samples of the three classes that are likeliest to the first model, and your sample (★). Each mark is
a softened answer. The closer the marks of a class, the less an answer says beyond its class."""


def answers(pair: Pair, sample: Any, temperature: float) -> tuple[dict[str, dict[str, float]], Figure | None]:
    """Return both softened answers to a sample, as probabilities by class, and the picture of their clusters.

    Two classes have no triangle, and so no picture.
    """
    opened = open_pair(pair)
    logits = {name: logits_of(model, opened.view, [sample])[0] for name, model in opened.models.items()}
    probabilities = {
        name: dict(zip(opened.class_names, (row / temperature).softmax(dim=-1).tolist(), strict=True))
        for name, row in logits.items()
    }
    has_triangle = len(opened.class_names) > 2
    return probabilities, cluster_picture(opened, logits, temperature) if has_triangle else None


def cluster_picture(opened: OpenedPair, logits: dict[str, Tensor], temperature: float) -> Figure:
    """Draw test samples of the three classes that are likeliest to the twin, and the visitor's sample as a star."""
    classes = sorted(logits[TWIN].topk(3).indices.tolist())
    # A dollar sign would start a formula.
    names = [name.replace("$", r"\$") for name in opened.class_names]
    figure = plot_clusters(opened.logits, opened.labels, classes, (temperature,), names)
    for axes, row in zip(figure.axes, logits.values(), strict=True):
        place = project_on_simplex((row[classes] / temperature).softmax(dim=-1))
        axes.plot(*place.tolist(), "*", color="black", markersize=11, markeredgecolor="white", mew=0.6, zorder=5)
    return figure


def build_page(pairs: dict[str, Pair]) -> Any:
    """Return the page; gradio is imported here only."""
    import gradio as gr
    from gradio.utils import get_upload_folder

    uploads = Path(get_upload_folder())

    def choose(title: str) -> list[Any]:
        try:
            opened = open_pair(pairs[title])
            kind, problem, verdict = opened.kind, "", opened.verdict
        except VisitorError as error:
            kind, problem, verdict = "none", escaped(str(error)), ""
        parts = [gr.Column(visible=kind == "image"), gr.Column(visible=kind == "text")]
        return [*parts, None, "", problem, None, None, None, verdict]

    def answer(title: str, image: str | None, text: str, temperature: float) -> list[Any]:
        try:
            is_text = open_pair(pairs[title]).kind == "text"
            sample = read_text(text) if is_text else read_image(image, uploads)
            probabilities, figure = answers(pairs[title], sample, temperature)
        except VisitorError as error:
            return [escaped(str(error)), None, None, None]
        return ["", probabilities[TWIN], probabilities[HARDENED], figure]

    def take(title: str) -> list[Any]:
        try:
            opened = open_pair(pairs[title])
        except VisitorError:
            return [None, ""]
        sample = random.choice(opened.samples)
        return [None, sample] if opened.kind == "text" else [sample.convert("RGB"), ""]

    with gr.Blocks(title="Hardened classifiers") as page:
        gr.Markdown(INTRODUCTION)
        title = gr.Dropdown(list(pairs), value=next(iter(pairs)), label="Models")
        with gr.Row():
            with gr.Column():
                with gr.Column() as image_part:
                    image = gr.Image(format="png", label="Image", height=260, elem_id="image")
                    # gradio would open the file itself, and answer a broken one with an error without a reason.
                    image.preprocess = lambda payload: None if payload is None else payload.path
                with gr.Column(visible=False) as text_part:
                    text = gr.Textbox(label="Text", lines=5, max_length=LONGEST_TEXT)
                temperature = gr.Slider(1, 8, 4, step=1, label="Temperature")
                take_button = gr.Button("Take a test sample")
                ask_button = gr.Button("Ask both models", variant="primary")
                message = gr.Markdown()
            with gr.Column():
                shown = [gr.Label(label=name.capitalize(), num_top_classes=3) for name in (TWIN, HARDENED)]
        picture = gr.Plot(show_label=False)
        gr.Markdown(CAPTION)
        verdict = gr.Markdown()
        sample, results = [image, text], [message, *shown, picture]
        for listen in (page.load, title.change):
            listen(choose, title, [image_part, text_part, *sample, *results, verdict], api_name=False)
        asked = [title, *sample, temperature]
        ask_button.click(answer, asked, results, api_name="answer")
        take_button.click(take, title, sample, api_name=False).then(answer, asked, results, api_name=False)
    return page


if __name__ == "__main__":
    build_page(read_pairs(Path(os.environ.get("PAIRS", "pairs.yaml")))).launch(css=SMALL_IMAGES)
