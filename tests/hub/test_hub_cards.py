"""What the test Hub makes of a model card: it refuses what the real one would, and finds models by the rest."""

import pytest

CARD = """---
license: mit
library_name: transformers
pipeline_tag: image-classification
base_model: owner/base
tags: [hf_cmim]
datasets: [owner/data]
---
# A card
"""


def test_lists_and_describes_by_the_card(hub, hub_api):
    """Catches a Hub that does not read cards, or lists models which the filter excludes."""
    api = hub_api(hub)
    api.create_repo("owner/carded")
    api.create_repo("owner/bare")
    api.upload_file(path_or_fileobj=CARD.encode(), path_in_repo="README.md", repo_id="owner/carded")
    info = api.model_info("owner/carded")
    card = info.card_data
    assert (card.license, card.base_model, card.datasets) == ("mit", "owner/base", ["owner/data"])
    assert (info.pipeline_tag, info.library_name) == ("image-classification", "transformers")
    assert {"owner/carded", "owner/bare"} <= {model.id for model in api.list_models(author="owner")}
    found = api.list_models(filter=["hf_cmim", "license:mit"], search="ar")
    assert [model.id for model in found] == ["owner/carded"]
    assert list(api.list_models(author="nobody")) == []
    assert list(api.list_datasets(author="owner", search="carded")) == []


def index(result: str) -> str:
    return f"model-index: [{{name: a, results: [{{{result}}}]}}]"


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        ("license: nonsense", '"license"'),
        ("tags: one", '"tags"'),
        ("datasets: [1]", '"datasets"'),
        ("base_model: /home/me/model", '"base_model"'),
        ("pipeline_tag: [a]", '"pipeline_tag"'),
        ("model-index: {}", '"model-index"'),
        ("model-index: [{results: []}]", '"model-index[0].name"'),
        ("model-index: [{name: a}]", '"model-index[0].results"'),
        (index("dataset: {type: a, name: a}, metrics: [{type: a, value: 1}]"), "results[0].task.type"),
        (index("task: {type: a}, dataset: {name: a}, metrics: [{type: a, value: 1}]"), "results[0].dataset.type"),
        (index("task: {type: a}, dataset: {type: a}, metrics: [{type: a, value: 1}]"), "results[0].dataset.name"),
        (index("task: {type: a}, dataset: {type: a, name: a}"), "results[0].metrics"),
        (index("task: {type: a}, dataset: {type: a, name: a}, metrics: [{value: 1}]"), "metrics[0].type"),
        (index("task: {type: a}, dataset: {type: a, name: a}, metrics: [{type: a}]"), "metrics[0].value"),
        ("a: [", "YAML"),
        ("- a", "not a mapping"),
    ],
)
def test_bad_cards_are_refused(metadata, named, hub, hub_api):
    """Catches a Hub that takes cards which the real one refuses, so that ours would fail only in front of a user."""
    api = hub_api(hub)
    api.create_repo("owner/bad_card", exist_ok=True)
    card = f"---\n{metadata}\n---\n# A card\n".encode()
    with pytest.raises(ValueError, match="Invalid metadata") as error:
        api.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id="owner/bad_card")
    assert named in str(error.value)


def test_complete_card_is_accepted(hub, hub_api):
    """Catches rules that refuse what the real Hub takes."""
    result = "task: {type: a}, dataset: {type: a, name: a}, metrics: [{type: a, value: 0.5}]"
    metadata = f"license: apache-2.0\n{index(result)}"
    api = hub_api(hub)
    api.create_repo("owner/good_card")
    card = f"---\n{metadata}\nbase_model: [owner/a, b]\n---\n# A --- card\n"
    api.upload_file(path_or_fileobj=card.encode(), path_in_repo="README.md", repo_id="owner/good_card")
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        api.upload_file(path_or_fileobj=b"# None\n", path_in_repo="README.md", repo_id="owner/good_card")
