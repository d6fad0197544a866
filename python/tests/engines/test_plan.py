"""Plans: what loaders of engines do, what is updated through a plan, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pulse_codec as pulse
from pulse_codec.plan import Plan, PlanError, views
from pulse_codec.replica import Replica, ReplicaError

Weights = dict[str, torch.Tensor]


class Engine(torch.nn.Module):
    """A layer of an engine, as one of two workers has it: fused, sharded by rows and by columns, padded, stacked."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank

        def parameter(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.nn.Parameter:
            return torch.nn.Parameter(torch.full(shape, 7, dtype=dtype), requires_grad=False)

        self.embed = parameter(8, 6)
        self.qkv = parameter(4 + 2 + 2, 6)
        self.out = parameter(6, 4)
        self.experts = parameter(3, 2 * 2, 6)
        self.transposed = parameter(6, 5)
        self.norm = parameter(6, dtype=torch.float32)
        self.scale = parameter(1, dtype=torch.float32)
        self.steps: torch.Tensor
        self.register_buffer("steps", torch.zeros(3, dtype=torch.int64))

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        for name, tensor in weights:
            rank = self.rank
            if name == "embed":
                # A vocabulary of 11, padded to 16: the second worker has 3 of its 8 rows.
                own = tensor.narrow(0, 8 * rank, min(8, 11 - 8 * rank))
                self.embed[: len(own)].data.copy_(own)
                self.embed[len(own) :].data.fill_(0)
            elif name in ("q", "k", "v"):
                start, size = {"q": (0, 4), "k": (4, 2), "v": (6, 2)}[name]
                self.qkv.data.narrow(0, start, size).copy_(tensor.narrow(0, size * rank, size))
            elif name == "out":
                # The copy that vLLM makes on its way to a GPU, in chunks.
                own = tensor.narrow(1, 4 * rank, 4).contiguous()
                for to, chunk in zip(self.out.data.chunk(3), own.chunk(3), strict=True):
                    to.copy_(chunk)
            elif name.startswith("expert"):
                expert, half = int(name[6]), name[8:] == "up"
                self.experts.data[expert, 2 * half : 2 * half + 2] = tensor[2 * rank : 2 * rank + 2]
            elif name == "transposed":
                self.transposed.data.copy_(tensor.t())
            elif name == "scale":
                self.scale.data.copy_(tensor.reshape(1))
            elif name == "head":
                pass  # tied to the embedding
            else:
                dict(self.named_parameters(), steps=self.steps)[name].data.copy_(tensor)


def checkpoint(seed: int = 0) -> Weights:
    torch.manual_seed(seed)

    def tensor(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.randn(shape).to(dtype)

    weights = {
        "embed": tensor(11, 6),
        "q": tensor(8, 6),
        "k": tensor(4, 6),
        "v": tensor(4, 6),
        "out": tensor(6, 8),
        "transposed": tensor(5, 6),
        "norm": tensor(6, dtype=torch.float32),
        "scale": tensor(dtype=torch.float32),
        "steps": torch.arange(3),
    }
    for expert in range(3):
        weights |= {f"expert{expert}.gate": tensor(4, 6), f"expert{expert}.up": tensor(4, 6)}
    return weights


def loaded(weights: Weights, rank: int = 0) -> Engine:
    model = Engine(rank)
    model.load_weights(weights.items())
    return model


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(bits(ours[name]), bits(theirs[name])) for name in ours)


@pytest.mark.parametrize("rank", [0, 1])
def test_recording_writes_nothing(rank: int) -> None:
    weights = checkpoint()
    model = loaded(weights, rank)
    plan = Plan(model, weights)
    assert same(model, loaded(weights, rank))
    plan.prove(weights)
    assert plan.unused == []


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 1), st.sampled_from([0.0, 0.03, 0.5, 1.0]), st.integers(0, 2**20))
def test_an_update_is_what_loading_the_target_is(rank: int, density: float, seed: int) -> None:
    base = checkpoint()
    random = torch.Generator().manual_seed(seed)
    target = {}
    for name, tensor in base.items():
        flat = tensor.clone().view(-1)
        # Any bits: NaNs, infinities and negative zeros too.
        any_bits = torch.randint(0, 256, (flat.numel() * flat.element_size(),), generator=random).to(torch.uint8)
        chosen = torch.rand(flat.shape, generator=random) < density
        flat[chosen] = any_bits.view(flat.dtype)[chosen]
        target[name] = flat.view(tensor.shape)
    model = loaded(base, rank)
    replica = Replica(model, {name: tensor.clone() for name, tensor in base.items()})
    replica.prepare(pulse.diff(base, target))
    assert same(model, loaded(base, rank))
    replica.commit()
    assert same(model, loaded(target, rank))
    assert pulse.digest(replica.weights) == pulse.digest(target)


def test_a_wrong_base_is_refused_and_changes_nothing() -> None:
    weights = checkpoint()
    model = loaded(weights)
    replica = Replica(model, dict(weights))
    with pytest.raises(pulse.BaseMismatch):
        replica.prepare(pulse.diff(checkpoint(1), checkpoint(2)))
    with pytest.raises(ReplicaError):
        replica.commit()
    assert same(model, loaded(checkpoint()))


def test_a_version_of_a_feed_is_fetched_and_prepared(tmp_path: Path) -> None:
    base, target = checkpoint(), checkpoint(1)
    model = loaded(base)
    feed = str(tmp_path / "feed")
    replica = Replica(model, {name: tensor.clone() for name, tensor in base.items()})
    with pulse.Publisher(feed) as publisher:
        publisher.publish(base, step=0)
        with pytest.raises(TimeoutError):
            replica.follow(feed, version=1, timeout=0.2)
        publisher.publish(target, step=1)
        publisher.publish(base, step=2)
    replica.follow(feed, version=1, timeout=60)
    replica.prove()
    assert replica.commit() > 0
    assert same(model, loaded(target))
    with pytest.raises(ReplicaError, match="served already"):
        replica.follow(feed, version=1, timeout=60)
    replica.follow(feed, timeout=60)
    replica.commit()
    assert same(model, loaded(base))


def test_a_fused_parameter_needs_all_of_its_tensors() -> None:
    weights = checkpoint()
    model = loaded(weights)
    del weights["k"]
    with pytest.raises(PlanError, match="12 of the 48 elements .* 'q', 'v'") as raised:
        Plan(model, weights)
    assert raised.value.parameter == "qkv"


def test_zeros_that_an_engine_adds_after_loading_are_padding() -> None:
    base = checkpoint()
    model = loaded(base)
    padded = torch.zeros(9, 8, dtype=torch.bfloat16)
    padded[:8, :6] = model.qkv
    model.qkv = torch.nn.Parameter(padded, requires_grad=False)

    def load(tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        for name, tensor in tensors:
            if name in ("q", "k", "v"):
                start, size = {"q": (0, 4), "k": (4, 2), "v": (6, 2)}[name]
                model.qkv.data[start : start + size, :6].copy_(tensor[:size])
            else:
                model.load_weights([(name, tensor)])

    replica = Replica(model, {name: tensor.clone() for name, tensor in base.items()}, load=load)
    target = {name: tensor * 2 for name, tensor in base.items()}
    replica.prepare(pulse.diff(base, target))
    replica.commit()
    assert torch.equal(model.qkv[4:6, :6], target["k"][:2])
    assert not model.qkv[8].any() and not model.qkv[:, 6:].any()
    model.qkv.data[8, 7] = 1
    with pytest.raises(PlanError, match="'qkv' open"):
        Plan(model, target, load=load)


def test_an_engine_that_repacks_in_the_same_shape_is_refused() -> None:
    weights = checkpoint()
    model = loaded(weights)
    model.qkv.data.copy_(model.qkv.data.flip(0))
    with pytest.raises(PlanError) as raised:
        Replica(model, weights)
    assert raised.value.parameter == "qkv"


def test_an_engine_that_repacks_in_another_shape_is_refused() -> None:
    weights = checkpoint()
    model = loaded(weights)
    model.out = torch.nn.Parameter(model.out.data.reshape(3, 8), requires_grad=False)
    with pytest.raises(PlanError, match="'out'") as raised:
        Replica(model, weights)
    assert raised.value.tensor == "out"


def test_an_engine_that_converts_is_refused() -> None:
    weights = checkpoint()
    model = loaded(weights)
    weights["norm"] = weights["norm"].bfloat16()
    with pytest.raises(PlanError, match="converts 'norm'"):
        Plan(model, weights)


class Handle:
    def __init__(self) -> None:
        self.pointer = torch.tensor(1)


@pytest.mark.parametrize(
    "beside",
    [
        lambda model: setattr(model, "absorbed", model.qkv.data.float()),
        lambda model: setattr(model, "linear", (lambda packed: lambda x: x @ packed)(model.qkv.data.clone())),
        lambda model: setattr(model, "linear", (lambda handle: lambda x: handle.pointer)(Handle())),
        lambda model: setattr(model, "kernel", SimpleNamespace(packed=torch.ones(9))),
    ],
)
def test_an_engine_that_computes_with_copies_is_refused(beside: Callable[[Engine], None]) -> None:
    weights = checkpoint()
    model = loaded(weights)
    beside(model)
    with pytest.raises(PlanError, match="beside the model's parameters"):
        Plan(model, weights)


def test_functions_that_hold_no_tensors_are_let_be() -> None:
    weights = checkpoint()
    model = loaded(weights)

    def made() -> Callable[[], object]:
        def function() -> object:
            return later, model

        if weights:
            # What it holds is not there yet.
            return function
        later: object = None
        return function

    model.function = made()  # type: ignore[assignment]
    model.linear = lambda x: x @ model.qkv  # type: ignore[assignment]
    Plan(model, weights).prove(weights)


def test_what_is_scratch_is_not_looked_at() -> None:
    weights = checkpoint()
    model = loaded(weights)
    model.cache = torch.ones(9)
    Plan(model, weights, scratch={"cache"})


@pytest.mark.parametrize(
    "loader",
    [
        lambda model, tensor: model.norm.data.copy_(tensor + 1),
        lambda model, tensor: model.norm.data.add_(tensor),
        lambda model, tensor: model.norm.data.fill_(tensor[0].item()),
        lambda model, tensor: model.norm.data.copy_(tensor[:1].expand(6)),
        lambda model, tensor: model.norm.data.index_put_((torch.arange(6),), tensor),
    ],
)
def test_loaders_that_compute_are_refused(loader: Callable[[Engine, torch.Tensor], object]) -> None:
    weights = checkpoint()
    model = loaded(weights)
    before = loaded(weights)

    def load(tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        for name, tensor in tensors:
            if name == "norm":
                loader(model, tensor)
            else:
                model.load_weights([(name, tensor)])

    with pytest.raises(PlanError) as raised:
        Plan(model, weights, load=load)
    assert raised.value.tensor == "norm"
    assert same(model, before)


def test_a_tied_tensor_changes_with_its_twin_or_not_at_all() -> None:
    base = checkpoint()
    base["head"] = base["embed"].clone()
    model = loaded(base)
    replica = Replica(model, {name: tensor.clone() for name, tensor in base.items()})
    assert replica.plan.unused == ["head"]
    both = dict(base)
    both["embed"] = base["embed"] * 2
    both["head"] = both["embed"].clone()
    replica.prepare(pulse.diff(base, both))
    replica.commit()
    assert same(model, loaded(both))
    for name in ("embed", "head"):
        one = dict(both)
        one[name] = both[name] * 2
        with pytest.raises(PlanError, match="'head' no longer has the weights of 'embed'"):
            replica.prepare(pulse.diff(both, one))
        assert same(model, loaded(both))


def test_a_tensor_that_the_model_passes_over_may_not_change() -> None:
    base = checkpoint()
    base["head"] = torch.ones(3)
    model = loaded(base)
    target = dict(base, head=torch.zeros(3))
    replica = Replica(model, dict(base))
    with pytest.raises(PlanError, match="'head' changes, but the model does not use it"):
        replica.prepare(pulse.diff(base, target))
    # A worker that holds only part of the checkpoint cannot know, and has nothing to do.
    replica = Replica(model, {name: tensor.clone() for name, tensor in base.items()}, partial=True)
    replica.prepare(pulse.diff(base, target))
    assert replica.commit() == 0


def test_weights_that_somebody_else_writes_are_found_afterwards() -> None:
    base = checkpoint()
    model = loaded(base)
    target = dict(base, norm=base["norm"] + 1)
    replica = Replica(model, dict(base))
    replica.prepare(pulse.diff(base, target))
    model.qkv.data[0, 0] = 3
    with pytest.raises(PlanError, match="written by somebody else"):
        replica.commit()
    with pytest.raises(ReplicaError, match="load the model again"):
        replica.prepare(pulse.diff(target, base))


def test_views_of_an_export_write_the_model() -> None:
    model = torch.nn.Module()
    model.fused = torch.nn.Parameter(torch.arange(24.0).view(2, 4, 3))

    def export(state: Weights) -> Weights:
        split: Weights = {}
        for half, chunk in zip(("gate", "up"), state["fused"].chunk(2, dim=1), strict=True):
            split |= {f"{n}.{half}": expert.squeeze() for n, expert in enumerate(chunk.contiguous().chunk(2))}
        return split | {"turned": state["fused"][0].t(), "sum": state["fused"].sum()}

    found = views(model, export)
    assert found["turned"] is None and found["sum"] is None
    values = export(model.state_dict())
    for name in ("0.gate", "0.up", "1.gate", "1.up"):
        view = found[name]
        assert view is not None and torch.equal(view, values[name])
        view.fill_(-1)
    assert (model.fused == -1).all()
