"""A trainer's copy of what it published last."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pulse_codec import _pulse

if TYPE_CHECKING:
    from collections.abc import Callable

    from pulse_codec._pulse import Digests, EncoderOptions, Patch
    from pulse_codec.types import Alloc, Path, Progress, Run, Weights


class Shadow:
    """The weights that a trainer published last, on the host, with their digests: each version is hashed once in its
    life, and nobody has to keep account of what the next patch starts from.

    `diff` makes the patch to new weights. When it is published, `advance` makes the shadow what receivers now have; a
    patch that was not published is dropped, and the next one starts from the same base.

    Weights on a device are copied to the host first, if `alloc` says where: it is called once for each tensor that does
    not lend its bytes, on a device or not contiguous, and gives a tensor on the CPU, of the same dtype and shape, to
    copy it to at each step. `pinned` gives pinned memory.

    >>> import numpy, pulse_codec as pulse
    >>> weights = {"w": numpy.zeros(1000, numpy.float32)}
    >>> shadow = pulse.Shadow(weights)
    >>> anchor = shadow.snapshot(step=0)
    >>> weights["w"][7] = 1
    >>> patch = shadow.diff(weights, step=1)
    >>> shadow.advance(patch)                  # once it is published
    >>> shadow.digests.checkpoint == pulse.digest(weights)
    True
    """

    def __init__(
        self,
        weights: Weights,
        *,
        alloc: Alloc | None = None,
        threads: int = 0,
        progress: Progress | None = None,
    ) -> None:
        self._on_host = on_host(alloc)
        self._made: tuple[Patch, _pulse.Unpublished] | None = None
        self._shadow = _pulse.Shadow(self._on_host(weights), threads=threads, progress=progress)

    @property
    def digests(self) -> Digests:
        """The digests of the weights that it holds."""
        return self._shadow.digests

    def diff(
        self,
        target: Weights,
        *,
        step: int | None = None,
        base_step: int | None = None,
        run: Run | None = None,
        options: EncoderOptions | None = None,
        threads: int = 0,
        progress: Progress | None = None,
    ) -> Patch:
        """Makes the patch that turns the weights that it holds into `target`, which may change as soon as it is made."""
        made = self._shadow.diff(
            self._on_host(target),
            step=step,
            base_step=base_step,
            run=run,
            options=options,
            threads=threads,
            progress=progress,
        )
        self._made = made
        return made[0]

    def snapshot(
        self,
        *,
        out: Path | None = None,
        replace: bool = False,
        step: int | None = None,
        run: Run | None = None,
        options: EncoderOptions | None = None,
        threads: int = 0,
        progress: Progress | None = None,
    ) -> Patch:
        """Makes a snapshot of the weights that it holds."""
        return self._shadow.snapshot(
            out=out, replace=replace, step=step, run=run, options=options, threads=threads, progress=progress
        )

    def advance(self, patch: Patch, *, threads: int = 0) -> None:
        """Makes the weights that it holds the target of the patch, the last one that `diff` made."""
        if self._made is None or self._made[0] is not patch:
            raise ValueError("the patch is not the last one that this shadow made; make it again")
        self._shadow.advance(self._made[1], threads=threads)
        self._made = None


def on_host(alloc: Alloc | None) -> Callable[[Any], Any]:
    """What copies weights to the host where they do not lend their bytes, if `alloc` says where."""
    if alloc is None:
        return lambda weights: weights
    # PyTorch is needed by nobody else.
    from pulse_codec.host import HostCopy

    host = HostCopy(alloc=alloc)
    return lambda weights: host.take(weights.items()) if hasattr(weights, "items") else weights


def pinned(tensor: Any) -> Any:
    """Pinned memory of the host for a tensor on a device: what `Shadow(…, alloc=pulse.pinned)` copies it to."""
    import torch

    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=torch.cuda.is_available())
