"""What the arguments of this package are, for type checkers."""

from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any, Literal, Protocol, TypeAlias
from uuid import UUID

Path: TypeAlias = str | PathLike[str]

Tensors: TypeAlias = Mapping[str, Any]
"""Tensors by name: each is one of PyTorch on the CPU, an array of NumPy, what exchanges its memory by DLPack, or a
`View`."""

Weights: TypeAlias = Tensors | Path
"""Tensors by name, or the path of a checkpoint."""

Run: TypeAlias = str | bytes | UUID
"""A training run: 32 hexadecimal digits, 16 bytes, or a UUID."""

Progress: TypeAlias = Callable[[int], object]
"""Told how many tensor bytes were done since the last call."""

Like: TypeAlias = Literal["torch", "numpy", "view"]
"""Whose tensors are made."""

Alloc: TypeAlias = Callable[[Any], Any]
"""Gives a tensor on the host for a tensor elsewhere."""

OnEvent: TypeAlias = Callable[[dict[str, Any]], object]
"""Told what a follower meets: a dict whose "event" is "waiting", "refused", "planned", "held", "expired" or "fresh"."""


class Publishes(Protocol):
    """Whatever takes the weights of a step, as `pulse_codec.Publisher` does."""

    def publish(self, weights: dict[str, Any], *, step: int) -> Any: ...
