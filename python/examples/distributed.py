"""Trains on several ranks with FSDP. Each rank makes a part of the patch from its own shards; the parts are joined.

    torchrun --nproc-per-node 2 distributed.py FOLDER

No rank ever holds the whole model. The first one checks what it publishes against the gathered weights, which a real
run would not do.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

import pulse_codec as pulse
import tiny


def shards(model: torch.nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, pulse.Slice]]:
    """This rank's shards in BF16, and which slices of the whole tensors they are."""
    weights, slices = {}, {}
    for name, tensor in model.state_dict().items():
        assert isinstance(tensor, DTensor)
        shape, start = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
        weights[name] = tensor.to_local().detach().bfloat16().contiguous()
        assert tuple(weights[name].shape) == tuple(shape)
        slices[name] = pulse.Slice(list(tensor.shape), list(start))
    return weights, slices


def gathered(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.full_tensor().bfloat16() for name, tensor in model.state_dict().items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()

    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    model = tiny.Transformer()
    # FSDP shards parameters one by one; a tied head would be one of two.
    model.head.weight = torch.nn.Parameter(model.head.weight.detach().clone())
    mesh = init_device_mesh("cpu", (ranks,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    base, slices = shards(model)
    receiver = gathered(model)
    for step in range(1, arguments.steps + 1):
        optimizer.zero_grad()
        tiny.loss(model, tiny.batch(ranks * step + rank)).backward()
        optimizer.step()
        target, slices = shards(model)
        part = pulse.diff(base, target, part_of=slices)
        base = target
        parts = [b""] * ranks
        dist.gather_object(bytes(part), parts if rank == 0 else None)
        whole = gathered(model)
        if rank == 0:
            arguments.folder.mkdir(parents=True, exist_ok=True)
            path = arguments.folder / f"{step}.pulse"
            patch = pulse.join(parts, out=path, base_step=step - 1, step=step)
            pulse.apply(receiver, patch)
            assert pulse.digest(receiver) == pulse.digest(whole) == patch.target
            sizes = " + ".join(f"{len(p):,}" for p in parts)
            print(
                f"step {step}: parts of {sizes} bytes joined to {len(patch):,}, proved: {patch.target[:16]}", flush=True
            )
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
