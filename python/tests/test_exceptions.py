"""The right exception with its fields, and weights untouched."""

from __future__ import annotations

import errno
import mmap
import pickle
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pulse_codec as pulse
import pytest
from conftest import HAS_TORCH, KINDS, all_raw, as_kind

BASE = np.arange(1000, dtype="f4")
TARGET = BASE + (np.arange(1000) % 100 == 0)


def patch() -> pulse.Patch:
    return pulse.diff({"w": BASE}, {"w": TARGET}, step=1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_base(kind: str) -> None:
    weights = {"w": as_kind(kind, BASE + 1)}
    start = all_raw(weights)
    with pytest.raises(pulse.BaseMismatch) as caught:
        pulse.apply(weights, patch())
    error = caught.value
    assert (error.kind, error.tensor, error.missing, error.extra, error.is_target) == ("base", "w", [], [], False)
    assert error.expected == pulse.digests({"w": BASE}).tensors["w"]
    assert error.found == pulse.digests(weights).tensors["w"]
    assert error.action == "use-its-base" and error.file is None and isinstance(error, pulse.Error)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), vars(again)) == (str(error), vars(error))
    assert all_raw(weights) == start


def test_wrong_names_and_shapes() -> None:
    every: list[dict[str, Any]] = [{"v": BASE.copy()}, {"w": BASE.reshape(10, 100).copy()}, {}]
    for weights in every:
        start = all_raw(weights)
        with pytest.raises((pulse.BaseMismatch, pulse.NotInPlace)):
            pulse.apply(weights, patch())
        assert all_raw(weights) == start
    with pytest.raises(pulse.BaseMismatch) as caught:
        pulse.apply({"w": BASE.copy(), "more": BASE.copy()}, patch())
    assert caught.value.tensors == (1, 2)


def test_weights_written_between_prepare_and_commit_are_found() -> None:
    weights = {"w": BASE.copy()}
    prepared = patch().prepare(weights)
    weights["w"][5] = -1
    with pytest.raises(pulse.TargetMismatch) as caught:
        prepared.commit(verify=True)
    assert caught.value.tensor == "w"
    with pytest.raises(ValueError, match="was committed"):
        prepared.commit()
    with pytest.raises(ValueError, match="was committed"):
        prepared.sparse()


def test_damage_is_found_where_it_is(tmp_path: Path) -> None:
    damaged = bytearray(bytes(patch()))
    damaged[len(damaged) // 2] ^= 1
    with pytest.raises(pulse.Corrupt) as caught:
        pulse.Patch.from_bytes(damaged)
    assert 0 < caught.value.offset <= len(damaged) and caught.value.kind in ("crc", "file-digest")
    place = tmp_path / "damaged.pulse"
    place.write_bytes(b"<!DOCTYPE html><title>Sign in</title>")
    weights = {"w": BASE.copy()}
    with pytest.raises(pulse.Corrupt) as caught:
        pulse.apply(weights, place)
    assert (caught.value.content, caught.value.file) == ("html", str(place))
    assert np.array_equal(weights["w"], BASE)


def test_limits() -> None:
    with pytest.raises(pulse.LimitExceeded) as caught:
        pulse.Patch.from_bytes(patch(), limits={"target_bytes": 100})
    error = caught.value
    assert (error.limit, error.asked, error.allowed) == ("target_bytes", 4000, 100)
    with pytest.raises(ValueError, match="there is no limit 'size'"):
        pulse.Patch.from_bytes(patch(), limits={"size": 1})


def test_a_broken_chain_and_a_missing_base() -> None:
    other = pulse.diff({"w": TARGET + 1}, {"w": BASE})
    with pytest.raises(pulse.BrokenChain) as caught:
        pulse.apply({"w": BASE.copy()}, [patch(), other])
    assert caught.value.found == patch().target and caught.value.expected == other.base
    with pytest.raises(pulse.NeedsBase):
        pulse.load(patch())


def test_files_are_os_errors(tmp_path: Path) -> None:
    missing = tmp_path / "missing.pulse"
    with pytest.raises(FileNotFoundError) as caught:
        pulse.Patch.open(missing)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, str(missing))
    with pytest.raises(OSError):
        patch().write(tmp_path / "no" / "such" / "directory")
    place = tmp_path / "taken.pulse"
    place.write_bytes(b"")
    with pytest.raises(pulse.Exists) as taken:
        pulse.diff({"w": BASE}, {"w": TARGET}, out=place)
    assert taken.value.file == str(place) and place.read_bytes() == b""


def test_misuse_is_value_error_or_type_error() -> None:
    weights = {"w": BASE}
    for wrong in [5, [BASE], {"w": [1.0]}, {1: BASE}, {"w": None}]:
        with pytest.raises(TypeError):
            pulse.digest(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        pulse.apply({"w": BASE.copy()}, 5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="contiguous"):
        pulse.digest({"w": BASE.reshape(10, 100).T})
    with pytest.raises(TypeError, match="byte order"):
        pulse.digest({"w": BASE.astype(">f4")})
    with pytest.raises(TypeError, match="none of safetensors"):
        pulse.digest({"w": np.array(["text"])})
    for options in [{"coding": "flatt"}, {"values": "steps"}, {"coding": "contextual", "values": "xor"}]:
        with pytest.raises(ValueError):
            pulse.EncoderOptions(**options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="run"):
        pulse.diff(weights, weights, run="abc")
    with pytest.raises(ValueError):
        pulse.diff(weights, weights, part_of={"w": pulse.Slice((10,), 0)})
    with pytest.raises(ValueError, match="where to"):
        pulse.apply("step_40.safetensors", patch())
    with pytest.raises(ValueError, match="changed where they are"):
        pulse.apply(weights, patch(), out="step_41.safetensors")


def test_read_only_memory_is_refused_where_it_is_written() -> None:
    frozen = BASE.copy()
    frozen.flags.writeable = False
    pulse.digest({"w": frozen})
    with pytest.raises(ValueError, match="tensor 'w' is read-only"):
        pulse.apply({"w": frozen}, patch())
    with pytest.raises(ValueError, match="tensor 'w' is read-only"):
        patch().prepare({"w": pulse.View(BASE.tobytes(), "F32", [1000])})


def test_arrays_that_moved_since_prepare_are_refused() -> None:
    array = BASE.copy()
    prepared = patch().prepare({"w": array})
    array.resize(1, refcheck=False)
    with pytest.raises(ValueError, match="prepare it again"):
        prepared.commit()


def test_closed_buffers_are_refused_and_lent_ones_stay_open() -> None:
    memory = mmap.mmap(-1, 4000)
    view = pulse.View(memory, "F32", [1000])
    with pytest.raises(BufferError):
        memory.close()
    view.close()
    memory.close()
    with pytest.raises(ValueError, match="is closed"):
        pulse.digest({"w": view})
    with pytest.raises(ValueError):
        pulse.View(memory, "F32", [1000])
    with pytest.raises(ValueError, match="4000 bytes"):
        pulse.View(bytes(4000), "F32", [999])
    # What is prepared keeps it.
    held = bytearray(BASE.tobytes())
    view = pulse.View(held, "F32", [1000])
    prepared = patch().prepare({"w": view})
    view.close()
    with pytest.raises(BufferError):
        held.extend(b"x")
    prepared.commit()
    assert bytes(held) == TARGET.tobytes()


if HAS_TORCH:
    import torch

    @pytest.mark.parametrize(
        ("tensor", "advice"),
        [
            (torch.empty(3, device="meta"), "no data"),
            (torch.zeros(3, 2).T, r"tensor\.contiguous\(\)"),
            (torch.zeros(3).to_sparse(), r"to_dense\(\)"),
            (torch.zeros(3, dtype=torch.complex64).conj(), r"resolve_conj\(\)"),
            (torch.zeros(3, dtype=torch.complex64).conj().imag, "tensor"),
            (torch.zeros(3, dtype=torch.complex128), "none of safetensors"),
        ],
    )
    def test_tensors_without_plain_bytes(tensor: Any, advice: str) -> None:
        with pytest.raises(TypeError, match=advice):
            pulse.digest({"w": tensor})

    def test_freed_storage_is_refused() -> None:
        tensor = torch.zeros(1000)
        tensor.untyped_storage().resize_(0)
        with pytest.raises(TypeError, match="no storage"):
            pulse.digest({"w": tensor})

    def test_tensors_that_moved_since_prepare_are_refused() -> None:
        tensor = torch.from_numpy(BASE.copy())
        prepared = patch().prepare({"w": tensor})
        held, tensor.data = tensor.data, torch.zeros(1000)
        for refused in (prepared.commit, lambda: list(prepared.sparse())):
            with pytest.raises(ValueError, match="prepare it again"):
                refused()
        assert not tensor.any() and np.array_equal(held.numpy(), BASE)
        tensor.data = held
        prepared.commit()
        assert np.array_equal(held.numpy(), TARGET)

        tensor = torch.tensor(BASE)
        prepared = patch().prepare({"w": tensor})
        tensor.untyped_storage().resize_(0)
        with pytest.raises(ValueError, match="prepare it again"):
            prepared.commit()

    def test_a_device_that_is_not_the_host_is_named() -> None:
        class OnDevice(torch.Tensor):
            device = torch.device("cuda:1")

        tensor = torch.zeros(3).as_subclass(OnDevice)
        with pytest.raises(TypeError, match=r"on cuda:1.*tensor\.cpu\(\)"):
            pulse.digest({"w": tensor})

    def test_a_module_is_no_mapping() -> None:
        with pytest.raises(TypeError, match=r"state_dict\(\)"):
            pulse.digest(torch.nn.Linear(2, 2))  # type: ignore[arg-type]


def test_a_traceback_ends_with_what_to_do() -> None:
    with pytest.raises(pulse.NoFeed) as caught:
        pulse.Follower("nowhere")
    assert caught.value.advice and caught.value.__notes__ == [caught.value.advice]


def test_weights_in_the_place_of_a_patch_are_not_taken_for_paths() -> None:
    weights: Any = {"w": np.zeros(4, "f4")}
    patch: Any = pulse.diff(weights, weights)
    for given in [(weights, weights), (weights, MappingProxyType(weights)), (patch, weights)]:
        with pytest.raises(TypeError):
            pulse.apply(*given)
