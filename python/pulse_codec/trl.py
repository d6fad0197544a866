"""Patches from TRL's asynchronous trainers, in place of their transfer over NCCL.

Pass a `WeightTransfer` as ``weight_transfer`` to ``trl.experimental.async_grpo.AsyncGRPOTrainer``. At each sync it
publishes the weights; engines that follow the publisher update by themselves. Given ``engine``, a client of a vLLM
server that runs with `pulse_codec.vllm`, it also drives that server through the update.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from os import PathLike, fspath
from typing import Any, Protocol

import torch

from pulse_codec.host import HostCopy
from pulse_codec.installed import check_version
from pulse_codec.types import Publishes

__all__ = ["SUPPORTED", "WeightTransfer"]

#: Versions of TRL that this is written for: from the first to before the last.
SUPPORTED = ("1.0", "2.0")


check_version("TRL", SUPPORTED, "trl")


class _Engine(Protocol):
    """What is used of TRL's `VLLMClient`."""

    def wait_for_server_ready(self) -> None: ...
    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None: ...
    def start_weight_update(self) -> None: ...
    def update_weights(self, update_info: dict[str, Any]) -> None: ...
    def finish_weight_update(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


class WeightTransfer:
    """What TRL's ``WeightTransferProtocol`` asks for, with patches.

    ``publisher`` is anything with ``publish(weights, step=)``, such as `pulse_codec.Publisher`. ``dtype`` is what the
    weights are published in: TRL trains in FP32 unless told otherwise, and engines serve BF16.

    With ``engine``, ``serves`` is the checkpoint that the server has loaded, and ``patch`` returns the path of a
    published step's patch, on a file system that the server sees; None where nothing has changed since.
    """

    def __init__(
        self,
        publisher: Publishes,
        *,
        dtype: torch.dtype | None = torch.bfloat16,
        engine: _Engine | None = None,
        serves: str | PathLike[str] | None = None,
        patch: Callable[[int], str | PathLike[str] | None] | None = None,
    ) -> None:
        if (engine is None) != (serves is None) or (engine is None) != (patch is None):
            raise ValueError("engine, serves and patch go together")
        self._publisher = publisher
        # TRL gathers one tensor at a time and drops it.
        self._host = HostCopy(dtype=dtype, always=True)
        self._engine = engine
        self._serves = serves
        self._patch = patch
        #: How many times the weights have been published; the first is step 0, what training starts from.
        self.published = 0

    def init_weight_transfer(self) -> None:
        if self._engine is not None:
            assert self._serves is not None
            self._engine.wait_for_server_ready()
            self._engine.init_weight_transfer_engine({"weights": fspath(self._serves)})

    def pause(self) -> None:
        """Nothing yet: the engine goes on until a patch has been proved."""

    def send_weights(self, iterator: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Publishes the weights, and updates the engine if there is one."""
        step = self.published
        self._publisher.publish(self._host.take(iterator), step=step)
        self.published += 1
        path = self._patch(step) if self._patch is not None else None
        if self._engine is None or path is None:
            return
        self._engine.start_weight_update()
        self._engine.update_weights({"patch": fspath(path)})
        self._engine.pause()
        try:
            self._engine.finish_weight_update()
        finally:
            self._engine.resume()

    def resume(self) -> None:
        """Nothing: `send_weights` resumes what it has paused."""

    def destroy(self) -> None:
        """Nothing: who made the publisher closes it."""
