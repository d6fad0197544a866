"""The side of the trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pulse_codec import _pulse
from pulse_codec.errors import Fenced
from pulse_codec.shadow import on_host

if TYPE_CHECKING:
    from typing_extensions import Self

    from pulse_codec._pulse import EncoderOptions, Patch, Published, Record
    from pulse_codec.types import Alloc, Path, Progress, Tensors


class Fetched:
    """Where the base of the next patch comes from if nobody gives it: see `Publisher`."""

    def __repr__(self) -> str:
        return "fetched"


FETCHED: Final = Fetched()


class Publisher:
    """Publishes weights into a feed, version after version: `s3://bucket/run-7`, `gs://…`, `az://…`, or a directory.

    It is the only one that may: whoever starts after it fences it, and it raises `Fenced` at its next version. The feed
    is created if there is none; `key` is the file of a key that signs it, as `keygen` makes.

    A version is the patch from the one before, so the publisher keeps a copy of what it published last. Where there are
    versions already, the newest is fetched when the first patch is made, as a follower would. `base` are tensors by
    name that are that version, which saves fetching it; where they are not, and with `base=None`, the first version is
    an anchor: all of the weights. Another anchor is made when `anchor_every` versions have gone by, for those who join.

    Weights on a device are copied to the host first, if `alloc` says where, as `Shadow` does it.

    `patience` is how many seconds a version is tried while the store gives no clear answer. What fails, or is stopped,
    can be tried again: a version is there when its record is, and until then the next patch starts from what it did.
    `expires` is for how many seconds a publisher is taken to be alive after its last version; one that is idle calls
    `refresh` before a third of that has gone by.

    >>> import numpy, pulse_codec as pulse
    >>> weights = {"w": numpy.zeros(1000, "f4")}
    >>> with pulse.Publisher("feed") as publisher:
    ...     first = publisher.publish(weights, step=0)
    ...     weights["w"][7] = 1                       # an optimizer step
    ...     second = publisher.publish(weights, step=1)
    >>> first.is_anchor, second.is_anchor, second.version, second.changes
    (True, False, 1, 1)
    """

    def __init__(
        self,
        feed: str,
        *,
        key: Path | None = None,
        base: Tensors | Fetched | None = FETCHED,
        alloc: Alloc | None = None,
        anchor_every: int = 50,
        expires: float = 86400.0,
        patience: float = 300.0,
        options: EncoderOptions | None = None,
        threads: int = 0,
    ) -> None:
        fetch = isinstance(base, Fetched)
        self._fenced: Fenced | None = None
        self._on_host = on_host(alloc)
        self._publisher = _pulse.Publisher(
            feed,
            key=key,
            base=None if isinstance(base, Fetched) else self._on_host(base),
            fetch=fetch,
            anchor_every=anchor_every,
            expires=expires,
            patience=patience,
            options=options,
            threads=threads,
        )

    def publish(
        self, weights: Tensors | Patch, *, step: int | None = None, progress: Progress | None = None
    ) -> Published:
        """Publishes weights as the next version, or a patch that starts from the newest version: what `join` made of the
        parts of many ranks, or a snapshot, which becomes an anchor."""
        self._check()
        try:
            return self._publisher.publish(self._on_host(weights), step=step, progress=progress)
        except Fenced as fenced:
            self._fenced = fenced
            raise

    def claim(self) -> None:
        """Fences every publisher that was there before, without waiting for a version."""
        self._check()
        try:
            self._publisher.claim()
        except Fenced as fenced:
            self._fenced = fenced
            raise

    def end(self) -> None:
        """Ends the run: followers end when they have the last version."""
        self._check()
        try:
            self._publisher.end()
        except Fenced as fenced:
            self._fenced = fenced
            raise

    def refresh(self) -> None:
        """Says that the publisher is there although there is nothing new."""
        self._publisher.refresh()

    def hand_over(self, key: Path) -> None:
        """Hands the feed over to the key in this file: the next version is signed by both, all after it by the new one."""
        self._publisher.hand_over(key)

    @property
    def run(self) -> str:
        """The run of the feed: 32 hexadecimal digits."""
        return self._publisher.run

    @property
    def head(self) -> Record | None:
        """The newest version; None before the first."""
        return self._publisher.head

    def _cancel(self) -> None:
        """Stops a call that another thread waits for."""
        self._publisher.cancel()

    def close(self) -> None:
        """Gives up the copy and the connections. The run goes on: only `end` ends it."""
        self._publisher.close()

    def _check(self) -> None:
        if self._fenced is not None:
            raise self._fenced

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()
