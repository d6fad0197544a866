"""Trains a tiny transformer, with Adam and masters in FP32, and publishes its weights in BF16 after each step.

    python train.py FOLDER --steps 50 &
    python sample.py FOLDER --steps 50
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

import tiny
from files import Publisher
from pulse_codec import digest
from pulse_codec.host import HostCopy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=50)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(0)
    model = tiny.Transformer()
    # From scratch many weights change at each step; in reinforcement learning, at a hundredth of this rate, 1% does.
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    publisher, host = Publisher(arguments.folder), HostCopy(dtype=torch.bfloat16)
    for step in range(arguments.steps + 1):
        if step:
            optimizer.zero_grad()
            lost = tiny.loss(model, tiny.batch(step))
            lost.backward()
            optimizer.step()
        began = time.perf_counter()
        weights = host.take(model.state_dict().items())
        patch = publisher.publish(weights, step=step)
        said = f"loss {lost.item():.3f}  " if step else ""
        print(
            f"step {step}: {said}{patch.stat().st_size:,} bytes published in"
            f" {(time.perf_counter() - began) * 1e3:.1f} ms  {digest(weights)[:16]}",
            flush=True,
        )


if __name__ == "__main__":
    main()
