# /// script
# dependencies = ["hf_cmim", "pillow", "adversarial-robustness-toolbox==1.20.1"]
# ///
"""Attack an image classifier behind the Adversarial Robustness Toolbox (ART): its KnockoffNets beside our attacks.

    python recipes/vit_cifar.py recipes/configs/fashion_mnist.yaml --dataset_name recipes/data --image_size 14
    python recipes/art_extraction.py --teacher outputs/fashion_mnist --use_cpu  # both on the images in recipes/data
    python recipes/art_extraction.py --teacher CHECKPOINT --dataset_name DATA --attack 'dkd:{"beta": 2.0}' dot

Copy `Distillation`: it makes an `ExtractionAttack` of any attack here. Attacks are NAME or 'NAME:{JSON}', in single
quotes, as for recipes/distill.py. Both students ask about the same images, start from the same weights and train with
AdamW at one constant rate. KnockoffNets asks once, Distillation in every epoch. Accuracy and agreement are printed.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers.hf_argparser import HfArg

import hf_cmim
from hf_cmim import DataArguments, DistillationConfig, DistillationTrainer, HfCmimError
from hf_cmim.cli.audit_models import StudentBuilder, loaded_config
from hf_cmim.cli.named_parts import attack_of
from hf_cmim.data.prepared import PreparedSamples
from hf_cmim.data.views import View, kind_of_type
from hf_cmim.teachers import FunctionTeacher, ModelTeacher, match_classes

WHY_MISSING = None
try:
    from art.attacks import ExtractionAttack
    from art.attacks.extraction import KnockoffNets
    from art.estimators.classification import PyTorchClassifier
except ImportError as error:
    ExtractionAttack, WHY_MISSING = object, str(error)  # so that --help works without ART

HERE = Path(__file__).parent
# One constant rate without decay or clipping, because ART's fit has neither: a fair comparison.
DEFAULTS = {
    "output_dir": "outputs/art_extraction", "dataset_name": str(HERE / "data"), "max_train_samples": 2000,
    "num_train_epochs": 20, "learning_rate": 1e-3, "lr_scheduler_type": "constant", "weight_decay": 0.0,
    "max_grad_norm": 0.0, "per_device_train_batch_size": 64, "per_device_eval_batch_size": 500, "report_to": "none",
    "save_strategy": "no", "remove_unused_columns": False, "dataloader_pin_memory": False,
}  # fmt: skip


@dataclass
class RecipeArguments:
    """What this recipe adds to the settings of `DistillationConfig`."""

    _argument_group_name = "recipe"

    teacher: str = HfArg(default="", help="The victim, an image classifier: a folder or Hub id, with its processor.")
    attack: list[str] = field(default_factory=lambda: ["kd"], metadata={"help": "Loss, transforms and protocols."})
    labelled: bool = HfArg(default=False, help="Give Distillation true labels, too; KnockoffNets never takes any.")
    use_probability: bool = HfArg(default=True, help="KnockoffNets learns probabilities; false, ART's own: labels.")
    student_config: str = HfArg(default=str(HERE / "configs/student_image.json"), help="JSON file of both students.")


class Outputs(torch.nn.Module):
    """A classifier of transformers as ART wants models: it returns logits or probabilities, not a mapping."""

    def __init__(self, model, returns="logits"):
        super().__init__()
        self.model, self.returns = model, returns

    def forward(self, pixels):
        """Return answers `(B, C)` to images."""
        logits = self.model(pixel_values=pixels)["logits"]
        return logits.softmax(dim=-1) if self.returns == "probs" else logits


def art_classifier(model, shape, args, optimizer=None):
    """Return `Outputs` as a classifier of ART on the device of `args`; only one with an optimizer can be trained."""
    num_classes, device = model.model.config.num_labels, "cpu" if args.device.type == "cpu" else "gpu"
    return PyTorchClassifier(model, torch.nn.CrossEntropyLoss(), shape, num_classes, optimizer, device_type=device)


class Distillation(ExtractionAttack):
    """Any attack of hf_cmim on any classifier of ART, the victim, which predicts "logits" or "probs" (`returns`).

    The student takes `pixel_values`, and has the victim's classes in the victim's order: ART only numbers them.
    """

    _estimator_requirements = ()

    def __init__(self, classifier, student, args, attack="kd", returns="logits"):
        check_installed()
        super().__init__(estimator=classifier)
        predicts = {"class_names": [name for _, name in sorted(student.config.id2label.items())], "returns": returns}
        self.teacher = FunctionTeacher(classifier.predict, input_name="pixel_values", **predicts)
        self.student, self.args, self.attack = student, args, attack

    def extract(self, x, y=None, **kwargs):
        """Return the student, trained on images `x` and labels `y` (numbers or one-hot), as a classifier of ART."""
        rows = [{"pixel_values": image} for image in torch.from_numpy(x)]
        if y is not None:  # else the victim's most probable class is the label
            labels = np.argmax(y, axis=1) if np.ndim(y) == 2 else y
            rows = [row | {"labels": int(label)} for row, label in zip(rows, labels, strict=True)]
        asked = {"train_dataset": rows, "teacher": self.teacher}
        DistillationTrainer(self.student, self.args, **asked, attack=self.attack).train()
        return art_classifier(Outputs(self.student.eval()), x.shape[1:], self.args)


def check_installed():
    """Say what to install where ART cannot be imported."""
    if WHY_MISSING is not None:
        raise HfCmimError(f"No ART ({WHY_MISSING}). Install it: pip install adversarial-robustness-toolbox==1.20.1")


def main(words=None):
    """Attack one victim with both attacks, and print how good and how alike the stolen models are."""
    kinds = (DataArguments, RecipeArguments, DistillationConfig)
    data, recipe, args = hf_cmim.script_arguments(kinds, __doc__, DEFAULTS, words=words)
    check_installed()
    if not recipe.teacher or kind_of_type(loaded_config(recipe.teacher, "--teacher").model_type) != "image":
        raise HfCmimError("Give --teacher, a classifier of images: this recipe prepares nothing else.")
    attack, rows, teacher = attack_of(recipe.attack), data.open("image"), ModelTeacher(recipe.teacher)
    match_classes(teacher.class_names, list(rows.classes.values()))  # says what differs before training
    numbers = {value: teacher.class_names.index(name) for value, name in rows.classes.items()}
    view, columns = View.of(recipe.teacher, "image"), (rows.sample_column, rows.label_column)
    parts = [PreparedSamples(part, columns, numbers, {"own": view}, room=np.inf) for part in (rows.train, rows.test)]
    images, test_images = (np.stack([sample["own"]["pixel_values"] for sample in part]) for part in parts)
    labels, test_labels = (np.array([sample["labels"] for sample in part]) for part in parts)
    builder = StudentBuilder(None, recipe.student_config, teacher.class_names, view, parts[0][0]["own"])
    shape = images.shape[1:]
    victim = art_classifier(Outputs(teacher.model, "probs"), shape, args)
    transformers.set_seed(args.seed)
    student = Outputs(builder())
    optimizer = torch.optim.AdamW(student.parameters(), lr=args.learning_rate, weight_decay=args.weight_decay)
    settings = {"batch_size_fit": args.per_device_train_batch_size, "batch_size_query": args.eval_batch_size}
    settings |= {"nb_stolen": len(images), "nb_epochs": 1 if data.smoke else int(args.num_train_epochs)}
    knockoff = KnockoffNets(victim, **settings, use_probability=recipe.use_probability)
    knockoff = knockoff.extract(images, thieved_classifier=art_classifier(student, shape, args, optimizer))
    transformers.set_seed(args.seed)
    distillation = Distillation(victim, builder(), args, attack, returns="probs")
    stolen = distillation.extract(images, labels if recipe.labelled else None)

    answers = victim.predict(test_images).argmax(axis=1)
    print(f"\n{len(images)} queries, {len(test_images)} tests".ljust(26), "accuracy  agreement")
    named = {"victim": victim, "KnockoffNets": knockoff, f"Distillation {' '.join(recipe.attack)}": stolen}
    for name, model in named.items():
        classes = model.predict(test_images).argmax(axis=1)
        print(f"{name:25} {(classes == test_labels).mean():8.4f} {(classes == answers).mean():10.4f}")


if __name__ == "__main__":
    hf_cmim.run_script(main)
