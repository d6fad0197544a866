"""One engine worker's weights: a host copy that patches are proved against, and the live parameters that follow it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed

import pulse_codec as pulse
from pulse_codec.plan import Plan, Staged

__all__ = ["Replica", "ReplicaError", "read_weights", "together"]

T = TypeVar("T")


class ReplicaError(pulse.Error):
    """The replica is not in a state for what was asked of it."""


class Replica:
    """The live parameters of one worker, kept equal to a host copy of the whole checkpoint.

    An update has two halves. `prepare` proves the patch on the host copy and takes the changes to the device while the
    engine goes on; what is wrong shows here, before anything has changed. `commit` writes the changes: that is the
    pause. Where several workers serve one model, do each half with `together`. The arguments are those of `Plan`.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        weights: dict[str, torch.Tensor],
        *,
        load: Callable[[Iterable[tuple[str, torch.Tensor]]], Any] | None = None,
        scratch: Collection[str] = (),
        partial: bool = False,
    ) -> None:
        #: The host copy. Nobody else writes to it.
        self.weights = weights
        self.plan = Plan(model, weights, load=load, scratch=scratch, partial=partial)
        self.plan.prove(weights)
        self._prepared: tuple[pulse.Prepared, Staged] | None = None
        self._broken: BaseException | None = None

    def prepare(self, patch: pulse.Patch | str | PathLike[str]) -> None:
        """Proves ``patch`` on the host copy, and takes its changes to the device. The engine is not touched."""
        self.discard()
        self._check_whole()
        if not isinstance(patch, pulse.Patch):
            patch = pulse.Patch.open(patch)
        prepared = patch.prepare(self.weights)
        self._prepared = prepared, self.plan.stage(prepared.sparse())

    def follow(
        self, feed: str, *, version: int | None = None, trust: str | None = None, timeout: float | None = None
    ) -> None:
        """Fetches a version of a feed, the newest if none is named, and prepares it as a patch is: by the cheapest way
        from what the host copy holds. Raises `TimeoutError` if it is not there within ``timeout`` seconds."""
        self.discard()
        self._check_whole()
        with pulse.Follower(feed, weights=self.weights, trust=trust, at=version) as follower:
            try:
                found = follower.next(timeout=timeout)
            except pulse.Ended as ended:
                raise ReplicaError("that version is served already") from ended
            if found is None:
                raise TimeoutError(f"{feed} has no newer version" if version is None else f"{feed}: version {version}")
            prepared = found.prepare()
        self._prepared = prepared, self.plan.stage(prepared.sparse())

    def _check_whole(self) -> None:
        if self._broken is not None:
            raise ReplicaError("an update failed while it was written: load the model again") from self._broken

    def commit(self, *, verify: bool = True) -> int:
        """Writes what was prepared, and returns how many elements of this worker changed. ``verify`` compares all live
        weights with the host copy afterwards."""
        if self._prepared is None:
            raise ReplicaError("no update is prepared")
        prepared, staged = self._prepared
        self._prepared = None
        try:
            staged.write()
            prepared.commit()
            if verify:
                self.prove()
        except BaseException as error:
            self._broken = error
            raise
        return staged.changes

    @property
    def ready(self) -> bool:
        """Whether an update is prepared."""
        return self._prepared is not None

    def discard(self) -> None:
        """Drops what was prepared and not committed."""
        self._prepared = None

    def prove(self) -> None:
        """Compares every bit of the live parameters with the host copy."""
        self.plan.prove(self.weights)


def together(action: Callable[[], T], groups: Iterable[torch.distributed.ProcessGroup]) -> T:
    """Does ``action`` on every worker; where one fails, all of them raise, so that none goes on alone. A worker is in
    each of ``groups`` (its row and its column), which together connect all."""
    failure: Exception | None = None
    try:
        result = action()
    except Exception as error:
        failure = error
    said = None if failure is None else f"{type(failure).__name__}: {failure}"
    for group in groups:
        others: list[str | None] = [None] * torch.distributed.get_world_size(group)
        torch.distributed.all_gather_object(others, said, group=group)
        said = said or next(filter(None, others), None)
    if failure is not None:
        raise failure
    if said is not None:
        raise ReplicaError(f"another worker has failed, so all stay as they are ({said})")
    return result


def read_weights(path: str | PathLike[str]) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint: a snapshot patch, a safetensors file, or a directory of them.

    Files are mapped privately: workers of one machine share the memory of what no update has changed.
    """
    from safetensors.torch import load_file

    path = Path(path)
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        if not files:
            raise FileNotFoundError(f"no safetensors file in {path}")
    elif path.suffix == ".safetensors":
        files = [path]
    else:
        loaded: dict[str, torch.Tensor] = pulse.load(path, like="torch")
        return loaded
    weights: dict[str, torch.Tensor] = {}
    for file in files:
        for name, tensor in load_file(file).items():
            if name in weights:
                raise ValueError(f"tensor {name!r} is in {path} twice")
            weights[name] = tensor
    return weights
