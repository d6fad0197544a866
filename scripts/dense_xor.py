#!/usr/bin/env python3
"""Times what the field does today, in the language that it is done in: the bits that differ of each tensor, zstd 1, and
a checksum of 64 bits, from memory to memory.

scripts/dense_xor.py BASE TARGET [--threads N] [--rounds N]     two safetensors files of the same tensors

Needs numpy, zstandard and xxhash: pip install numpy zstandard xxhash. The same in Rust, beside this library, is in
`cargo run --release -p pulse-tools --bin scale`.
"""
import argparse
import hashlib
import json
import time
from concurrent.futures import ThreadPoolExecutor

import numpy
import xxhash
import zstandard


def read(path):
    """The bytes of each tensor, in the order of names."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = file.read()
    spans = {name: tensor["data_offsets"] for name, tensor in header.items() if name != "__metadata__"}
    return [numpy.frombuffer(data[begin:end], numpy.uint8).copy() for _, (begin, end) in sorted(spans.items())]


def encode(pair):
    base, target = pair
    packed = zstandard.ZstdCompressor(level=1).compress(numpy.bitwise_xor(base, target))
    return packed, xxhash.xxh3_64_intdigest(target)


def apply(tensor):
    weights, (packed, checksum) = tensor
    bits = numpy.frombuffer(zstandard.ZstdDecompressor().decompress(packed), numpy.uint8)
    numpy.bitwise_xor(weights, bits, out=weights)
    return xxhash.xxh3_64_intdigest(weights) == checksum


def timed(act):
    begin = time.perf_counter()
    result = act()
    return result, time.perf_counter() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("target")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    base, target = read(arguments.base), read(arguments.target)
    best = {}
    with ThreadPoolExecutor(arguments.threads) as threads:
        for _ in range(arguments.rounds):
            held = [tensor.copy() for tensor in base]
            times = {}
            whole = numpy.concatenate(target)
            _, times["hashlib"] = timed(lambda: hashlib.sha256(whole).digest())
            dense, times["encode"] = timed(lambda: list(threads.map(encode, zip(base, target))))
            right, times["apply and check"] = timed(lambda: list(threads.map(apply, zip(held, dense))))
            if not all(right) or any((a != b).any() for a, b in zip(held, target)):
                raise SystemExit("the result is another one")
            best = {name: min(seconds, best.get(name, seconds)) for name, seconds in times.items()}
    size, of = sum(len(packed) for packed, _ in dense), sum(len(tensor) for tensor in target)
    print(f"{of:,} bytes of weights, {size:,} bytes of differences, {arguments.threads} threads; the best of {arguments.rounds}:")
    for name, seconds in best.items():
        print(f"{name:16} {seconds:6.3f} s   {seconds / best['hashlib']:.2f} of hashlib")


if __name__ == "__main__":
    main()
