"""Stand-ins for the Adversarial Robustness Toolbox (ART), which is no dependency, and the recipe that uses it."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

RECIPE = Path(__file__).parents[1] / "recipes/art_extraction.py"


class ExtractionAttack:
    """A stand-in for the base class of attacks."""

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator


class PyTorchClassifier:
    """A stand-in for a classifier: the arguments that we use, in ART's order."""

    def __init__(self, model: torch.nn.Module, loss: torch.nn.Module, input_shape: Any, nb_classes: int,
                 optimizer: Any = None, device_type: str = "gpu") -> None:  # fmt: skip
        self.model, self.loss, self.nb_classes, self.optimizer = model, loss, nb_classes, optimizer

    def predict(self, images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return self.model.eval()(torch.from_numpy(images)).numpy()

    def fit(self, images: np.ndarray, answers: np.ndarray) -> None:
        self.optimizer.zero_grad()
        self.loss(self.model(torch.from_numpy(images)), torch.from_numpy(answers)).backward()
        self.optimizer.step()


class KnockoffNets(ExtractionAttack):
    """A stand-in for ART's own attack: one step on the victim's answers."""

    def __init__(self, classifier: Any, **settings: Any) -> None:
        super().__init__(classifier)
        self.settings = settings

    def extract(self, images: np.ndarray, *, thieved_classifier: PyTorchClassifier) -> PyTorchClassifier:
        thieved_classifier.fit(images, self.estimator.predict(images))
        return thieved_classifier


def load_art_recipe(monkeypatch: pytest.MonkeyPatch, *, is_installed: bool = True) -> ModuleType:
    """Return recipes/art_extraction.py, loaded beside the stand-ins or without ART, until the test ends."""
    parts = {
        "art": {},
        "art.attacks": {"ExtractionAttack": ExtractionAttack},
        "art.attacks.extraction": {"KnockoffNets": KnockoffNets},
        "art.estimators": {},
        "art.estimators.classification": {"PyTorchClassifier": PyTorchClassifier},
    }
    for name, values in parts.items():
        module = ModuleType(name)
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, name, module if is_installed else None)
    specification = importlib.util.spec_from_file_location("recipes.art_extraction", RECIPE)
    recipe = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "recipes.art_extraction", recipe)  # dataclasses look their module up
    specification.loader.exec_module(recipe)
    return recipe
