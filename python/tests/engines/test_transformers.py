"""transformers: what is published of a model, into what a patch is applied, and the callback of a real `Trainer`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel, Trainer, TrainingArguments

from engines import models
import pulse_codec as pulse
from pulse_codec.plan import PlanError
from pulse_codec.transformers import PublishCallback, checkpoint

KINDS = list(models.CONFIGS)


def tokens() -> torch.Tensor:
    return torch.randint(3, models.SMALL["vocab_size"], (2, 12), generator=torch.Generator().manual_seed(0))


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(tokens()).logits
    return found


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(tensor.view(torch.uint8), other[name].view(torch.uint8)) for name, tensor in one.items()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_is_what_save_pretrained_writes_without_a_copy(kind: str, tmp_path: Path) -> None:
    model = models.tiny(kind)
    model.save_pretrained(tmp_path)
    ours = checkpoint(model)
    assert equal(ours, load_file(tmp_path / "model.safetensors"))
    own = [(t.data_ptr(), t.data_ptr() + t.nbytes) for t in model.state_dict().values()]
    assert all(any(start <= t.data_ptr() < end for start, end in own) for t in ours.values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_patch_makes_one_model_the_other(kind: str, tmp_path: Path) -> None:
    trainer, server = models.tiny(kind, seed=1), models.tiny(kind, seed=1)
    shadow = pulse.Shadow(checkpoint(trainer))
    for step in range(1, 4):
        weights = checkpoint(trainer)
        for name, tensor in models.nudge(weights, seed=step).items():
            weights[name].copy_(tensor)
        patch = shadow.diff(weights, step=step)
        shadow.advance(patch)
        assert not torch.equal(logits(server), logits(trainer))
        pulse.apply(checkpoint(server), patch)
        assert equal(checkpoint(server), checkpoint(trainer))
        assert torch.equal(logits(server), logits(trainer))
        # And of a model that has just loaded what the trainer saves.
        trainer.save_pretrained(tmp_path / str(step))
        fresh = AutoModelForCausalLM.from_pretrained(tmp_path / str(step), dtype=torch.bfloat16)
        assert torch.equal(logits(server), logits(fresh))


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_base_leaves_the_model_as_it_was(kind: str) -> None:
    server, other = models.tiny(kind, seed=1), models.tiny(kind, seed=2)
    before = {name: tensor.clone() for name, tensor in checkpoint(server).items()}
    patch = pulse.diff(checkpoint(other), models.nudge(checkpoint(other), seed=1))
    with pytest.raises(pulse.BaseMismatch):
        pulse.apply(checkpoint(server), patch)
    assert equal(checkpoint(server), before)


def test_a_model_that_keeps_weights_transposed_is_refused_or_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.tiny("dense")

    def turned(model: PreTrainedModel, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor.t() if name == "lm_head.weight" else tensor for name, tensor in state.items()}

    monkeypatch.setattr("pulse_codec.transformers.revert_weight_conversion", turned)
    with pytest.raises(PlanError, match=r"lm_head\.weight"):
        checkpoint(model)
    copied = checkpoint(model, copy=True)["lm_head.weight"]
    assert torch.equal(copied, model.lm_head.weight.t()) and copied.is_contiguous()


class Receiver:
    """A publisher that is one receiver too."""

    def __init__(self, server: PreTrainedModel) -> None:
        self.server = server
        self.shadow: pulse.Shadow | None = None
        self.steps: list[int] = []

    def publish(self, weights: dict[str, torch.Tensor], *, step: int) -> None:
        self.steps.append(step)
        if self.shadow is None:
            self.shadow = pulse.Shadow(weights)
            pulse.load(self.shadow.snapshot(step=step), into=checkpoint(self.server))
            return
        patch = self.shadow.diff(weights, step=step)
        pulse.apply(checkpoint(self.server), patch)
        self.shadow.advance(patch)


def train(kind: str, callback: PublishCallback, folder: Path, **arguments: Any) -> PreTrainedModel:
    """Four steps of a real `Trainer`, with masters in FP32."""
    model = models.tiny(kind).float().train()
    rows = [{"input_ids": row, "labels": row} for row in tokens().repeat(8, 1)]
    options = TrainingArguments(
        output_dir=str(folder),
        max_steps=4,
        learning_rate=1e-3,
        per_device_train_batch_size=2,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        logging_strategy="no",
        **{"save_strategy": "no", **arguments},
    )
    Trainer(model=model, args=options, train_dataset=rows, callbacks=[callback]).train()
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_a_trainer_publishes_each_step(kind: str, tmp_path: Path) -> None:
    receiver = Receiver(models.tiny(kind, seed=9))
    model = train(kind, PublishCallback(receiver), tmp_path)
    assert receiver.steps == [0, 1, 2, 3, 4]
    assert equal(checkpoint(receiver.server), checkpoint(model.bfloat16()))


@pytest.mark.parametrize(
    "every, arguments, steps",
    [
        (3, {}, [0, 3, 4]),
        ("save", {"save_strategy": "steps", "save_steps": 2}, [0, 2, 4]),
    ],
)
def test_a_trainer_publishes_when_it_is_asked_to(every: Any, arguments: Any, steps: list[int], tmp_path: Path) -> None:
    receiver = Receiver(models.tiny("dense", seed=9))
    model = train("dense", PublishCallback(receiver, every=every), tmp_path, **arguments)
    assert receiver.steps == steps
    assert equal(checkpoint(receiver.server), checkpoint(model.bfloat16()))


def test_a_sharded_model_is_refused(tmp_path: Path) -> None:
    model = models.tiny("dense")
    # As DeepSpeed marks the parameters that it has taken apart.
    model.lm_head.weight.ds_id = 1
    callback = PublishCallback(Receiver(models.tiny("dense")))
    trainer = Trainer(model=model, args=TrainingArguments(output_dir=str(tmp_path), use_cpu=True))
    with pytest.raises(TypeError, match="part_of"):
        callback.on_train_begin(trainer.args, trainer.state, trainer.control, model=model)


@pytest.mark.parametrize("every", [0, -1, "never", 1.5])
def test_a_wrong_interval_is_misuse(every: Any) -> None:
    with pytest.raises(ValueError):
        PublishCallback(Receiver(models.tiny("dense")), every=every)
