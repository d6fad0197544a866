"""The side of whoever runs the model."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from pulse_codec import _pulse
from pulse_codec.errors import BaseMismatch, Busy, Ended, Error, NotInPlace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Self

    from pulse_codec._pulse import Record, Version
    from pulse_codec.types import OnEvent, Path, Progress, Tensors


class Follower:
    """Follows a feed: iterates over its versions as they appear, each fetched, made beside the weights that are in use,
    and proved. `commit` then writes what changes, in an instant; nothing is left that could fail.

    `weights` are tensors by name that are changed. They may hold any version, or none: what they hold is found out by
    their digest, and the cheapest way from there is taken, patches, skips, or an anchor. Without weights, the first
    version is loaded into new memory: `version.load()`, and those are followed into from then on.

    Iteration waits for the next version, and ends with the run, or with version `at` if that is asked for. A version
    that was not committed is looked for again, or a newer one. What passes, such as a store that does not answer or
    data that is damaged, is waited for, and another way is taken; `on_event` is told, with a dict, on another thread.
    What does not pass is raised.

    `trust` is the public key of the publisher: without it the store is trusted. `state` is a file that remembers what
    was served, so that a feed that was rolled back or rewritten is refused after a restart. `poll` and `poll_max` are
    the shortest and the longest time between two looks in seconds, `spool` a directory for data that is too large for
    memory, `limits` those of `Patch.open`.

    >>> import numpy, pulse_codec as pulse
    >>> with pulse.Publisher("feed") as publisher:
    ...     for step in range(3):
    ...         _ = publisher.publish({"w": numpy.full(4, step, "f4")}, step=step)
    ...     publisher.end()
    >>> weights = {"w": numpy.zeros(4, "f4")}
    >>> for version in pulse.Follower("feed", weights=weights):
    ...     print(version.step, version.commit().target == version.digest)
    2 True
    >>> weights["w"]
    array([2., 2., 2., 2.], dtype=float32)
    """

    def __init__(
        self,
        feed: str,
        *,
        weights: Tensors | None = None,
        trust: str | None = None,
        state: Path | None = None,
        at: int | None = None,
        poll: float = 0.1,
        poll_max: float = 10.0,
        spool: Path | None = None,
        limits: Mapping[str, int] | None = None,
        threads: int = 0,
        on_event: OnEvent | None = None,
    ) -> None:
        self._poll = poll
        self._on_event = on_event
        self._follower = _pulse.Follower(
            feed,
            weights=weights,
            trust=trust,
            state=state,
            at=at,
            poll=poll,
            poll_max=max(poll, poll_max),
            spool=spool,
            limits=limits,
            threads=threads,
            on_event=on_event,
        )

    def next(self, *, timeout: float | None = None, progress: Progress | None = None) -> Version | None:
        """The next version, ready to be committed; None when `timeout` seconds have gone by. Raises `Ended` when the last
        one is held."""
        until = None if timeout is None else time.monotonic() + timeout
        retried = False
        while True:
            left = None if until is None else max(0.0, until - time.monotonic())
            version = self._follower.next(timeout=left, progress=progress)
            if version is None or self._follower.weights is None:
                return version
            try:
                version.prepare(progress=progress)
            except (Busy, NotInPlace):
                # These weights are at fault, or who reads them.
                raise
            except BaseMismatch:
                # Somebody wrote to the weights since they were looked at; they are looked at again, once.
                if retried or version.is_whole:
                    raise
                retried = True
            except Error as error:
                # The follower takes another way.
                if self._on_event is not None:
                    self._on_event({"event": "refused", "error": error, "pause": self._poll})
                time.sleep(self._poll if left is None else min(self._poll, left))
            else:
                return version

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Version:
        try:
            version = self.next()
        except Ended:
            raise StopIteration from None
        assert version is not None, "there is no timeout"
        return version

    @property
    def weights(self) -> Tensors | None:
        """The weights that are followed into; None before the first version was loaded."""
        weights: Any = self._follower.weights
        return weights  # type: ignore[no-any-return]

    @property
    def head(self) -> Record | None:
        """The newest version that is known."""
        return self._follower.head

    @property
    def key(self) -> str | None:
        """The key that signs the feed; None if it is unsigned, and as trustworthy as its store."""
        return self._follower.key

    def _cancel(self) -> None:
        """Stops a call that another thread waits for."""
        self._follower.cancel()

    def close(self) -> None:
        """Gives up the connections. Weights and versions stay."""
        self._follower.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()
