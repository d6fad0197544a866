"""Nothing is copied: 1 GB of weights, and the memory that a call takes beside them."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import gc, sys, threading, time
import {module}
import numpy as np
import pulse_codec as pulse

MB = 1_000_000
BYTES = 1000 * MB

def resident():
    with open("/proc/self/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    return int(fields["VmRSS"].split()[0]) * 1024

def grown(call):
    # The most that is resident while the call runs, beyond what was before.
    gc.collect()
    before, most, stop = resident(), [0], threading.Event()
    def watch():
        while not stop.wait(0.002):
            most[0] = max(most[0], resident())
    thread = threading.Thread(target=watch)
    thread.start()
    result = call()
    stop.set()
    thread.join()
    return result, max(most[0], resident()) - before

def tensor(array):
    return torch.from_numpy(array).view(torch.bfloat16) if "{module}" == "torch" else array

rng = np.random.default_rng(0)
base, target = {{}}, {{}}
for i in range(10):
    before = rng.integers(0x3c00, 0x3d00, BYTES // 20, dtype=np.uint16)
    after = before.copy()
    after[rng.integers(0, len(after), len(after) // 100)] += 1
    base[f"w{{i}}"], target[f"w{{i}}"] = tensor(before), tensor(after)
del before, after
allowed = BYTES // 10 + (64 << 20)
patch, used = grown(lambda: pulse.diff(base, target))
found = {{"diff": used}}
prepared, found["prepare"] = grown(lambda: patch.prepare(base))
_, found["commit"] = grown(prepared.commit)
assert pulse.digest(base) == patch.target
for after in target.values():
    after.view(torch.int16 if "{module}" == "torch" else np.uint16)[::100] += 1
patch = pulse.diff(base, target)
_, found["apply"] = grown(lambda: pulse.apply(base, patch))
assert pulse.digest(base) == patch.target
for call, used in found.items():
    print(f"{{call}}: {{used / MB:.0f}} MB beside {{BYTES / MB:.0f}} MB of weights, allowed {{allowed / MB:.0f}}")
    assert used < allowed, call
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("module", ["numpy", "torch"])
def test_memory_beside_the_weights(module: str) -> None:
    pytest.importorskip(module)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(module=module)], capture_output=True, text=True, timeout=300, check=False
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
