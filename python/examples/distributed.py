"""Trains with FSDP: each rank makes a part of the patch from its own shards, and the parts are joined and published.

    torchrun --nproc-per-node 2 distributed.py FEED

No rank ever holds the whole model. The first one checks what it publishes against the gathered weights, which a real
run would not do.
"""

from __future__ import annotations

import argparse

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
    parser.add_argument("feed")
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

    publisher = pulse.Publisher(arguments.feed) if rank == 0 else None
    follower = None
    base = None
    for step in range(arguments.steps + 1):
        if step:
            optimizer.zero_grad()
            tiny.loss(model, tiny.batch(ranks * step + rank)).backward()
            optimizer.step()
        target, slices = shards(model)
        # The first version is an anchor: its parts start from nothing.
        part = pulse.diff(base, target, part_of=slices)
        base = target
        parts = [b""] * ranks
        dist.gather_object(bytes(part), parts if rank == 0 else None)
        whole = gathered(model)  # to show that it is right; a trainer that is not an example never has it
        if publisher:
            patch = pulse.join(parts, base_step=step - 1 if step else None, step=step)
            published = publisher.publish(patch, step=step)
            if follower is None:
                follower = pulse.Follower(arguments.feed)
            version = follower.next()
            assert version
            if step:
                version.commit()
            else:
                receiver = version.load()
            assert pulse.digest(receiver) == pulse.digest(whole) == published.digest
            sizes = " + ".join(f"{len(p):,}" for p in parts)
            print(
                f"step {step}: parts of {sizes} bytes joined to {published.bytes:,}, proved: {published.digest[:16]}",
                flush=True,
            )
    if publisher:
        publisher.end()
    dist.barrier()
    # Whoever joins now has the last version. No rank leaves right after a collective: gloo's threads let go of tensors a
    # moment later, and if the interpreter is ending by then, they abort it.
    version = pulse.Follower(arguments.feed).next()
    assert version and pulse.digest(version.load()) == pulse.digest(whole)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
