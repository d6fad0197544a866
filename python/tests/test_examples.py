"""The programs of examples/ do what they say: they compare what they made with what was trained."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

EXAMPLES = Path(__file__).parents[1] / "examples"


def started(*command: str) -> subprocess.Popen[str]:
    """A program in the directory of the examples, which import one another."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=EXAMPLES,
        env=environment | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_process_samples_from_what_another_one_trains(tmp_path: Path) -> None:
    feed = str(tmp_path / "feed")
    trainer = started("train.py", feed, "--steps", "8")
    sampler = started("sample.py", feed)
    trained, sampled = (process.communicate(timeout=300)[0] for process in (trainer, sampler))
    assert (trainer.returncode, sampler.returncode) == (0, 0)
    digest = trained.splitlines()[-1].split()[-1]
    assert sampled.splitlines()[-1].startswith("step 8:") and f"weights {digest} as the trainer's" in sampled


def test_two_ranks_publish_what_each_made_of_its_shards(tmp_path: Path) -> None:
    ranks = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0", "--standalone")
    process = started(*ranks, "distributed.py", str(tmp_path / "feed"), "--steps", "3")
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and printed.count("proved") == 4
