#!/usr/bin/env python3
"""Peak memory of every command of `pulse` that reads checkpoints, for checkpoints of several sizes.

    scripts/peak_memory.py [--pulse PROGRAM] [--dir DIR] [--limit MIB] GIB...

Tensors of 64 MiB, 1% of whose BF16 elements change. Prints a Markdown table of peak resident MiB, and fails if one
exceeds the limit (192). DIR, a new directory in memory if it is not named, takes about four times the largest size.
Python's standard library only.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TENSOR = 64 << 20


def make(path, tensors, seed):
    """A checkpoint of so many tensors; seed 0 is the base, others change 1% of its elements."""
    data = bytearray(random.Random(0).randbytes(TENSOR))
    dice = random.Random(seed)
    for _ in range(TENSOR // 200 if seed else 0):
        data[2 * dice.randrange(TENSOR // 2)] ^= 1
    header = {
        f"layers.{number:03}.weight": {
            "dtype": "BF16",
            "shape": [TENSOR // 16384, 8192],
            "data_offsets": [number * TENSOR, (number + 1) * TENSOR],
        }
        for number in range(tensors)
    }
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _ in range(tensors):
            file.write(data)


def peak(program, words):
    """Peak resident bytes of a command that must succeed."""
    child = subprocess.Popen([program, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    message = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status != 0:
        sys.exit(f"pulse {' '.join(words)}: {message.decode()}")
    return usage.ru_maxrss * 1024


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def commands(at):
    """Each command, and what it made that no other needs."""
    base, target, patch, back, out = (str(at / name) for name in ("base", "target", "1.pulse", "2.pulse", "out"))
    # The base is at hand for the codings that need it; these do without.
    flat, flat_back = str(at / "flat.pulse"), str(at / "flat-back.pulse")
    snapshot, feed = str(at / "snapshot.pulse"), str(at / "feed")
    yield ["diff", base, target, "-o", patch], []
    yield ["diff", target, base, "--base-patch", patch, "-o", back], []
    yield ["diff", "--snapshot", target, "-o", snapshot], []
    yield ["apply", snapshot, "-o", out], ["out", "snapshot.pulse"]
    yield ["apply", base, patch, "-o", out], ["out"]
    yield ["apply", base, patch, back, "-o", out], ["out"]
    yield ["apply", base, patch, "--in-place"], []
    yield ["apply", base, back, "--in-place"], []
    yield ["diff", "--coding", "flat", base, target, "-o", flat], []
    yield ["diff", "--coding", "flat", target, base, "-o", flat_back], []
    yield ["compose", flat, flat_back, "-o", out], ["out"]
    yield ["revert", target, flat, "-o", out], ["out"]
    yield ["verify", patch, "--base", base, "--target", target], []
    yield ["inspect", patch], []
    yield ["digest", target], []
    yield ["stat", base, target], []
    yield ["publish", base, feed], []
    yield ["publish", target, feed, "--base", base], []
    yield ["follow", feed, out, "--once"], ["out", "out.versions"]
    yield ["feed", "verify", feed], []


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gib", type=float, nargs="+")
    parser.add_argument("--pulse", default="target/release/pulse")
    parser.add_argument("--dir", type=Path)
    parser.add_argument("--limit", type=float, default=192)
    arguments = parser.parse_args()
    memory = Path("/dev/shm")
    home = arguments.dir or Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    peaks = {}
    try:
        for gib in arguments.gib:
            for seed, name in enumerate(("base", "target")):
                # In a process of its own: what this one holds would count as the peak of its children.
                code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import peak_memory as p; " \
                    f"p.make({str(home / name)!r}, {round(gib * 1024) // 64}, {seed})"
                subprocess.run([sys.executable, "-c", code], check=True)
            for words, made in commands(home):
                name = " ".join(word.replace(f"{home}/", "") for word in words)
                peaks.setdefault(name, []).append(peak(arguments.pulse, words) / 2**20)
                for what in made:
                    remove(home / what)
            for what in home.iterdir():
                remove(what)
    finally:
        shutil.rmtree(home)
    print("| peak, MiB |", " | ".join(f"{gib:g} GiB" for gib in arguments.gib), "|")
    print("|---" * (1 + len(arguments.gib)) + "|")
    for name, found in peaks.items():
        print(f"| `{name}` |", " | ".join(f"{mib:.0f}" for mib in found), "|")
    worst = max(max(found) for found in peaks.values())
    if worst > arguments.limit:
        sys.exit(f"the limit is {arguments.limit:g} MiB, found {worst:.0f}")


if __name__ == "__main__":
    main()
