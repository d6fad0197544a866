"""Looking after a feed: what `pulse feed` does on the command line, with its results as dicts.

    >>> import numpy, pulse_codec as pulse
    >>> with pulse.Publisher("feed") as publisher:
    ...     for step in range(3):
    ...         _ = publisher.publish({"w": numpy.full(4, step, "f4")}, step=step)
    >>> pulse.feed.status("feed")["head"].step
    2
    >>> [record.version for record in pulse.feed.log("feed", first=1)]
    [1, 2]
    >>> pulse.feed.verify("feed")["problems"]
    []
    >>> pulse.feed.mirror("feed", "mirror")["records"]
    3

`trust` is the public key of the publisher, as with followers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pulse_codec import _pulse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pulse_codec._pulse import Record
    from pulse_codec.types import Path


def status(feed: str, *, trust: str | None = None) -> dict[str, Any]:
    """How a feed is: its newest version `head`, the `key` that signs it, when its publisher was last `seen` and when
    that `expires`, the oldest version `floor` that is kept, and what it takes to join."""
    return _pulse.feed_status(feed, trust=trust)


def log(feed: str, *, trust: str | None = None, first: int = 0, last: int | None = None) -> list[Record]:
    """The records of versions `first` to `last`, oldest first."""
    return _pulse.feed_log(feed, trust=trust, first=first, last=last)


def verify(feed: str, *, trust: str | None = None, spool: Path | None = None) -> dict[str, Any]:
    """Reads and checks all of a feed. What is wrong is in `problems`, as exceptions."""
    return _pulse.feed_verify(feed, trust=trust, spool=spool)


def prune(
    feed: str,
    *,
    trust: str | None = None,
    anchors: int = 2,
    grace: float = 3600.0,
    spool: Path | None = None,
) -> dict[str, Any]:
    """Deletes data that nobody needs who starts from one of the last `anchors`, if it is older than `grace` seconds."""
    return _pulse.feed_prune(feed, trust=trust, anchors=anchors, grace=grace, spool=spool)


def compact(
    feed: str,
    *,
    trust: str | None = None,
    spans: Sequence[int] | None = None,
    anchor_every: int | None = None,
    spool: Path | None = None,
    threads: int = 0,
) -> list[dict[str, Any]]:
    """Makes skips over several versions, and anchors, for those who are behind; gives back what it made."""
    return _pulse.feed_compact(
        feed, trust=trust, spans=spans, anchor_every=anchor_every, spool=spool, threads=threads
    )


def mirror(feed: str, to: str, *, trust: str | None = None) -> dict[str, Any]:
    """Copies to another address what is not there yet."""
    return _pulse.feed_mirror(feed, to, trust=trust)
