"""What goes wrong, as exceptions with fields: nobody has to read their English.

Each class is a kind of error of the library. Misuse is ValueError or TypeError, and what the system says of files is
OSError with errno and filename, as everywhere in Python.
"""

from __future__ import annotations

from typing import Any


class Error(Exception):
    """The base of all. `str(error)` says what happened."""

    kind: str
    """One word for programs, as SPEC.md §11 and the documentation of the library list them."""
    advice: str | None
    """What to do, for people."""
    action: str | None
    """The same as a word for programs, such as "transfer-again"."""
    file: str | None
    """The file or directory that it is about; None for what is in memory."""

    def __init__(self, message: str = "", **fields: Any) -> None:
        super().__init__(message)
        for name in ("advice", "action", "file"):
            fields.setdefault(name, None)
        fields.setdefault("kind", "")
        vars(self).update(fields)
        if self.advice:
            # A traceback ends with what to do.
            self.add_note(self.advice)


class Corrupt(Error):
    """The patch breaks a rule of the format: it is damaged, or was made so."""

    offset: int
    """Byte of the patch at which it shows."""
    section: str | None
    tensor: str | None
    block: int | None
    """Number of the block in the tensor, from 0."""
    content: str | None
    """What the file is instead of a patch, if that is known: "html", "lfs-pointer", …"""
    expected: str | None
    found: str | None


class UnknownVersion(Error):
    """The patch is of a major version that this reader does not know."""

    major: int
    minor: int
    known: int


class LimitExceeded(Error):
    """The patch asks for more than a limit of this reader allows."""

    limit: str
    asked: int
    allowed: int
    offset: int


class BaseMismatch(Error):
    """The weights given are not those that the patch was made from."""

    expected: str
    """Digest that the patch names: of `tensor`, or else of the checkpoint."""
    found: str
    tensor: str | None
    """The first tensor whose bytes differ, where one is known."""
    missing: list[str]
    """Tensors that the patch changes and the base lacks."""
    extra: list[str]
    """Tensors that the patch adds and the base has already."""
    reshaped: list[tuple[str, str, str]]
    """Tensors of another dtype or shape: name, expected, found."""
    tensors: tuple[int, int] | None
    """Number of tensors of the right base, and of this one."""
    is_target: bool
    """The weights are the target: the patch was applied before."""
    applied: int
    """That many patches of a chain, the first ones, were applied before."""


class TargetMismatch(Error):
    """The weights given are not the target of the patch."""

    expected: str
    found: str
    tensor: str | None


class WrongResult(Error):
    """The patch does not lead to the target that it names, although the base is the right one."""

    expected: str
    found: str
    tensor: str | None
    carried: str | None
    """The file that the patch carries, if it is one."""


class BrokenChain(Error):
    """A patch does not start where the one before it ends."""

    before: str
    patch: str
    expected: str | None
    found: str | None


class BadPart(Error):
    """A part is damaged, or parts do not make one patch together."""


class NeedsBase(Error):
    """The patch says too little without the weights that it was made from."""


class NotInvertible(Error):
    """The patch does not say enough to be inverted."""


class NotInPlace(Error):
    """The patch cannot be applied where the weights are."""


class BadFile(Error):
    """A file of a checkpoint cannot be used."""

    content: str | None
    """What it is instead, if that is known."""


class BaseFile(Error):
    """A file of the base is not the one that the patch was made with."""

    name: str
    bytes: int
    sha256: str


class Unfit(Error):
    """The patch does not fit its own base, or its files do not fit its tensors."""


class Exists(Error):
    """Something is at the place of the output already."""


class Changed(Error):
    """An input changed while it was read."""


class Busy(Error):
    """Others are at work on it: another process on the checkpoint, or another call on the weights."""


class Interrupted(Error):
    """An update in place of this checkpoint was interrupted: `pulse recover` makes base or target of it."""

    journal: str
    is_there: bool
    """Whether the journal is where it should be."""


class Unrecovered(Error):
    """Neither base nor target could be made of a checkpoint whose update was interrupted."""


class Internal(Error):
    """A rule of this library's own code was broken. Please report it."""


class FeedError(Error):
    """Something is wrong with a feed, or with the way to it. The base of all that follow."""

    is_passing: bool
    """Whether the same may succeed later without anybody doing anything."""


class BadDocument(FeedError):
    """A document of the feed is damaged, or breaks a rule of FEED.md."""

    object: str
    """Name of the object in the feed."""


class OtherRun(BadDocument):
    """The address holds another run than it did."""


class NotTrusted(BadDocument):
    """A signature is missing, wrong, or of a key that the trusted one has not handed over to."""


class BrokenLog(FeedError):
    """A record does not follow the one before it."""

    version: int


class Ended(FeedError):
    """The run has ended, with this version."""

    version: int


class RolledBack(FeedError):
    """The feed shows less than was served before: its mirror may be stale."""

    mark: int
    """The version that was served."""
    head: int
    """The newest that is shown."""


class Forked(FeedError):
    """The feed shows another past than it did. `expected` and `found` are digests of records."""

    version: int
    expected: str
    found: str


class BadData(FeedError):
    """An object of the feed is not the one that a document names."""

    object: str


class WrongVersion(FeedError):
    """What was made is not the version."""

    version: int
    expected: str
    found: str


class Unreachable(FeedError):
    """No patch, skip or anchor that can be had leads to the version."""

    version: int


class Fenced(FeedError):
    """Another writer has taken over the feed: stop this one."""

    version: int
    """What the other one has put."""
    writer: str
    epoch: int
    other: str
    other_epoch: int


class NoConditions(FeedError):
    """The store replaces what it was asked only to create, so that two publishers could overwrite each other."""


class NoFeed(FeedError):
    """There is no feed at the address."""


class OtherBase(FeedError):
    """The patch does not start from the newest version. `expected` and `found` are digests of weights."""

    version: int
    expected: str
    found: str


class StoreError(FeedError):
    """The store failed, or refused."""

    object: str


class BadKey(FeedError):
    """A key cannot be used."""
