"""Whatever the weights are, a receiver gets them bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pulse_codec as pulse
import pytest
from conftest import DTYPES, HAS_TORCH, KINDS, all_raw, as_kind
from hypothesis import given, settings
from hypothesis import strategies as st

SHAPES = st.lists(st.integers(0, 9), max_size=3).map(tuple)


@st.composite
def pairs(draw: st.DrawFn) -> dict[str, tuple[Any, Any]]:
    """Tensors before and after: any bits, so NaN payloads, -0.0 and subnormals as well."""
    found: dict[str, tuple[Any, Any]] = {}
    for name in draw(st.lists(st.text(max_size=5), min_size=1, max_size=4, unique=True)):
        dtype, shape = DTYPES[draw(st.sampled_from(sorted(DTYPES)))], draw(SHAPES)
        size = int(np.prod(shape, dtype=int)) * dtype.itemsize
        top = 1 if dtype == np.bool_ else 255
        byte = st.integers(0, top)
        before = bytearray(draw(st.lists(byte, min_size=size, max_size=size)))
        after = before.copy()
        for at in draw(st.lists(st.integers(0, size - 1), max_size=5)) if size else []:
            after[at] = draw(byte)
        found[name] = (np.frombuffer(bytes(before), dtype).reshape(shape), np.frombuffer(bytes(after), dtype).reshape(shape))
    return found


@settings(deadline=None, max_examples=150)
@given(pairs=pairs(), kind=st.sampled_from(KINDS), coding=st.sampled_from(["contextual", "flat"]), threads=st.integers(1, 3))
def test_any_weights(pairs: dict[str, tuple[Any, Any]], kind: Any, coding: Any, threads: int) -> None:
    base = {name: as_kind(kind, before) for name, (before, _) in pairs.items()}
    target = {name: as_kind(kind, after) for name, (_, after) in pairs.items()}
    wanted, start = all_raw(target), all_raw(base)
    options = pulse.EncoderOptions(coding=coding)
    patch = pulse.diff(base, target, options=options, threads=threads)
    assert (all_raw(base), all_raw(target)) == (start, wanted), "diff only reads"

    # What is listed, applied by hand, is the target.
    prepared = patch.prepare(base)
    assert all_raw(base) == start, "prepare only reads"
    by_hand = {name: bytearray(data) for name, data in start.items()}
    for name, indices, values in prepared.sparse(like="numpy"):
        width = values.dtype.itemsize
        flat = range(len(by_hand[name]) // width) if indices is None else indices.tolist()
        for index, value in zip(flat, values, strict=True):
            by_hand[name][index * width : (index + 1) * width] = value.tobytes()
    assert by_hand == wanted
    assert prepared.commit(verify=True).target == pulse.digest(target) == patch.target
    assert all_raw(base) == wanted

    # A snapshot, into new memory and into that which is there.
    anchor = pulse.snapshot(target, options=options)
    assert all_raw(pulse.load(anchor, like=kind)) == wanted
    memory = {name: as_kind(kind, np.zeros_like(after)) for name, (_, after) in pairs.items()}
    assert pulse.load(anchor, into=memory) is memory
    assert all_raw(memory) == wanted


@pytest.mark.parametrize("kind", KINDS)
def test_new_tensors_are_of_the_dtype_and_shape_of_the_old_ones(kind: Any) -> None:
    weights = {name: as_kind(kind, np.zeros((2, 3), dtype)) for name, dtype in DTYPES.items()}
    found = pulse.load(pulse.snapshot(weights), like=kind)
    facts = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in weights.items()}
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in found.items()} == facts
    for tensor in found.values():
        tensor[0, 0] = 1  # it can be written to


@pytest.mark.parametrize("kind", KINDS)
def test_several_patches_are_applied_in_one_pass(kind: Any) -> None:
    versions = [{"w": as_kind(kind, np.arange(step, step + 9, dtype="f4"))} for step in range(4)]
    patches = [pulse.diff(a, b) for a, b in zip(versions, versions[1:], strict=False)]
    weights = {"w": as_kind(kind, np.arange(9, dtype="f4"))}
    pulse.apply(weights, [patches[0], bytes(patches[1]), memoryview(bytes(patches[2]))])
    assert all_raw(weights) == all_raw(versions[3])
    late = pulse.load([pulse.snapshot(versions[1]), *patches[1:]], like=kind)
    assert all_raw(late) == all_raw(versions[3])


def test_views_are_tensors_of_any_memory() -> None:
    memory, wanted = bytearray(range(6)), bytes(range(1, 7))
    view = pulse.View(memory, "BF16", [3])
    with pulse.View(wanted, "BF16", [3]) as target:
        patch = pulse.diff({"w": view}, {"w": target})
    pulse.apply({"w": view}, patch)
    assert bytes(memory) == wanted and (view.dtype, view.shape, view.nbytes) == ("BF16", (3,), 6)
    assert view.memory.tobytes() == wanted


def test_trusted_digests_make_the_same_patch() -> None:
    versions = [{"w": np.full(9, step, "f4"), "v": np.zeros(3)} for step in range(3)]
    first = pulse.diff(versions[0], versions[1])
    plain = pulse.diff(versions[1], versions[2])
    every: list[pulse.Patch | pulse.Digests] = [first, first.digests, pulse.digests(versions[1])]
    for trusted in every:
        again = pulse.diff(versions[1], versions[2], trusted=trusted)
        assert (again.base, again.target) == (plain.base, plain.target)


def test_slices_of_ranks_are_joined() -> None:
    base, target = np.zeros((4, 5), "f4"), np.eye(4, 5, dtype="f4")
    parts = [
        pulse.diff(
            {"w": base[rank:][:2]},
            {"w": target[rank:][:2]},
            part_of={"w": pulse.Slice((4, 5), (rank,))},
        )
        for rank in (0, 2)
    ]
    every: list[list[Any]] = [parts, [bytes(part) for part in parts]]
    for these in every:
        patch = pulse.join(these, step=1)
        weights = {"w": base.copy()}
        pulse.apply(weights, patch)
        assert np.array_equal(weights["w"], target) and patch.step == 1
    with pytest.raises(pulse.BadPart):
        pulse.join(parts[:1])


def test_patches_travel_by_pickle_and_by_file(tmp_path: Any) -> None:
    import pickle

    base, target = {"w": np.zeros(9, "f4")}, {"w": np.arange(9, dtype="f4")}
    patch = pulse.diff(base, target, step=3, run="ab" * 16, options=pulse.EncoderOptions(metadata={"a": "b"}))
    for again in [pickle.loads(pickle.dumps(patch)), pulse.Patch.from_bytes(patch)]:
        assert bytes(again) == bytes(patch) and (again.step, again.run) == (3, "ab" * 16)
        assert again.metadata == {"a": "b"}
    place = tmp_path / "3.pulse"
    patch.write(place)
    with pytest.raises(pulse.Exists):
        patch.write(place)
    patch.write(place, replace=True)
    opened = pulse.Patch.open(place)
    assert len(opened) == len(patch) and bytes(opened) == bytes(patch) and opened.path == str(place)
    with pytest.raises(BufferError, match="is a file"):
        memoryview(opened)
    assert pulse.diff(base, target, out=tmp_path / "4.pulse").target == patch.target


if HAS_TORCH:
    import torch

    def test_tied_tensors_stay_tied() -> None:
        base = {"embed": torch.zeros(5, 4), "head": torch.zeros(0)}
        base["head"] = base["embed"]
        after = torch.zeros(5, 4)
        after[2, 3] = 1
        target = {"embed": after, "head": after}
        patch = pulse.diff(base, target)
        pulse.apply(base, patch)
        assert torch.equal(base["embed"], after) and base["head"].data_ptr() == base["embed"].data_ptr()
        # A patch that makes them different is refused, and so are tensors that overlap by half.
        apart = pulse.diff(target, {"embed": after, "head": after + 1})
        with pytest.raises(pulse.NotInPlace, match="have one memory"):
            pulse.apply(base, apart)
        memory = torch.zeros(6)
        halves = {"a": memory[:4], "b": memory[2:]}
        with pytest.raises(ValueError, match="overlap"):
            pulse.apply(halves, pulse.diff(halves, {"a": torch.ones(4), "b": torch.ones(4)}))
        assert torch.equal(base["embed"], after) and not memory.any()

    def test_a_module_is_updated_where_it_is() -> None:
        torch.manual_seed(0)
        trainer, receiver = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
        receiver.load_state_dict(trainer.state_dict())
        shadow = pulse.Shadow(trainer.state_dict())
        optimizer = torch.optim.AdamW(trainer.parameters(), lr=0.1)
        x = torch.ones(2, 4)
        for step in range(3):
            trainer(x).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            patch = shadow.diff(trainer.state_dict(), step=step)
            pulse.apply(receiver.state_dict(), patch)
            shadow.advance(patch)
            assert torch.equal(receiver(x), trainer(x))

    def test_autograd_notices_an_update() -> None:
        weight = torch.ones(3, requires_grad=True)
        loss = (weight * weight).sum()
        pulse.apply({"w": weight}, pulse.diff({"w": weight}, {"w": torch.zeros(3)}))
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()

    def test_a_publisher_copies_what_lends_no_bytes(tmp_path: Path) -> None:
        wide = torch.zeros(3, 4).T
        with pulse.Publisher(str(tmp_path / "feed"), alloc=pulse.pinned) as publisher:
            for step in range(2):
                wide[0, step] = 1
                published = publisher.publish({"w": wide}, step=step)
                assert published.digest == pulse.digest({"w": wide.contiguous()})
            assert not published.is_anchor

    def test_a_shadow_copies_what_lends_no_bytes() -> None:
        made: list[torch.Tensor] = []

        def alloc(tensor: torch.Tensor) -> torch.Tensor:
            copy: torch.Tensor = pulse.pinned(tensor)
            made.append(copy)
            return copy

        wide = torch.zeros(3, 4).T
        with pytest.raises(TypeError, match="not contiguous"):
            pulse.Shadow({"w": wide})
        shadow = pulse.Shadow({"w": wide}, alloc=alloc)
        for step in range(2):
            wide[0, step] = 1
            patch = shadow.diff({"w": wide}, step=step)
            shadow.advance(patch)
        assert len(made) == 1 and shadow.digests.checkpoint == pulse.digest({"w": wide.contiguous()})
        with pytest.raises(ValueError, match="not the last one"):
            shadow.advance(patch)

    def test_dlpack_is_a_tensor() -> None:
        class Foreign:
            def __init__(self, tensor: torch.Tensor) -> None:
                self.tensor = tensor

            def __dlpack__(self, **options: Any) -> Any:
                return self.tensor.__dlpack__(**options)

            def __dlpack_device__(self) -> Any:
                return self.tensor.__dlpack_device__()

        tensor = torch.arange(3).bfloat16()
        assert pulse.digest({"w": Foreign(tensor)}) == pulse.digest({"w": tensor})
        pulse.apply({"w": Foreign(tensor)}, pulse.diff({"w": tensor}, {"w": torch.ones(3).bfloat16()}))
        assert torch.equal(tensor, torch.ones(3).bfloat16())
