"""Patches in a folder, for the examples: the least that a publisher and a follower can be.

A real run has `pulse_codec.Publisher` and `pulse_codec.Follower`, which also keep anchors, sign, clean up, and survive
crashes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import torch

import pulse_codec as pulse


class Publisher:
    """Writes a snapshot first and then a patch for each step. Files appear whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shadow: pulse.Shadow | None = None
        self._step = 0

    def publish(self, weights: dict[str, torch.Tensor], *, step: int) -> Path:
        path = self.folder / f"{step}.pulse"
        if self._shadow is None:
            self._shadow = pulse.Shadow(weights)
            self._shadow.snapshot(out=path, step=step)
        else:
            patch = self._shadow.diff(weights, base_step=self._step, step=step)
            patch.write(path)
            self._shadow.advance(patch)
        self._step = step
        return path


def follow(folder: Path, step: int) -> Iterator[Path]:
    """The files of this step and all that follow, as they appear."""
    while True:
        path = folder / f"{step}.pulse"
        while not path.exists():
            time.sleep(0.005)
        yield path
        step += 1
