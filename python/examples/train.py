"""Trains a tiny transformer, with Adam and masters in FP32, and publishes its weights in BF16 after each step.

    python train.py FEED --steps 50 &
    python sample.py FEED

FEED is a new directory, or s3://bucket/run and the like for machines that are far apart.
"""

from __future__ import annotations

import argparse
import time

import torch

import pulse_codec as pulse
import tiny
from pulse_codec.host import HostCopy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("feed")
    parser.add_argument("--steps", type=int, default=50)
    arguments = parser.parse_args()

    torch.manual_seed(0)
    model = tiny.Transformer()
    # From scratch many weights change at each step; in reinforcement learning, at a hundredth of this rate, 1% does.
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    host = HostCopy(dtype=torch.bfloat16)
    with pulse.Publisher(arguments.feed) as publisher:
        for step in range(arguments.steps + 1):
            if step:
                optimizer.zero_grad()
                lost = tiny.loss(model, tiny.batch(step))
                lost.backward()
                optimizer.step()
            began = time.perf_counter()
            weights = host.take(model.state_dict().items())
            published = publisher.publish(weights, step=step)
            took = (time.perf_counter() - began) * 1e3
            said = f"loss {lost.item():.3f}  " if step else ""
            print(
                f"step {step}: {said}{published.bytes:,} bytes published in {took:.1f} ms  {pulse.digest(weights)[:16]}",
                flush=True,
            )
        publisher.end()


if __name__ == "__main__":
    main()
