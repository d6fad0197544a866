"""Patches for a running SGLang, as a custom weight loader.

Written against the sources of SGLang and not yet run on a device: SGLang needs CUDA even to be installed.

Start the server with ``--custom-weight-loader pulse_codec.sglang.load``. An update is what `command` returns, sent
within a session; with `Engine` in process:

.. code-block:: python

    engine.begin_weight_update()
    engine.update_weights_from_tensor(command(weights="step_40/", patch="41.pulse", report="41.json"),
                                      load_format="pulse_codec.sglang.load")
    engine.end_weight_update()

The first command names the checkpoint the engine serves; later ones need only a patch. Over HTTP, send
``/begin_weight_update``, then ``/update_weights_from_tensor`` with a serialized copy of the command for each rank
(``sglang.srt.utils.MultiprocessingSerializer``), then ``/end_weight_update``.

SGLang ends the whole server when a loader raises. With ``report=``, a patch that is refused leaves the old weights in
place and says so in that file instead.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Sequence
from typing import TypedDict
from weakref import WeakKeyDictionary

import torch
import torch.distributed

from pulse_codec.installed import check_version
from pulse_codec.replica import Replica, ReplicaError, read_weights, together

__all__ = ["SUPPORTED", "command", "load"]

#: Versions of SGLang that this is written for: from the first to before the last.
SUPPORTED = ("0.5.20", "0.6")

logger = logging.getLogger("sglang.pulse")

_replicas: WeakKeyDictionary[torch.nn.Module, Replica] = WeakKeyDictionary()


class _Command(TypedDict):
    weights: str | None
    patch: str | None
    verify: bool
    report: str | None


def command(
    *,
    weights: str | os.PathLike[str] | None = None,
    patch: str | os.PathLike[str] | None = None,
    verify: bool = True,
    report: str | os.PathLike[str] | None = None,
) -> list[tuple[str, torch.Tensor]]:
    """The named tensors that tell `load` what to do: SGLang passes nothing else to a custom loader.

    >>> [(name, tensor)] = command(patch="41.pulse")
    >>> name, tensor.dtype
    ('pulse', torch.uint8)
    """
    if weights is None and patch is None:
        raise ValueError("neither weights nor a patch")

    def text(path: str | os.PathLike[str] | None) -> str | None:
        return None if path is None else os.path.abspath(path)

    said = _Command(weights=text(weights), patch=text(patch), verify=verify, report=text(report))
    return [("pulse", torch.frombuffer(bytearray(json.dumps(said).encode()), dtype=torch.uint8))]


def load(model: torch.nn.Module, named_tensors: Sequence[tuple[str, torch.Tensor]]) -> None:
    """Does what a `command` says, in each worker of SGLang."""
    check_version("SGLang", SUPPORTED, "sglang")
    if len(named_tensors) != 1 or named_tensors[0][0] != "pulse":
        raise ValueError("this loader takes what pulse_codec.sglang.command returns, not tensors of weights")
    said: _Command = json.loads(named_tensors[0][1].cpu().numpy().tobytes())
    groups, first, partial = _workers()
    try:
        if said["weights"] is not None:
            path = said["weights"]
            _replicas[model] = together(lambda: Replica(model, read_weights(path), partial=partial), groups)
        replica = _replicas.get(model)
        if replica is None:
            raise ReplicaError("the first command names the weights that are served")
        if said["patch"] is not None:
            patch = said["patch"]
            together(lambda: replica.prepare(patch), groups)
    except Exception as error:
        # Nothing has been written.
        if said["report"] is None:
            raise
        logger.error("pulse: refused, the weights are unchanged: %s", error)
        if first:
            _write(said["report"], {"ok": False, "kind": type(error).__name__, "error": str(error)})
        return
    changes = replica.commit(verify=said["verify"]) if said["patch"] is not None else 0
    if said["report"] is not None and first:
        _write(said["report"], {"ok": True, "changes": changes})


def _write(path: str, report: dict[str, object]) -> None:
    """Writes a report that nobody sees by halves."""
    with open(path + ".tmp", "w") as file:
        json.dump(report, file)
    os.replace(path + ".tmp", path)


def _workers() -> tuple[Iterable[torch.distributed.ProcessGroup], bool, bool]:
    """The groups that connect the workers of this model, whether this one speaks for them, and whether each of them
    holds only part of the checkpoint."""
    from sglang.srt.distributed.parallel_state import get_pp_group, get_tp_group
    from sglang.srt.runtime_context import get_parallel

    rows = [group for group in (get_tp_group(), get_pp_group()) if group.world_size > 1]
    first = all(group.rank_in_group == 0 for group in rows)
    partial = get_pp_group().world_size > 1 or getattr(get_parallel(), "moe_ep_size", 1) > 1
    return [group.cpu_group for group in rows], first, partial
