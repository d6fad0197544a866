"""SGLang: the loader as a worker calls it. SGLang itself needs CUDA to be installed, so its groups are stood in for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import pulse_codec as pulse
from pulse_codec import installed, sglang
from pulse_codec.replica import ReplicaError


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kv = torch.nn.Parameter(torch.zeros(4, 300), requires_grad=False)

    def load_weights(self, weights):  # type: ignore[no-untyped-def]
        for name, tensor in weights:
            row = {"k": 0, "v": 2}[name]
            self.kv.data[row : row + 2].copy_(tensor)


@pytest.fixture
def one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sglang, "check_version", lambda *_: None)
    monkeypatch.setattr(sglang, "_workers", lambda: ([], True, False))


def steps(folder: Path) -> list[dict[str, torch.Tensor]]:
    """Three steps of training: a checkpoint, and two patches."""
    weights = [{"k": torch.randn(2, 300), "v": torch.randn(2, 300)}]
    save_file(weights[0], folder / "base.safetensors")
    for step in (1, 2):
        weights.append({name: tensor.clone() for name, tensor in weights[-1].items()})
        for tensor in weights[-1].values():
            tensor[step % 2, step] += 1
        pulse.diff(weights[-2], weights[-1], out=folder / f"{step}.pulse")
    return weights


def test_updates(tmp_path: Path, one_worker: None) -> None:
    weights = steps(tmp_path)
    model = Model()
    model.load_weights(weights[0].items())
    for step in (1, 2):
        first = tmp_path / "base.safetensors" if step == 1 else None
        sglang.load(model, sglang.command(weights=first, patch=tmp_path / f"{step}.pulse"))
        assert torch.equal(model.kv, torch.cat([weights[step]["k"], weights[step]["v"]]))


def test_a_refused_patch_is_reported_and_the_weights_stay(tmp_path: Path, one_worker: None) -> None:
    weights = steps(tmp_path)
    model = Model()
    model.load_weights(weights[0].items())
    report = tmp_path / "report.json"
    sglang.load(model, sglang.command(weights=tmp_path / "base.safetensors", patch=tmp_path / "2.pulse", report=report))
    said = json.loads(report.read_text())
    assert said["ok"] is False and said["kind"] == "BaseMismatch"
    assert torch.equal(model.kv, torch.cat([weights[0]["k"], weights[0]["v"]]))
    with pytest.raises(pulse.BaseMismatch):
        sglang.load(model, sglang.command(patch=tmp_path / "2.pulse"))
    sglang.load(model, sglang.command(patch=tmp_path / "1.pulse", report=report))
    assert json.loads(report.read_text()) == {"ok": True, "changes": 2}


def test_misuse(tmp_path: Path, one_worker: None) -> None:
    with pytest.raises(ValueError):
        sglang.command()
    with pytest.raises(ValueError):
        sglang.load(Model(), [("k", torch.zeros(2, 3))])
    with pytest.raises(ReplicaError):
        sglang.load(Model(), sglang.command(patch=tmp_path / "1.pulse"))


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for found in ("0.4.9", "0.6.0", "1.0"):
        monkeypatch.setattr(installed, "version", lambda _, found=found: found)
        with pytest.raises(ImportError, match=f"needs SGLang from .* this is {found}"):
            sglang.load(Model(), sglang.command(patch="1.pulse"))
