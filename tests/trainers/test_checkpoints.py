"""What a checkpoint keeps, which ones are resumed from, and which model counts as best."""

import json
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification, EarlyStoppingCallback, TrainerCallback

from hf_cmim import CentroidBank, ObjectiveSpec
from hf_cmim.functional import class_centroids
from hf_cmim.trainers.hardening import hardening_state
from hf_cmim.trainers.hardening.hardening_state import STATE_NAME
from hf_cmim.trainers.shared.checkpoints import MARKER_NAME, find_fault

RUN = {
    "save_strategy": "steps", "save_steps": 5, "num_train_epochs": 3, "optim": "adamw_torch", "learning_rate": 3e-3,
    "cmi_warmup": 0.1, "cmi_ramp": 0.5, "max_grad_norm": 1.0, "lr_scheduler_type": "linear",
}  # fmt: skip


def trainer_in(folder: Path, **changes):
    return tiny.cmim_trainer(tiny.vit(dropout=0.1), tiny.images(60), folder, **(RUN | changes))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One uninterrupted run of 24 steps (8 an epoch) with checkpoints 5, 10, 15, 20 and 24."""
    folder = tmp_path_factory.mktemp("finished")
    trainer = trainer_in(folder)
    trainer.train()
    return folder, tiny.weights(trainer.model), trainer.bank.state_dict()


@pytest.fixture
def run_folder(finished, tmp_path):
    """A copy of that run's folder, to be damaged."""
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


class TestResume:
    @pytest.mark.parametrize("changes", [
        {}, {"centroids": "epoch"}, {"cmi_form": "plain", "centroid_prefill": True},
        {"gradient_accumulation_steps": 2, "save_steps": 3},
        {"cmi_form": "share", "cmi_correct_only": True},
    ], ids=str)  # fmt: skip
    @pytest.mark.parametrize("at", ["inside an epoch", "at the end of an epoch"])
    def test_equals_the_uninterrupted_run_bit_for_bit(self, changes, at, tmp_path):
        """Catches a fresh ViT encoder, an empty bank, forgotten terms of the last step, or shifted random numbers."""
        straight = trainer_in(tmp_path / "run", **changes)
        straight.train()
        steps = [int(path.name.split("-")[1]) for path in (tmp_path / "run").glob("checkpoint-*")]
        per_epoch = straight.state.max_steps // 3
        if at == "at the end of an epoch":
            changes = changes | {"save_steps": per_epoch}
            straight = trainer_in(tmp_path / "epochs", **changes)
            straight.train()
            checkpoint = tmp_path / "epochs" / f"checkpoint-{2 * per_epoch}"
        else:
            checkpoint = tmp_path / "run" / f"checkpoint-{next(s for s in sorted(steps)[1:] if s % per_epoch)}"
        resumed = trainer_in(tmp_path / "resumed", **changes)
        resumed.train(resume_from_checkpoint=str(checkpoint))
        assert tiny.largest_difference(tiny.weights(straight.model), tiny.weights(resumed.model)) == 0
        assert tiny.largest_difference(straight.bank.state_dict(), resumed.bank.state_dict()) == 0
        assert torch.equal(straight.bank.log_probs, resumed.bank.log_probs)

    def test_large_centroids_are_left_out_and_made_anew(self, tmp_path, monkeypatch, caplog):
        """Catches gigabytes in every checkpoint, and a resumed training whose CMI is 0 until the bank has refilled."""
        monkeypatch.setattr(hardening_state, "LARGEST_SAVED_BYTES", 0)
        trainer_in(tmp_path, centroid_window=100.0).train()
        with safe_open(tmp_path / "checkpoint-10" / STATE_NAME, framework="pt") as file:
            assert "bank.probs" not in file.keys()  # noqa: SIM118 (it is not a dict)
            assert file.get_tensor("bank.seen").sum() == 60 + 2 * 8
        resumed = trainer_in(tmp_path, centroid_window=100.0, max_steps=17, save_strategy="no")  # into a third epoch
        seen, fills, fill = {}, [], CentroidBank.fill
        monkeypatch.setattr(CentroidBank, "fill", lambda bank, batches: fills.append(fill(bank, batches)))

        class Look(TrainerCallback):
            def on_step_begin(self, args, state, control, **kwargs):
                if seen:
                    return
                model = resumed.model.eval()
                images = resumed.train_dataset
                with torch.no_grad():
                    logits = model(torch.stack([each["pixel_values"] for each in images])).logits
                model.train()
                logits = logits * resumed.bank.form.multiplier
                seen["exact"] = class_centroids(logits, torch.tensor([each["labels"] for each in images]), (1.0,))[0]
                seen["bank"] = resumed.bank.probs[0].clone()

        resumed.add_callback(Look())
        with caplog.at_level("WARNING"):
            resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-10"))
        assert "leaves out 0.0 GiB of centroids" in caplog.text
        assert len(fills) == 1
        torch.testing.assert_close(seen["bank"], seen["exact"], rtol=1e-4, atol=1e-6)

    def test_plain_trainer_leaves_the_encoder_fresh(self, tmp_path):
        """Names the upstream fault; when this fails, upstream is mended and the override may go."""
        changes = {"save_strategy": "steps", "save_steps": 4}
        straight = tiny.plain_trainer(tiny.vit(), tiny.images(60), tmp_path, **changes)
        straight.train()
        resumed = tiny.plain_trainer(tiny.vit(seed=1), tiny.images(60), tmp_path, **changes)
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
        assert tiny.largest_difference(tiny.weights(straight.model), tiny.weights(resumed.model)) > 1e-3

    def test_the_newest_complete_checkpoint_is_taken_and_the_others_are_named(self, run_folder, caplog, finished):
        """Catches a cut write that is taken as the newest checkpoint."""
        (run_folder / "checkpoint-24" / MARKER_NAME).unlink()
        (run_folder / "checkpoint-20" / "optimizer.pt").unlink()
        cut = run_folder / "checkpoint-15" / "model.safetensors"
        cut.write_bytes(cut.read_bytes()[:100])
        resumed = trainer_in(run_folder)
        with caplog.at_level("WARNING"):
            resumed.train(resume_from_checkpoint=True)
        message = "\n".join(record.message for record in caplog.records)
        assert "checkpoint-10" in message
        assert "checkpoint-24: it has no checkpoint_complete.json" in message
        assert "checkpoint-20: optimizer.pt is missing" in message
        assert "checkpoint-15: model.safetensors has 100 bytes" in message
        assert tiny.largest_difference(finished[1], tiny.weights(resumed.model)) == 0
        assert find_fault(run_folder / "checkpoint-24") is None, "the cut folder was written again, whole"

    @pytest.mark.parametrize("damage", ["marker", "file", "missing"])
    def test_a_damaged_checkpoint_named_outright_is_refused(self, run_folder, damage):
        """Catches resuming with a fresh optimizer without a word."""
        checkpoint = run_folder / "checkpoint-20"
        if damage == "marker":
            (checkpoint / MARKER_NAME).unlink()
        elif damage == "file":
            (checkpoint / "scheduler.pt").unlink()
        else:
            shutil.rmtree(checkpoint)
        with pytest.raises(ValueError, match="Expected a complete checkpoint.*Choose an older"):
            trainer_in(run_folder).train(resume_from_checkpoint=str(checkpoint))

    def test_nothing_to_resume_from(self, tmp_path):
        """Catches training anew in silence when a resume was asked for."""
        with pytest.raises(ValueError, match="Expected a complete checkpoint in .*got none"):
            trainer_in(tmp_path).train(resume_from_checkpoint=True)

    def test_weights_alone_are_no_training_state(self, tmp_path):
        """Catches resuming from save_only_model=True, whose optimizer and bank are gone."""
        trainer_in(tmp_path, save_only_model=True).train()
        with pytest.raises(ValueError, match="save_only_model=True"):
            trainer_in(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-10"))

    def test_a_whole_number_is_the_same_scale(self, run_folder):
        """Catches 4 taken for another scale than 4.0: a file of settings says the one, the command line the other."""
        trainer_in(run_folder, logit_scale=4).train(resume_from_checkpoint=True)

    def test_a_checkpoint_without_a_specification_says_so(self, run_folder):
        """Catches a list of missing tensors instead of the settings that they are of."""
        path = run_folder / "checkpoint-10" / STATE_NAME
        save_file(load_file(path), path, metadata={"temperatures": "[1.0, 2.0, 4.0, 8.0, 16.0]"})
        with pytest.raises(ValueError, match="written with another objective: form was None and is now 'scaled'"):
            hardening_state.HardeningState.load(path.parent, ObjectiveSpec(), torch.device("cpu"))

    def test_a_second_training_starts_from_an_empty_bank(self, tmp_path):
        """Catches a bank that leaks from one call of train into the next."""
        trainer = trainer_in(tmp_path, save_strategy="no", num_train_epochs=1)
        trainer.train()
        seen = trainer.bank.seen.clone()
        trainer.train()
        assert torch.equal(trainer.bank.seen, seen)


class TestFiles:
    def test_the_limit_holds_and_every_survivor_is_complete(self, tmp_path):
        """Catches rotation before the marker: a cut would leave no checkpoint to resume from."""
        trainer = trainer_in(tmp_path, save_total_limit=2)
        trainer.train()
        survivors = sorted(path.name for path in tmp_path.glob("checkpoint-*"))
        assert survivors == ["checkpoint-20", "checkpoint-24"]
        assert all(find_fault(tmp_path / name) is None for name in survivors)
        saved = torch.load(tmp_path / "checkpoint-24" / "training_args.bin", weights_only=False)
        assert saved.save_total_limit == trainer.args.save_total_limit == 2

    def test_a_cut_rewrite_of_a_complete_folder_is_seen(self, finished, tmp_path, monkeypatch):
        """Catches a stale marker vouching for a folder that is being written again."""
        folder = Path(shutil.copytree(finished[0], tmp_path / "run"))
        trainer = trainer_in(folder)

        def cut(*args, **kwargs):
            raise KeyboardInterrupt

        monkeypatch.setattr(type(trainer), "_save_optimizer_and_scheduler", cut)
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
        assert "no checkpoint_complete.json" in find_fault(folder / "checkpoint-5")

    def test_marker_lists_every_file(self, finished):
        """Catches a marker that vouches for less than the folder."""
        checkpoint = finished[0] / "checkpoint-10"
        content = json.loads((checkpoint / MARKER_NAME).read_text())
        assert set(content["files"]) == {path.name for path in checkpoint.iterdir()} - {MARKER_NAME}
        assert content["global_step"] == 10
        assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", STATE_NAME} <= set(
            content["files"]
        )

    def test_the_saved_model_is_a_plain_one(self, tmp_path):
        """Catches training state that reaches the folder users publish, or weights AutoModel cannot read."""
        trainer = trainer_in(tmp_path / "run", save_strategy="no")
        trainer.train()
        trainer.save_model(str(tmp_path / "model"))
        names = {path.name for path in (tmp_path / "model").iterdir()}
        assert names == {"config.json", "model.safetensors", "training_args.bin", "cmim_certificate.json"}
        model = AutoModelForImageClassification.from_pretrained(tmp_path / "model").eval()
        trainer.model.eval()
        pixels = torch.stack([row["pixel_values"] for row in tiny.images(8)])
        with torch.no_grad():
            assert torch.equal(model(pixel_values=pixels).logits, trainer.model(pixel_values=pixels).logits)


class TestBestModel:
    """`load_best_model_at_end` and patience, which must not ship an unhardened model."""

    SETTINGS = {
        "eval_strategy": "steps", "eval_steps": 4, "save_steps": 4, "load_best_model_at_end": True,
        "metric_for_best_model": "eval_ce",
    }  # fmt: skip

    def test_the_best_weights_come_back_whole(self, tmp_path):
        """Catches the upstream fault: a best model whose ViT encoder is neither the best nor the last."""
        scores = {4: 0, 8: 1, 12: 2, 16: 5, 20: 3, 24: 1}
        snapshots = {}

        class Snapshot(TrainerCallback):
            def on_evaluate(self, args, state, control, model=None, **kwargs):
                snapshots[state.global_step] = tiny.weights(model)

        settings = self.SETTINGS | {"metric_for_best_model": "eval_score", "greater_is_better": True}
        trainer = trainer_in(
            tmp_path,
            eval_dataset=tiny.images(20, seed=5),
            callbacks=[Snapshot()],
            compute_metrics=lambda _: {"score": scores[trainer.state.global_step]},
            **settings,
        )
        trainer.train()
        assert trainer.state.best_global_step == 16
        assert tiny.largest_difference(snapshots[16], tiny.weights(trainer.model)) == 0

    def test_nothing_is_best_before_the_ramp_ends(self, tmp_path):
        """Catches an early, unhardened model kept as the best: its cross-entropy is lowest before the ramp."""
        changes = self.SETTINGS | {"cmi_warmup": 0.5, "cmi_ramp": 0.25, "greater_is_better": True}
        trainer = trainer_in(tmp_path, eval_dataset=tiny.images(40, seed=5), **changes)
        trainer.train()
        assert trainer.state.best_global_step >= 0.75 * trainer.state.max_steps

    def test_patience_does_not_run_before_the_ramp_ends(self, tmp_path):
        """Catches early stopping of a model that was never hardened."""
        worse = self.SETTINGS | {
            "metric_for_best_model": "eval_never_better",
            "greater_is_better": True,
            "eval_steps": 2,
        }
        values = iter(range(100, 0, -1))
        stopped = {}
        for name, schedule in {
            "ramped": {"cmi_warmup": 0.25, "cmi_ramp": 0.25},
            "weight 0": {"cmi_weight": 0.0},
        }.items():
            trainer = trainer_in(
                tmp_path / name, eval_dataset=tiny.images(20, seed=5), **(worse | schedule | {"save_steps": 2}),
                compute_metrics=lambda _: {"never_better": next(values)},
                callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
            )  # fmt: skip
            trainer.train()
            stopped[name] = trainer.state.global_step
        assert stopped["weight 0"] == 6, "patience itself does not work in this test"
        assert stopped["ramped"] == 12 + 4

    def test_falling_metrics_are_minimized(self, tmp_path, caplog):
        """Catches Trainer's rule that only a metric named loss should fall."""
        for metric, falls in {"eval_cmi_sup": True, "ncmi": True, "eval_cmi_T4": True, "eval_accuracy": False}.items():
            args = trainer_in(tmp_path, eval_dataset=[], **(self.SETTINGS | {"metric_for_best_model": metric})).args
            assert args.greater_is_better is not falls, metric
        with caplog.at_level("WARNING"):
            trainer_in(tmp_path, eval_dataset=[], **(self.SETTINGS | {"greater_is_better": True}))
        assert "less is better" in caplog.text.replace("\n", " ")
