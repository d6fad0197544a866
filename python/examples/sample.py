"""Samples from the model that train.py trains, while it is updated, and shows that its weights are the trainer's."""

from __future__ import annotations

import argparse
import threading
import time
from pathlib import Path

import torch

import pulse_codec as pulse
import tiny
from files import follow


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=50)
    arguments = parser.parse_args()

    model = tiny.Transformer().bfloat16().eval()
    # The model's own memory: to apply a patch to it is to update the model.
    weights = model.state_dict()
    files = follow(arguments.folder, 0)
    pulse.load(next(files), into=weights)
    sampler = Sampler(model)
    sampler.start()
    for step, path in enumerate(files, 1):
        patch = pulse.Patch.open(path)
        # Proved while the model is in use; what is left to write takes no time.
        prepared = patch.prepare(weights)
        with sampler.lock:
            began = time.perf_counter()
            prepared.commit()
            paused = time.perf_counter() - began
        assert pulse.digest(weights) == patch.target
        print(
            f"step {step}: {patch.changes:,} changes, paused {paused * 1e3:.2f} ms, {sampler.samples} samples,"
            f" weights {patch.target[:16]} as the trainer's: {' '.join(map(str, sampler.last))}",
            flush=True,
        )
        if step == arguments.steps:
            break
    sampler.stopped = True
    sampler.join()




if __name__ == "__main__":
    main()
