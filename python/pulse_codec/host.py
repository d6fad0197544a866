"""A trainer's weights in host memory, where patches are made."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

__all__ = ["HostCopy"]


class HostCopy:
    """Host memory that takes a copy of a model's weights at each step, and is allocated once.

    Tensors that already are in host memory in the right form are lent instead, unless ``always`` says that they do not
    outlive the call. ``dtype`` is what floating-point tensors are converted to: a trainer with masters in FP32
    publishes BF16, which is what engines serve and what changes little from step to step. ``alloc`` is called for a
    tensor that needs a copy, once, and gives the memory for it, of its dtype and shape; without it, copies of what is
    on a device are in pinned memory. What is no tensor of PyTorch is lent as it is.

    >>> import torch
    >>> host = HostCopy(dtype=torch.bfloat16)
    >>> weights = host.take([("w", torch.ones(2)), ("steps", torch.tensor(3))])
    >>> weights["w"].dtype, weights["steps"].dtype
    (torch.bfloat16, torch.int64)
    >>> host.take([("w", torch.zeros(2))])["w"] is weights["w"]
    True
    """

    def __init__(
        self,
        *,
        dtype: torch.dtype | None = None,
        always: bool = False,
        alloc: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        if dtype is not None and alloc is not None:
            raise ValueError("dtype= and alloc= exclude each other: memory that alloc gives has the tensor's own dtype")
        self._alloc = alloc
        self._dtype = dtype
        self._always = always
        self._buffers: dict[str, torch.Tensor] = {}

    def take(self, weights: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        """The weights in host memory. The next call overwrites them."""
        taken: dict[str, Any] = {}
        devices: set[torch.device] = set()
        for name, tensor in weights:
            if not isinstance(tensor, torch.Tensor):
                taken[name] = tensor
                continue
            tensor = tensor.detach()
            dtype = self._dtype if self._dtype is not None and tensor.is_floating_point() else tensor.dtype
            on_device = tensor.device.type != "cpu"
            if not (self._always or on_device) and tensor.dtype == dtype and tensor.is_contiguous():
                taken[name] = tensor
                continue
            buffer = self._buffers.get(name)
            if buffer is None or buffer.shape != tensor.shape or buffer.dtype != dtype:
                if self._alloc is not None:
                    buffer = self._alloc(tensor)
                else:
                    # Memory that is pinned is written by the device itself, several times as fast.
                    buffer = torch.empty(tensor.shape, dtype=dtype, pin_memory=on_device)
                self._buffers[name] = buffer
            buffer.copy_(tensor, non_blocking=on_device)
            if on_device:
                devices.add(tensor.device)
            taken[name] = buffer
        for device in devices:
            torch.get_device_module(device).synchronize(device)
        return taken
