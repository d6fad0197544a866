"""Samples from the model that train.py trains, while it is updated, and shows that its weights are the trainer's."""

from __future__ import annotations

import argparse
import threading
import time

import torch

import pulse_codec as pulse
import tiny


def sample(model: torch.nn.Module, start: list[int], length: int = 12) -> list[int]:
    tokens = list(start)
    with torch.inference_mode():
        for _ in range(length):
            tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens


class Sampler(threading.Thread):
    """Samples all the time. The lock is held for one sample, and by an update while it is written."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__(daemon=True)
        self.model, self.lock = model, threading.Lock()
        self.samples = 0
        self.last: list[int] = []
        self.stopped = False

    def run(self) -> None:
        while not self.stopped:
            with self.lock:
                self.last = sample(self.model, [7, 10, 13])
            self.samples += 1
            # Let an update have the lock.
            time.sleep(0)


def opened(feed: str, weights: dict[str, torch.Tensor]) -> pulse.Follower:
    """Follows the feed, once there is one: the trainer may be started later."""
    while True:
        try:
            return pulse.Follower(feed, weights=weights, poll=0.02)
        except pulse.NoFeed:
            time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("feed")
    arguments = parser.parse_args()

    model = tiny.Transformer().bfloat16().eval()
    # The model's own memory: to commit a version to it is to update the model.
    weights = model.state_dict()
    sampler = Sampler(model)
    # Each version was proved while the model was in use; what is left to write takes no time. The last one ends the run.
    for version in opened(arguments.feed, weights):
        with sampler.lock:
            began = time.perf_counter()
            applied = version.commit()
            paused = time.perf_counter() - began
        assert pulse.digest(weights) == version.digest
        print(
            f"step {version.step}: {applied.changes:,} changes, paused {paused * 1e3:.2f} ms, {sampler.samples} samples,"
            f" weights {version.digest[:16]} as the trainer's: {' '.join(map(str, sampler.last))}",
            flush=True,
        )
        if not sampler.is_alive():
            sampler.start()
    sampler.stopped = True
    sampler.join()


if __name__ == "__main__":
    main()
