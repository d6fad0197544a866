"""Checkpoints on disk, and the command line that comes with the wheel."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pulse_codec as pulse
import pytest

PULSE = [sys.executable, "-m", "pulse_codec"]


def save(path: Path, step: int) -> Path:
    """A safetensors file of one tensor, by hand."""
    data = np.full(1000, 1.0, "f4")
    data[:step] = 2
    header = json.dumps({"w": {"dtype": "F32", "shape": [1000], "data_offsets": [0, 4000]}}).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data.tobytes())
    return path


def run(*words: str | Path, check: bool = True) -> str:
    done = subprocess.run([*PULSE, *map(str, words)], capture_output=True, text=True, check=False, timeout=120)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout


def plain(value: Any) -> Any:
    """An object of reports as JSON has it."""
    return json.loads(json.dumps(dataclasses.asdict(value)))


def test_checkpoints_on_disk(tmp_path: Path) -> None:
    base, target = (save(tmp_path / f"step_{step}.safetensors", step) for step in (1, 2))
    patch = pulse.diff(base, str(target), step=2, base_step=1, out=tmp_path / "2.pulse")
    out = tmp_path / "out.safetensors"
    applied = pulse.apply(base, patch, out=out)
    assert out.read_bytes() == target.read_bytes() and (applied.changes, applied.files) == (1, 1)
    assert pulse.digest(out) == applied.target == run("digest", out).split()[0]
    pulse.apply(base, tmp_path / "2.pulse", in_place=True)
    assert base.read_bytes() == target.read_bytes()
    anchor = pulse.snapshot(target)
    pulse.apply(None, anchor, out=tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == target.read_bytes()
    # One side in memory, the other on disk.
    weights = {"w": np.full(1000, 1.0, "f4")}
    assert pulse.diff(weights, target).changes == 2


def test_reports_have_the_fields_of_the_json(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"step_{step}.safetensors", step) for step in range(4)]
    patch = tmp_path / "1.pulse"
    pulse.diff(paths[0], paths[1], out=patch, step=1, options=pulse.EncoderOptions(coding="flat"))
    assert plain(pulse.inspect(patch)) == json.loads(run("inspect", patch, "--json"))
    assert plain(pulse.stat(paths)) == json.loads(run("stat", *paths, "--json"))
    whole = patch.read_bytes()
    damaged = tmp_path / "damaged.pulse"
    damaged.write_bytes(whole[: len(whole) // 2])
    found = pulse.inspect(damaged)
    assert found.damage is not None and found.damage.kind == "truncated"
    assert plain(found) == json.loads(run("inspect", damaged, "--json", check=False))
    with pytest.raises(ValueError):
        pulse.stat(paths[::-1])


def test_the_programs_are_installed() -> None:
    for program in ("pulse", "pulse-inspect"):
        found = shutil.which(program, path=os.path.dirname(sys.executable))
        assert found, f"{program} is not beside the interpreter"
        done = subprocess.run([found, "--version"], capture_output=True, text=True, check=True)
        assert done.stdout.startswith("pulse")
    assert subprocess.run([*PULSE, "no-such-command"], capture_output=True, check=False).returncode == 2
    assert subprocess.run([*PULSE, "digest", "/no/such"], capture_output=True, check=False).returncode == 1


def test_the_demo_runs_from_the_wheel() -> None:
    text = run("demo", "--megabytes", "2", "--steps", "2")
    assert "Every patch was applied" in text and "all followers hold" in text


def test_ctrl_c_ends_the_program_as_any_other() -> None:
    program = subprocess.Popen([*PULSE, "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert program.stderr is not None
    program.stderr.readline()
    time.sleep(0.2)
    program.send_signal(signal.SIGINT)
    program.communicate(timeout=30)
    assert program.returncode == -signal.SIGINT
