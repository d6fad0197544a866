"""How long a step takes from Python: diff, prepare and commit on PyTorch weights, beside the Rust library itself, beside
files and the command line, and beside the layouts that others have published, rebuilt here.

    cargo build --release -p pulse-tools --bin in_memory
    python -P bench.py --rust ../target/release/in_memory

Needs PyTorch, safetensors and zstandard. Rounds are interleaved, and the least of each is printed: others use the
machine as well. Every layout must bring the target back; only pulse proves that it did.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pulse_codec as pulse
import safetensors.torch
import torch
import zstandard

Model = dict[str, torch.Tensor]
#: Elements of a tensor.
TENSOR = 8 << 20


def pair(megabytes: int, density: float) -> tuple[Model, Model]:
    """BF16 weights, and what they are when some elements have moved by one ULP."""
    generator = torch.Generator().manual_seed(1)
    base, target = {}, {}
    for number in range(max(1, megabytes * 500_000 // TENSOR)):
        before = (0.02 * torch.randn(4096, TENSOR // 4096, generator=generator)).bfloat16()
        after = before.clone()
        moved = torch.rand(before.shape, generator=generator) < density
        up = torch.randint(0, 2, (int(moved.sum()),), generator=generator, dtype=torch.int16) * 2 - 1
        after.view(torch.int16)[moved] += up
        base[f"layers.{number}.weight"], target[f"layers.{number}.weight"] = before, after
    return base, target


class Times:
    """The least time of each thing that was done."""

    def __init__(self) -> None:
        self.least: dict[str, float] = {}
        self.bytes: dict[str, int] = {}

    def of(self, name: str, act: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        done = act()
        self.put(name, time.perf_counter() - started)
        return done

    def put(self, name: str, seconds: float) -> None:
        self.least[name] = min(seconds, self.least.get(name, seconds))


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(torch.int16).reshape(-1)


def packed(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=1).compress(data)


def unpacked(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompress(data)


def as_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def of_bytes(data: bytes, dtype: torch.dtype) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)


def gaps_encode(base: Model, target: Model) -> list[Any]:
    """u16 gaps and XOR of all tensors in one frame (NeMo RL)."""
    table, gaps, values = [], [], []
    for name, before in base.items():
        flips = bits(before) ^ bits(target[name])
        places = flips.nonzero().reshape(-1)
        gap = places.diff(prepend=torch.tensor([-1])) - 1
        wide = torch.uint16 if not len(gap) or int(gap.max()) < 1 << 16 else torch.int32
        table.append((name, len(places), wide))
        gaps.append(as_bytes(gap.to(wide)))
        values.append(as_bytes(flips[places]))
    sizes = [len(gap) for gap in gaps]
    return [table, sizes, packed(b"".join(gaps + values))]


def gaps_apply(weights: Model, message: list[Any]) -> None:
    table, sizes, body = message
    data, at, value = unpacked(body), 0, sum(sizes)
    for (name, count, wide), size in zip(table, sizes, strict=True):
        gap = of_bytes(data[at : at + size], wide).to(torch.int64)
        places = (gap + 1).cumsum(0) - 1
        bits(weights[name])[places] ^= of_bytes(data[value : value + 2 * count], torch.int16)
        at, value = at + size, value + 2 * count


def dense_encode(base: Model, target: Model) -> list[Any]:
    """The whole XOR of each tensor, compressed (slime, SkyRL)."""
    return [(name, packed(as_bytes(bits(before) ^ bits(target[name])))) for name, before in base.items()]


def dense_apply(weights: Model, message: list[Any]) -> None:
    for name, body in message:
        bits(weights[name]).bitwise_xor_(of_bytes(unpacked(body), torch.int16))


def rows_encode(base: Model, target: Model) -> list[Any]:
    """Row gaps, columns and new values of all tensors in one frame (grail v3.1)."""
    table, parts = [], []
    for name, before in base.items():
        row, column = (before != target[name]).nonzero(as_tuple=True)
        gap = row.diff(prepend=torch.tensor([0]))
        same = gap == 0
        same[:1] = False
        step = torch.where(same, column.diff(prepend=torch.tensor([0])), column)
        rows = torch.uint8 if not len(gap) or int(gap.max()) < 1 << 8 else torch.int32
        columns = torch.uint16 if not len(step) or int(step.max()) < 1 << 16 else torch.int32
        own = [as_bytes(gap.to(rows)), as_bytes(step.to(columns)), as_bytes(target[name][row, column])]
        table.append((name, rows, columns, [len(part) for part in own]))
        parts += own
    return [table, packed(b"".join(parts))]


def rows_apply(weights: Model, message: list[Any]) -> None:
    table, body = message
    data, at = unpacked(body), 0
    for name, rows, columns, sizes in table:
        parts = []
        for size, dtype in zip(sizes, (rows, columns, torch.bfloat16), strict=True):
            parts.append(of_bytes(data[at : at + size], dtype))
            at += size
        gap, step = parts[0].to(torch.int64), parts[1].to(torch.int64)
        row, total = gap.cumsum(0), step.cumsum(0)
        # A column is absolute where its row is new, and a gap from the one before elsewhere.
        new = gap != 0
        new[:1] = True
        start = torch.where(new, total - step, torch.zeros_like(total)).cummax(0).values
        weights[name][row, total - start] = parts[2]


def sparse_encode(base: Model, target: Model) -> list[Any]:
    """Indices and new values as safetensors (TRL)."""
    tensors = {}
    for name, before in base.items():
        places = (before != target[name]).reshape(-1).nonzero().reshape(-1)
        tensors[name + ".indices"] = places.to(torch.int32)
        tensors[name + ".values"] = target[name].reshape(-1)[places]
    return [safetensors.torch.save(tensors)]


def sparse_apply(weights: Model, message: list[Any]) -> None:
    tensors = safetensors.torch.load(message[0])
    for name, tensor in weights.items():
        tensor.reshape(-1)[tensors[name + ".indices"].to(torch.int64)] = tensors[name + ".values"]


def size(message: Any) -> int:
    """The bytes of a message; tables of names are left out."""
    if isinstance(message, bytes):
        return len(message)
    return sum(map(size, message)) if isinstance(message, list | tuple) else 0


LAYOUTS: dict[str, tuple[Callable[[Model, Model], list[Any]], Callable[[Model, list[Any]], None]]] = {
    "u16 gaps + XOR, zstd (NeMo RL)": (gaps_encode, gaps_apply),
    "dense XOR, zstd (slime, SkyRL)": (dense_encode, dense_apply),
    "rows and columns, zstd (grail v3.1)": (rows_encode, rows_apply),
    "sparse safetensors (TRL)": (sparse_encode, sparse_apply),
}
OURS, FILES, RUST = "pulse_codec", "save_file + pulse diff, pulse apply + load_file", "the Rust library itself"


def restore(weights: Model, base: Model) -> None:
    for name, tensor in weights.items():
        tensor.copy_(base[name])


def check(weights: Model, target: Model, what: str) -> None:
    for name, tensor in target.items():
        assert torch.equal(bits(weights[name]), bits(tensor)), f"{what} made other weights"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rust", type=Path, help="the program in_memory of pulse-tools")
    parser.add_argument("--megabytes", type=int, default=600)
    parser.add_argument("--density", type=float, default=0.01)
    parser.add_argument("--threads", type=int, default=0, help="0: one for each core")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    threads = arguments.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    base, target = pair(arguments.megabytes, arguments.density)
    weights = {name: tensor.clone() for name, tensor in base.items()}
    times = Times()
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        files = [str(place / name) for name in ("base.safetensors", "target.safetensors")]
        for path, model in zip(files, (base, target), strict=True):
            safetensors.torch.save_file(model, path)
        for _ in range(arguments.rounds):
            if arguments.rust:
                command = [str(arguments.rust), *files, str(threads), "1"]
                found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
                times.put(f"{RUST}: diff", found["diff"])
                times.put(f"{RUST}: prepare + commit", found["prepare"] + found["commit"])
                times.put(f"{RUST}: commit", found["commit"])
                times.bytes[RUST] = found["bytes"]
            restore(weights, base)
            patch = times.of(f"{OURS}: diff", lambda: pulse.diff(base, target, threads=threads))
            opened = pulse.Patch.from_bytes(patch)
            started = time.perf_counter()
            prepared = opened.prepare(weights, threads=threads)
            times.of(f"{OURS}: commit", partial(prepared.commit, threads=threads))
            times.put(f"{OURS}: prepare + commit", time.perf_counter() - started)
            check(weights, target, OURS)
            times.bytes[OURS] = len(patch)

            program = [sys.executable, "-P", "-m", "pulse_codec", "--threads", str(threads), "--quiet"]
            patch_path, out = place / "41.pulse", place / "out.safetensors"

            def save_and_diff() -> None:
                safetensors.torch.save_file(target, files[1])
                subprocess.run([*program, "diff", *files, "-o", patch_path, "--force"], check=True)

            def apply_and_load() -> Model:
                subprocess.run([*program, "apply", files[0], patch_path, "-o", out, "--force"], check=True)
                loaded: Model = safetensors.torch.load_file(out)
                return loaded

            times.of(f"{FILES}: diff", save_and_diff)
            loaded = times.of(f"{FILES}: prepare + commit", apply_and_load)
            check(loaded, target, FILES)
            times.bytes[FILES] = patch_path.stat().st_size
            del loaded

            for name, (encode, apply) in LAYOUTS.items():
                restore(weights, base)
                message = times.of(f"{name}: diff", partial(encode, base, target))
                times.of(f"{name}: prepare + commit", partial(apply, weights, message))
                check(weights, target, name)
                times.bytes[name] = size(message)
    report(times, arguments, threads)


def report(times: Times, arguments: argparse.Namespace, threads: int) -> None:
    print(f"{arguments.megabytes} MB of BF16, {arguments.density:.1%} changed, {threads} threads, least of {arguments.rounds}\n")
    print(f"{'':<48} {'bytes':>12} {'diff':>8} {'apply':>8}  proved")
    for name in [RUST, OURS, FILES, *LAYOUTS]:
        if name in times.bytes:
            diff, apply = times.least[f"{name}: diff"], times.least[f"{name}: prepare + commit"]
            proved = "no" if name in LAYOUTS else "yes"
            print(f"{name:<48} {times.bytes[name]:>12,} {diff:>6.2f} s {apply:>6.2f} s  {proved}")
    print(f"\napply of {OURS} is prepare + commit; the commit alone takes {1000 * times.least[f'{OURS}: commit']:.0f} ms")
    if RUST in times.bytes:
        for what in ("diff", "prepare + commit"):
            ratio = times.least[f"{OURS}: {what}"] / times.least[f"{RUST}: {what}"]
            print(f"{what}: {ratio:.2f} times the Rust library's own")


if __name__ == "__main__":
    main()
