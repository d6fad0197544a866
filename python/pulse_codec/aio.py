"""Publishers and followers for asyncio: the same names, to be awaited.

    >>> import asyncio, numpy, pulse_codec as pulse
    >>> async def main():
    ...     async with pulse.aio.Publisher("feed") as publisher:
    ...         await publisher.publish({"w": numpy.ones(3, "f4")}, step=0)
    ...         await publisher.end()
    ...     weights = {"w": numpy.zeros(3, "f4")}
    ...     async for version in pulse.aio.Follower("feed", weights=weights):
    ...         await version.commit()
    ...     return weights["w"]
    >>> asyncio.run(main())
    array([1., 1., 1.], dtype=float32)

A task that is cancelled stops what it waits for; a commit that has begun is finished first.
"""

from __future__ import annotations

import asyncio
import functools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from pulse_codec import follower, publisher
from pulse_codec.errors import Ended

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

    from pulse_codec._pulse import Applied, Patch, Prepared, Published, Record
    from pulse_codec._pulse import Version as _Version
    from pulse_codec.types import Like, Path, Progress, Tensors

_T = TypeVar("_T")


class _Blocking(Protocol):
    """What publishers and followers have in common."""

    def _cancel(self) -> None: ...
    def close(self) -> None: ...


_O = TypeVar("_O", bound=_Blocking)


class _Object(Generic[_O]):
    """Something that waits on a thread of its own, where it is opened by the first call."""

    def __init__(self, open_it: Callable[[], _O]) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pulse")
        self._open_it = open_it
        self._made: _O | None = None

    def _cancel(self) -> None:
        if self._made is not None:
            self._made._cancel()

    def _opened(self) -> _O:
        if self._made is None:
            self._made = self._open_it()
        return self._made

    async def close(self) -> None:
        """Gives up the connections, and the copy that a publisher has."""
        if self._made is not None:
            await self._call(self._made.close)
        self._thread.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        await self._call(self._opened)
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.close()

    async def _call(self, work: Callable[..., _T], *words: Any, **named: Any) -> _T:
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._thread, functools.partial(work, *words, **named))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            while not future.done():
                # Said again until it is heard: the work may not have begun yet.
                self._cancel()
                await asyncio.wait([future], timeout=0.02)
            # What it was stopped with is nobody's business.
            future.exception()
            raise


class Publisher(_Object[publisher.Publisher]):
    """`pulse_codec.Publisher`, to be awaited. It joins the feed at the first call, or by `async with`."""

    def __init__(self, feed: str, **options: Any) -> None:
        super().__init__(functools.partial(publisher.Publisher, feed, **options))

    async def publish(
        self, weights: Tensors | Patch, *, step: int | None = None, progress: Progress | None = None
    ) -> Published:
        """As `pulse_codec.Publisher.publish`. Leave the weights alone until it is done."""
        return await self._call(lambda: self._opened().publish(weights, step=step, progress=progress))

    async def claim(self) -> None:
        """Fences every publisher that was there before, without waiting for a version."""
        await self._call(lambda: self._opened().claim())

    async def end(self) -> None:
        """Ends the run."""
        await self._call(lambda: self._opened().end())

    async def refresh(self) -> None:
        """Says that the publisher is there although there is nothing new."""
        await self._call(lambda: self._opened().refresh())

    async def hand_over(self, key: Path) -> None:
        """Hands the feed over to the key in this file."""
        await self._call(lambda: self._opened().hand_over(key))

    async def run(self) -> str:
        """The run of the feed."""
        return await self._call(lambda: self._opened().run)

    async def head(self) -> Record | None:
        """The newest version; None before the first."""
        return await self._call(lambda: self._opened().head)


class Version:
    """A version of `pulse_codec.Follower`, to be awaited."""

    def __init__(self, owner: Follower, version: _Version) -> None:
        self._owner, self._version = owner, version

    @property
    def version(self) -> int:
        """Its number."""
        return self._version.version

    @property
    def digest(self) -> str:
        """Digest of its weights."""
        return self._version.digest

    @property
    def step(self) -> int | None:
        """Optimizer step, if it is known."""
        return self._version.step

    @property
    def bytes(self) -> int:
        """Bytes that were fetched for it."""
        return self._version.bytes

    @property
    def seconds(self) -> float:
        """Seconds that they took to arrive."""
        return self._version.seconds

    @property
    def is_whole(self) -> bool:
        """Whether it starts from an anchor rather than from the weights that are held."""
        return self._version.is_whole

    async def prepare(self, *, progress: Progress | None = None) -> Prepared:
        """Makes it beside the weights that are in use: done already, where there are weights."""
        return await self._owner._call(self._version.prepare, progress=progress)

    async def commit(self, *, verify: bool = False) -> Applied:
        """Writes it to the weights."""
        return await self._owner._call(self._version.commit, verify=verify)

    async def load(self, *, like: Like | None = None, progress: Progress | None = None) -> dict[str, Any]:
        """Makes it in new memory, where the follower has no weights yet."""
        return await self._owner._call(self._version.load, like=like, progress=progress)


class Follower(_Object[follower.Follower]):
    """`pulse_codec.Follower`, for `async for`."""

    def __init__(self, feed: str, **options: Any) -> None:
        super().__init__(functools.partial(follower.Follower, feed, **options))

    async def next(self, *, timeout: float | None = None, progress: Progress | None = None) -> Version | None:
        """The next version, ready to be committed; None when `timeout` seconds have gone by."""
        version = await self._call(lambda: self._opened().next(timeout=timeout, progress=progress))
        return None if version is None else Version(self, version)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Version:
        try:
            version = await self.next()
        except Ended:
            raise StopAsyncIteration from None
        assert version is not None, "there is no timeout"
        return version
