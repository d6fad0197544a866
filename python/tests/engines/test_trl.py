"""TRL: its own synchronisation, driven as its trainer drives it.

The trainer itself needs a kernel that runs on GPUs only, so its method is called with what it uses of a trainer.
"""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import Accelerator

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

from trl.experimental.async_grpo.async_grpo_trainer import AsyncGRPOTrainer, WeightTransferProtocol  # noqa: E402

import pulse_codec as pulse  # noqa: E402
from engines import models  # noqa: E402
from pulse_codec.transformers import checkpoint  # noqa: E402
from pulse_codec.trl import WeightTransfer  # noqa: E402


class Steps:
    """Keeps the patch of each step in a folder."""

    def __init__(self, folder: Any) -> None:
        self.folder = folder
        self.shadow: pulse.Shadow | None = None

    def publish(self, weights: dict[str, torch.Tensor], *, step: int) -> None:
        if self.shadow is None:
            self.shadow = pulse.Shadow(weights)
            return
        patch = self.shadow.diff(weights, step=step)
        patch.write(self.folder / f"{step}.pulse")
        self.shadow.advance(patch)

    def path(self, step: int) -> Any:
        return self.folder / f"{step}.pulse" if step else None


class Server:
    """Notes what is asked of a client of vLLM."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.calls.append((name, *arguments))


def sync(model: torch.nn.Module, transfer: WeightTransferProtocol) -> None:
    """A synchronisation by TRL's own code."""
    trainer = SimpleNamespace(
        accelerator=Accelerator(cpu=True), model=model, weight_transfer=transfer, rollout_worker=None, model_version=0
    )
    trainer._streaming_iter = lambda: AsyncGRPOTrainer._streaming_iter(trainer)
    AsyncGRPOTrainer._sync_weight_merged(trainer, 0.0)


def test_the_protocol_is_all_there() -> None:
    asked = {name for name, value in vars(WeightTransferProtocol).items() if callable(value) and name[0] != "_"}
    assert asked == {"init_weight_transfer", "pause", "send_weights", "resume", "destroy"}
    assert all(callable(getattr(WeightTransfer, name)) for name in asked)


def test_an_engine_follows(tmp_path: Any) -> None:
    model = models.tiny("dense").float()
    server = models.tiny("dense")
    steps, engine = Steps(tmp_path), Server()
    transfer = WeightTransfer(steps, engine=engine, serves="step_0", patch=steps.path)
    transfer.init_weight_transfer()
    assert engine.calls == [("wait_for_server_ready",), ("init_weight_transfer_engine", {"weights": "step_0"})]
    for step in range(4):
        engine.calls.clear()
        sync(model, transfer)
        if step:
            path = str(tmp_path / f"{step}.pulse")
            assert engine.calls == [
                ("start_weight_update",),
                ("update_weights", {"patch": path}),
                ("pause",),
                ("finish_weight_update",),
                ("resume",),
            ]
            pulse.apply(checkpoint(server), path)
        else:
            assert engine.calls == []
        published = {name: tensor.bfloat16() for name, tensor in checkpoint(model).items()}
        assert pulse.digest(checkpoint(server)) == pulse.digest(published)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 1e-3)
    assert transfer.published == 4


def test_a_mixture_of_experts_is_refused_by_who_has_the_checkpoint(tmp_path: Any) -> None:
    # TRL names parameters as transformers keeps them, with experts fused; a server has them by their own names.
    model, server = models.tiny("moe"), models.tiny("moe")
    steps = Steps(tmp_path)
    transfer = WeightTransfer(steps)
    sync(model, transfer)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    sync(model, transfer)
    try:
        pulse.apply(checkpoint(server), tmp_path / "1.pulse")
    except pulse.BaseMismatch as error:
        assert any("gate_up_proj" in name for name in error.missing)
    else:
        raise AssertionError("it was applied")
