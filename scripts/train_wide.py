#!/usr/bin/env python3
"""Train a wide byte-level language model and save BF16 checkpoints: train_wide.py REPOSITORY DIR

One transformer block, 2048 wide (34M parameters), learns the text of a repository: AdamW on F32 masters, a few steps at
a high learning rate so that the optimizer's moments are real ones, then the small one of fine-tuning, at which most
BF16 weights keep their bits. Written are DIR/step-NNN.safetensors for three steps after the switch and one eight steps
after the first: pairs of one step, and a window of eight.

Needs jax (made with 0.10.2). The seed is fixed: the same machine gives the same bytes.
"""
import functools
import json
import pathlib
import struct
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

WIDTH, HIDDEN, HEADS, BYTES = 2048, 4096, 16, 256
BATCH, LENGTH = 6, 128
# Of weights at first, about as GPT-2 has it. At this rate, some 3% of the elements change in a step.
DEVIATION = 0.022
WARM_STEPS, WARM_RATE, RATE = 40, 3e-4, 1.2e-5
SAVED = [WARM_STEPS + n for n in (11, 12, 13, 19)]
BETA1, BETA2, EPSILON, DECAY = 0.9, 0.999, 1e-8, 0.01


def initial(key):
    """Weights as F32, by name. Matrices are (out, in), as PyTorch stores them."""
    shapes = {
        "embed.weight": (BYTES, WIDTH),
        "position.weight": (LENGTH, WIDTH),
        **{f"attention.{name}.weight": (WIDTH, WIDTH) for name in ("q", "k", "v", "o")},
        "mlp.in.weight": (HIDDEN, WIDTH),
        "mlp.out.weight": (WIDTH, HIDDEN),
        "norm.1.weight": (WIDTH,),
        "norm.2.weight": (WIDTH,),
        "norm.3.weight": (WIDTH,),
        "head.weight": (BYTES, WIDTH),
    }
    keys = jax.random.split(key, len(shapes))
    return {
        name: jnp.ones(shape) if len(shape) == 1 else jax.random.normal(k, shape) * DEVIATION
        for k, (name, shape) in zip(keys, shapes.items())
    }


def norm(x, weight):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * weight


def loss(w, text):
    """Mean bits per byte of the next byte; `text` is (batch, length + 1)."""
    x = w["embed.weight"][text[:, :-1]] + w["position.weight"]
    n = norm(x, w["norm.1.weight"])
    q, k, v = ((n @ w[f"attention.{name}.weight"].T).reshape(*n.shape[:2], HEADS, -1) for name in "qkv")
    attended = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    x = x + attended.reshape(x.shape) @ w["attention.o.weight"].T
    n = norm(x, w["norm.2.weight"])
    x = x + jax.nn.gelu(n @ w["mlp.in.weight"].T) @ w["mlp.out.weight"].T
    logits = norm(x, w["norm.3.weight"]) @ w["head.weight"].T
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), text[:, 1:, None], -1)
    return -picked.mean() / jnp.log(2)


# The old state is given up, so that it need not be held beside the new one.
@functools.partial(jax.jit, donate_argnums=(0, 1, 2))
def train_step(w, m, v, text, step, rate):
    """One step of AdamW; `step` counts from 1."""
    value, gradient = jax.value_and_grad(loss)(w, text)
    m = jax.tree.map(lambda m, g: BETA1 * m + (1 - BETA1) * g, m, gradient)
    v = jax.tree.map(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, v, gradient)

    def moved(w, m, v):
        update = m / (1 - BETA1**step) / (jnp.sqrt(v / (1 - BETA2**step)) + EPSILON)
        return w - rate * (update + DECAY * w)

    return jax.tree.map(moved, w, m, v), m, v, value


def read_text(repository):
    """All prose and source text of the repository, one after another."""
    files = sorted(
        path
        for path in pathlib.Path(repository).rglob("*")
        if path.suffix in (".md", ".rs") and "target" not in path.parts
    )
    return np.frombuffer(b"".join(path.read_bytes() for path in files), np.uint8)


def save(path, weights):
    """Writes a safetensors file with BF16 weights, tensors in the order of their names."""
    header, parts, end = {}, [], 0
    for name, weight in sorted(weights.items()):
        data = np.asarray(weight.astype(jnp.bfloat16)).tobytes()
        header[name] = {"dtype": "BF16", "shape": list(weight.shape), "data_offsets": [end, end + len(data)]}
        parts.append(data)
        end += len(data)
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    path.write_bytes(struct.pack("<Q", len(head)) + head + b"".join(parts))


def main(repository, directory):
    text = read_text(repository)
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(1)
    w = initial(jax.random.key(1))
    m, v = (jax.tree.map(jnp.zeros_like, w) for _ in range(2))
    start = time.time()
    for step in range(1, SAVED[-1] + 1):
        at = draw.integers(0, len(text) - LENGTH, BATCH)
        batch = np.stack([text[a : a + LENGTH + 1] for a in at]).astype(np.int32)
        rate = WARM_RATE if step <= WARM_STEPS else RATE
        w, m, v, bits = train_step(w, m, v, batch, float(step), rate)
        print(f"step {step}: {bits:.3f} bits per byte, {time.time() - start:.0f} s", flush=True)
        if step in SAVED:
            save(directory / f"step-{step:03}.safetensors", w)


if __name__ == "__main__":
    main(*sys.argv[1:])
