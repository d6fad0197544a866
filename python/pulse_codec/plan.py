"""Where an engine keeps each part of a checkpoint.

An inference engine does not keep a checkpoint as it is: it fuses ``q_proj``, ``k_proj`` and ``v_proj`` into one
parameter, keeps a shard of each on every device, pads vocabularies, stacks experts. Its own ``load_weights`` knows how.
A `Plan` is recorded by calling it once with tensors that have a shape and no values, while every write to the model is
watched and none is made. From then on, changes of the checkpoint go straight to the elements they concern, and the live
weights can be compared with the checkpoint bit by bit.

What a plan cannot describe it refuses when it is recorded or first proved: loaders that compute, engines that repack or
convert their weights, parameters that a checkpoint covers only in part.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from types import FunctionType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import pulse_codec as pulse

__all__ = ["Part", "Plan", "PlanError", "Staged", "views"]

aten = torch.ops.aten

#: The integers that stand for elements of so many bytes: bits are compared and written, never numbers, so that NaNs and
#: negative zeros are what they are.
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class PlanError(pulse.Error):
    """The engine does not keep the checkpoint in a way that can be updated in place and proved.

    Some of the fields may be unknown.
    """

    tensor: str | None
    """A name in the checkpoint."""
    parameter: str | None
    """A name in the model."""

    def __init__(self, message: str, *, tensor: str | None = None, parameter: str | None = None) -> None:
        super().__init__(message, kind="plan", tensor=tensor, parameter=parameter)


@dataclass(frozen=True)
class _Strided:
    """Elements of a flat array: an offset, and a size and step for each dimension."""

    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @staticmethod
    def of(tensor: torch.Tensor) -> _Strided:
        return _Strided(int(tensor.storage_offset()), tuple(tensor.shape), tuple(tensor.stride()))

    def within(self, outer: _Strided, inner: _Strided) -> _Strided | None:
        """Where these elements of a copy are in what was copied: ``outer`` is the layout of what was copied and
        ``inner`` that of the copy. None where no steps describe it."""
        dims = sorted(
            (d for d in zip(inner.strides, inner.shape, outer.strides, strict=True) if d[1] > 1), reverse=True
        )

        def split(distance: int) -> list[int]:
            counts = []
            for step, _, _ in dims:
                count, distance = divmod(distance, step)
                counts.append(count)
            return counts

        at = split(self.offset - inner.offset)
        offset = outer.offset + sum(n * d[2] for n, d in zip(at, dims, strict=True))
        strides = []
        for size, stride in zip(self.shape, self.strides, strict=True):
            if size <= 1:
                strides.append(0)
                continue
            steps = split(stride)
            moved = [k for k, n in enumerate(steps) if n]
            if len(moved) != 1:
                return None
            k = moved[0]
            at[k] += (size - 1) * steps[k]
            if at[k] >= dims[k][1]:
                return None
            strides.append(steps[k] * dims[k][2])
        return _Strided(offset, self.shape, tuple(strides))


class Part:
    """Part of a checkpoint tensor, and the elements of a live parameter that hold it."""

    def __init__(self, tensor: str, parameter: str, live: torch.Tensor, source: _Strided) -> None:
        #: The name of the checkpoint tensor, and that of the parameter.
        self.tensor, self.parameter = tensor, parameter
        #: The elements of the parameter, as integers.
        self.live = live
        #: All of the parameter's storage, as integers in one dimension.
        self.flat = live.as_strided((live.untyped_storage().nbytes() // live.element_size(),), (1,), 0)
        self.source = source
        # Dimensions from the longest step to the shortest, merged where they are one run in both.
        dims: list[tuple[int, int, int]] = []
        for step, size, to in sorted(
            (d for d in zip(source.strides, source.shape, live.stride(), strict=True) if d[1] > 1), reverse=True
        ):
            if dims and dims[-1][0] == step * size and dims[-1][2] == to * size:
                _, outer, _ = dims.pop()
                size *= outer
            dims.append((step, size, to))
        reach = 0
        for step, size, _ in reversed(dims):
            if step <= reach:
                raise PlanError(
                    f"the loader repeats elements of {tensor!r} in parameter {parameter!r}",
                    tensor=tensor,
                    parameter=parameter,
                )
            reach += (size - 1) * step
        self._dims = dims
        self._first, self._last = source.offset, source.offset + reach

    @property
    def elements(self) -> int:
        return self.live.numel()

    def locate(self, indices: torch.Tensor) -> tuple[slice, torch.Tensor | None, torch.Tensor]:
        """Which of ``indices``, ascending flat positions in the checkpoint tensor, are in this part, and where in
        ``flat``: a range of them, a mask on it if not all of the range is, and the positions."""
        bounds = torch.tensor([self._first, self._last + 1], dtype=indices.dtype, device=indices.device)
        low, high = torch.searchsorted(indices, bounds).tolist()
        rest = indices[low:high].long() - self._first
        position = torch.full_like(rest, int(self.live.storage_offset()))
        inside: torch.Tensor | None = None
        whole = self._last - self._first + 1 == self.elements
        for step, size, to in self._dims:
            # A single run is the usual case, and needs no division.
            count = rest if step == 1 else torch.div(rest, step, rounding_mode="floor")
            rest = torch.zeros_like(rest) if step == 1 else rest - count * step
            position.add_(count, alpha=to)
            if not whole:
                fits = count < size
                inside = fits if inside is None else inside & fits
        if not whole:
            fits = rest == 0
            inside = fits if inside is None else inside & fits
            position = position[inside]
        return slice(low, high), inside, position

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether the parameter has the bits that ``tensor``, the whole checkpoint tensor, has for it."""
        return torch.equal(self.live, self.of(_bits(tensor)).to(self.live.device))

    def of(self, bits: torch.Tensor) -> torch.Tensor:
        """This part of the whole checkpoint tensor, whose elements are given as integers."""
        start = int(bits.storage_offset()) + self.source.offset
        return bits.as_strided(self.source.shape, self.source.strides, start)


class Staged:
    """Changes that are where they will be written: on the device, with their positions. `write` is all that is left."""

    def __init__(self) -> None:
        self._writes: list[tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]] = []
        #: How many elements `write` writes on this worker.
        self.changes = 0

    def add(self, to: torch.Tensor, positions: torch.Tensor | None, values: torch.Tensor) -> None:
        if values.numel():
            self._writes.append((to, positions, values))
            self.changes += values.numel()

    @torch.inference_mode()
    def write(self) -> None:
        """Writes the changes to the live parameters."""
        for to, positions, values in self._writes:
            if positions is None:
                to.copy_(values)
            else:
                to.index_copy_(0, positions, values)


class Plan:
    """Where a model keeps each part of a checkpoint.

    ``weights`` gives the names, shapes and dtypes of the checkpoint; the model's ``load_weights`` tells the rest.
    ``scratch`` names attributes that modules keep beside their parameters and that are not made from weights (a KV
    cache); any other tensor found there is refused, because nobody would update it. ``partial`` says that the model
    holds only part of the checkpoint (pipeline stages, expert parallelism).

    >>> import torch
    >>> class Fused(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.kv = torch.nn.Parameter(torch.zeros(4, 3), requires_grad=False)
    ...     def load_weights(self, weights):
    ...         for name, tensor in weights:
    ...             row = {"k": 0, "v": 2}[name]
    ...             self.kv.data[row : row + 2].copy_(tensor)
    >>> checkpoint = {"k": torch.ones(2, 3), "v": torch.full((2, 3), 2.0)}
    >>> model = Fused()
    >>> model.load_weights(checkpoint.items())
    >>> plan = Plan(model, checkpoint)
    >>> plan.prove(checkpoint)
    >>> checkpoint["v"][1, 2] = 5
    >>> plan.stage([("v", torch.tensor([5]), torch.tensor([5.0]))]).write()
    >>> model.kv[3].tolist()
    [2.0, 2.0, 5.0]
    >>> plan.prove(checkpoint)
    """

    def __init__(
        self,
        model: torch.nn.Module,
        weights: Mapping[str, torch.Tensor],
        *,
        load: Callable[[Iterable[tuple[str, torch.Tensor]]], Any] | None = None,
        scratch: Collection[str] = (),
        partial: bool = False,
    ) -> None:
        self.partial = partial
        #: The parts of each tensor of the checkpoint.
        self.parts: dict[str, list[Part]] = {name: [] for name in weights}
        self._live = {
            name: tensor
            for name, tensor in [*model.named_parameters(), *model.named_buffers()]
            if tensor.numel() and not tensor.is_meta
        }
        self._addresses = {name: tensor.data_ptr() for name, tensor in self._live.items()}
        recorder = _Recorder(self, weights)
        load = load or getattr(model, "load_weights", None)
        if load is None:
            raise TypeError(f"{type(model).__name__} has no load_weights: pass load=")
        try:
            with torch.no_grad(), recorder:
                load(recorder.tensors())
        except PlanError:
            raise
        except Exception as error:
            at = recorder.current
            raise PlanError(
                f"{type(model).__name__}.load_weights does not take {at!r} once the model is in use"
                f" ({type(error).__name__}: {error}): the engine keeps it in a form of its own",
                tensor=at,
            ) from error
        self._check_coverage(dict(model.named_parameters()), recorder.constants)
        self._check_beside(model, scratch)
        self._aliases = {} if partial else self._find_aliases(weights)

    def _check_coverage(self, parameters: Mapping[str, torch.Tensor], constants: list[torch.Tensor]) -> None:
        """Every element of every parameter comes from the checkpoint, or is padding."""
        regions: dict[int, list[torch.Tensor]] = {}
        sources: dict[int, list[str]] = {}
        for name, parts in self.parts.items():
            for part in parts:
                storage = part.live.untyped_storage()._cdata
                regions.setdefault(storage, []).append(part.live)
                sources.setdefault(storage, []).append(name)
        for region in constants:
            regions.setdefault(region.untyped_storage()._cdata, []).append(region)
        for name, parameter in parameters.items():
            if not parameter.numel() or parameter.is_meta:
                continue
            storage = parameter.untyped_storage()._cdata
            covered = torch.zeros(parameter.untyped_storage().nbytes() // parameter.element_size(), dtype=torch.bool)
            for region in regions.get(storage, ()):
                covered.as_strided(region.shape, region.stride(), region.storage_offset()).fill_(True)
            own = covered.as_strided(parameter.shape, parameter.stride(), parameter.storage_offset())
            if own.all():
                continue
            # Engines pad with zeros, also after their loaders have run.
            left = own.logical_not_()
            if _bits(parameter.detach())[left.to(parameter.device)].any():
                missing = int(left.sum())
                have = ", ".join(map(repr, sources.get(storage, ()))) or "nothing"
                raise PlanError(
                    f"the checkpoint leaves {missing:,} of the {parameter.numel():,} elements of parameter {name!r}"
                    f" open: it gives {have}; a fused parameter needs all of its tensors",
                    parameter=name,
                )

    def _check_beside(self, model: torch.nn.Module, scratch: Collection[str]) -> None:
        """A module may compute with more than its parameters and buffers: with packed or derived copies of them, in
        attributes, in objects it has made for a kernel, or in functions that close over them. Nobody would update
        those, and the parameters would prove nothing."""
        known = {tensor.untyped_storage()._cdata for tensor in self._live.values()}

        def copies(value: object) -> bool:
            return (
                isinstance(value, torch.Tensor)
                and value.numel() > 1
                and value.is_floating_point()
                and value.untyped_storage()._cdata not in known
            )

        for prefix, module in model.named_modules():
            for name, value in vars(module).items():
                if name in scratch:
                    continue
                if isinstance(value, FunctionType):
                    cells = _closed_over(value)
                    # A handle of a packed copy that lives outside of Python is an object with a number.
                    found = any(
                        copies(cell) or any(isinstance(v, torch.Tensor) for v in getattr(cell, "__dict__", {}).values())
                        for cell in cells
                        if not isinstance(cell, torch.nn.Module)
                    )
                elif isinstance(value, torch.Tensor):
                    found = copies(value)
                elif not isinstance(value, type | torch.nn.Module):
                    found = any(copies(held) for held in getattr(value, "__dict__", {}).values())
                else:
                    continue
                if found:
                    path = f"{prefix}.{name}" if prefix else name
                    raise PlanError(
                        f"the engine computes with {path!r}, which holds tensors beside the model's parameters: if they"
                        " are packed or made from weights, an update in place leaves them stale",
                        parameter=path,
                    )

    def _find_aliases(self, weights: Mapping[str, torch.Tensor]) -> dict[str, str]:
        """Tensors that the model passes over because another has the same weights (tied embeddings)."""
        aliases = {}
        for name in self.unused:
            tensor = weights[name]
            for other, parts in self.parts.items():
                twin = weights[other]
                if parts and twin.shape == tensor.shape and twin.dtype == tensor.dtype and _same(tensor, twin):
                    aliases[name] = other
                    break
        return aliases

    @property
    def unused(self) -> list[str]:
        """The tensors of the checkpoint that have no part in this model."""
        return [name for name, parts in self.parts.items() if not parts]

    def stage(self, changes: Iterable[tuple[str, torch.Tensor | None, torch.Tensor]]) -> Staged:
        """Finds where changes go, as `Prepared.sparse` gives them: for each tensor its name, ascending flat positions
        and their new values, or None and the whole tensor. The model is not touched."""
        staged = Staged()
        # What the model passes over, and what that is tied to.
        passed: dict[str, tuple[torch.Tensor | None, torch.Tensor]] = {}
        twins = set(self._aliases.values())
        for name, indices, values in changes:
            parts = self.parts.get(name)
            if parts is None:
                raise PlanError(f"tensor {name!r} is not in the checkpoint that the plan was made for", tensor=name)
            if (not parts and not self.partial) or name in twins:
                passed[name] = (indices, values)
            bits = _bits(values)
            for part in parts:
                if indices is None:
                    staged.add(part.live, None, part.of(bits).to(part.live.device, copy=True))
                    continue
                found, inside, positions = part.locate(indices)
                chosen = bits[found] if inside is None else bits[found][inside]
                staged.add(part.flat, positions.to(part.flat.device), chosen.to(part.flat.device, copy=True))
        self._check_passed(passed)
        return staged

    def _check_passed(self, passed: Mapping[str, tuple[torch.Tensor | None, torch.Tensor]]) -> None:
        """A tensor that the model passes over may change only as the one does that it is tied to."""
        for name in [n for n in passed if not self.parts[n]] + list(self._aliases):
            twin = self._aliases.get(name)
            if twin is None:
                raise PlanError(f"tensor {name!r} changes, but the model does not use it", tensor=name)
            here, there = passed.get(name), passed.get(twin)
            if here is there is None:
                continue
            if (
                here is None
                or there is None
                or (here[0] is None) != (there[0] is None)
                or (here[0] is not None and there[0] is not None and not torch.equal(here[0], there[0]))
                or not _same(here[1], there[1])
            ):
                raise PlanError(
                    f"tensor {name!r} no longer has the weights of {twin!r}, which the model uses for both", tensor=name
                )

    def prove(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Compares every bit of the live parameters with ``weights``; a difference is a `PlanError` that names it."""
        for name, tensor in self._live.items():
            if tensor.data_ptr() != self._addresses[name]:
                raise PlanError(f"the engine has moved parameter {name!r} since the plan was made", parameter=name)
        for name, parts in self.parts.items():
            for part in parts:
                if not part.holds(weights[name]):
                    raise PlanError(
                        f"parameter {part.parameter!r} does not hold the weights of {name!r}: they were written by"
                        " somebody else, or the engine repacks them",
                        tensor=name,
                        parameter=part.parameter,
                    )


class _Tracer(TorchDispatchMode):
    """Follows tensors that have a shape and no values through views and copies."""

    def __init__(self) -> None:
        super().__init__()
        # What is followed, by its storage: its name, and for a copy the layouts of what was copied and of the copy.
        self._traced: dict[int, tuple[str, _Strided | None, _Strided | None]] = {}
        # A storage's address is its name only while it lives.
        self._kept: list[torch.Tensor] = []

    def trace(self, name: str, like: torch.Tensor) -> torch.Tensor:
        """A tensor like ``like`` that is followed under ``name``."""
        empty = torch.empty(like.shape, dtype=like.dtype, device="meta")
        self._remember(empty, name, None, None)
        return empty

    def _remember(self, tensor: torch.Tensor, name: str, outer: _Strided | None, inner: _Strided | None) -> None:
        self._kept.append(tensor)
        self._traced[tensor.untyped_storage()._cdata] = (name, outer, inner)

    def origin(self, tensor: torch.Tensor) -> tuple[str, _Strided] | None:
        """What ``tensor`` shows part of, and which part; None if it was computed."""
        found = self._traced.get(tensor.untyped_storage()._cdata)
        if found is None:
            return None
        name, outer, inner = found
        here: _Strided | None = _Strided.of(tensor)
        if here is not None and outer is not None and inner is not None:
            here = here.within(outer, inner)
        return None if here is None else (name, here)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (aten.clone.default, aten._to_copy.default) and kwargs.get("dtype") in (None, args[0].dtype):
            source = self.origin(args[0])
            if source is not None:
                # In another order or on another device: still the same elements.
                strides = _copy_strides(args[0], kwargs.get("memory_format"))
                copy = torch.empty_strided(args[0].shape, strides, dtype=args[0].dtype, device="meta")
                self._remember(copy, *source, _Strided.of(copy))
                return copy
        return func(*args, **kwargs)


class _Recorder(_Tracer):
    """Watches a model's loader: notes what it would write to the model, and writes nothing."""

    def __init__(self, plan: Plan, weights: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.current: str | None = None
        #: Parameters, or parts of them, that are filled with a constant: padding.
        self.constants: list[torch.Tensor] = []
        self._plan = plan
        self._weights = weights
        self._live = {tensor.untyped_storage()._cdata: name for name, tensor in reversed(plan._live.items())}

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The checkpoint as the loader gets it."""
        for name, tensor in self._weights.items():
            self.current = name
            yield name, self.trace(name, tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write and isinstance(value, torch.Tensor):
                parameter = self._live.get(value.untyped_storage()._cdata)
                if parameter is not None:
                    self._write(func, parameter, value, args)
                    return value
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _write(self, func: Any, parameter: str, to: torch.Tensor, args: Any) -> None:
        value: object = args[1] if len(args) > 1 else 0
        if func in (aten.fill_.Scalar, aten.fill_.Tensor, aten.zero_.default, aten.copy_.default) and (
            not isinstance(value, torch.Tensor) or (value.numel() == 1 and not value.is_meta)
        ):
            self.constants.append(to.detach())
            return
        origin = self.origin(value) if func is aten.copy_.default and isinstance(value, torch.Tensor) else None
        if origin is None or not isinstance(value, torch.Tensor):
            raise PlanError(
                f"the loader computes what it writes to parameter {parameter!r} from {self.current!r} ({func})",
                tensor=self.current,
                parameter=parameter,
            )
        name, part = origin
        if value.dtype != to.dtype:
            raise PlanError(
                f"the engine converts {name!r} from {value.dtype} to {to.dtype}: publish it as it is served",
                tensor=name,
                parameter=parameter,
            )
        # As broadcasting does it: dimensions of one element come and go in front.
        extra = len(to.shape) - len(part.shape)
        if extra >= 0:
            part = _Strided(part.offset, (1,) * extra + part.shape, (0,) * extra + part.strides)
        else:
            part = _Strided(part.offset, part.shape[-extra:], part.strides[-extra:])
        if value.numel() != to.numel() or part.shape != tuple(to.shape):
            raise PlanError(
                f"the loader spreads {name!r} over parameter {parameter!r}", tensor=name, parameter=parameter
            )
        if to.numel():
            self._plan.parts[name].append(Part(name, parameter, _bits(to.detach()), part))


def views(
    model: torch.nn.Module,
    export: Callable[[dict[str, torch.Tensor]], Mapping[str, torch.Tensor]],
) -> dict[str, torch.Tensor | None]:
    """The tensors that ``export`` makes of the model's ``state_dict``, as views of the model's own memory; None for
    one that is no contiguous part of a parameter.

    >>> import torch
    >>> model = torch.nn.Linear(2, 4)
    >>> halves = views(model, lambda state: {"a": state["weight"][:2].contiguous(), "b": state["weight"][2:].clone()})
    >>> _ = halves["b"].fill_(7)
    >>> model.weight[2].tolist()
    [7.0, 7.0]
    """
    state = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, torch.Tensor)}
    tracer = _Tracer()
    # Tied tensors are traced as the one they are.
    empty: dict[tuple[int, int, tuple[int, ...]], torch.Tensor] = {}
    with torch.no_grad(), tracer:
        traced = {
            name: empty.setdefault(_identity(tensor), tracer.trace(name, tensor)) for name, tensor in state.items()
        }
        exported = export(traced)
        origins = {name: tracer.origin(tensor) for name, tensor in exported.items()}
    found: dict[str, torch.Tensor | None] = {}
    for name, origin in origins.items():
        found[name] = None
        if origin is not None and state[origin[0]].is_contiguous():
            live = state[origin[0]].detach()
            part = origin[1]
            view = live.as_strided(part.shape, part.strides, live.storage_offset() + part.offset)
            if view.is_contiguous():
                found[name] = view
    return found


def _identity(tensor: torch.Tensor) -> tuple[int, int, tuple[int, ...]]:
    return tensor.untyped_storage()._cdata, int(tensor.storage_offset()), tuple(tensor.shape)


def _closed_over(function: FunctionType) -> list[object]:
    """What a function holds of where it was made."""
    held = []
    for cell in function.__closure__ or ():
        try:
            held.append(cell.cell_contents)
        except ValueError:
            # Not assigned yet.
            continue
    return held


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(_BITS[tensor.element_size()])


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.equal(_bits(one), _bits(other))


def _copy_strides(tensor: torch.Tensor, memory_format: torch.memory_format | None) -> tuple[int, ...]:
    """The steps that a copy has: those of what is copied if it is dense, else row by row."""
    if memory_format in (None, torch.preserve_format):
        reach = 1
        for stride, size in sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1):
            if stride != reach:
                break
            reach *= size
        else:
            return tuple(tensor.stride())
    return tuple(prod(tensor.shape[k + 1 :]) for k in range(tensor.ndim))
