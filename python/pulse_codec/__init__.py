"""Ship model weights between the steps of reinforcement learning, as patches that hold only what changed.

    >>> import numpy, pulse_codec as pulse
    >>> trainer, receiver = {"w": numpy.zeros(1000, "f4")}, {"w": numpy.zeros(1000, "f4")}
    >>> shadow = pulse.Shadow(trainer)         # what the receivers have
    >>> trainer["w"][7] += 1                   # an optimizer step
    >>> patch = shadow.diff(trainer, step=1)   # bytes to send: a file, a socket, an object store
    >>> shadow.advance(patch)
    >>> pulse.apply(receiver, bytes(patch)).changes
    1
    >>> pulse.digest(receiver) == pulse.digest(trainer)
    True

Weights are tensors by name: of PyTorch on the CPU, of NumPy, of whoever speaks DLPack, or `View`s of any memory. They
stay where they are. Nothing is copied, so nobody may write to weights while a call reads them, or use those that a call
writes. Long calls let other Python threads run, take `threads=` and `progress=`, and stop at Ctrl-C; weights are then
what they were.
"""

from pulse_codec import aio, feed
from pulse_codec._pulse import (
    Applied,
    Digests,
    EncoderOptions,
    Part,
    Patch,
    Prepared,
    Published,
    Record,
    Slice,
    Version,
    View,
    apply,
    diff,
    digest,
    digests,
    join,
    keygen,
    load,
    snapshot,
)
from pulse_codec.errors import (
    BadData,
    BadDocument,
    BadFile,
    BadKey,
    BadPart,
    BaseFile,
    BaseMismatch,
    BrokenChain,
    BrokenLog,
    Busy,
    Changed,
    Corrupt,
    Ended,
    Error,
    Exists,
    FeedError,
    Fenced,
    Forked,
    Internal,
    Interrupted,
    LimitExceeded,
    NeedsBase,
    NoConditions,
    NoFeed,
    NotInPlace,
    NotInvertible,
    NotTrusted,
    OtherBase,
    OtherRun,
    RolledBack,
    StoreError,
    TargetMismatch,
    Unfit,
    UnknownVersion,
    Unreachable,
    Unrecovered,
    WrongResult,
    WrongVersion,
)
from pulse_codec.follower import Follower
from pulse_codec.publisher import Publisher
from pulse_codec.reports import Inspection, Stat, inspect, stat
from pulse_codec.shadow import Shadow, pinned

__all__ = [
    "Applied",
    "BadData",
    "BadDocument",
    "BadFile",
    "BadKey",
    "BadPart",
    "BaseFile",
    "BaseMismatch",
    "BrokenChain",
    "BrokenLog",
    "Busy",
    "Changed",
    "Corrupt",
    "Digests",
    "EncoderOptions",
    "Ended",
    "Error",
    "Exists",
    "FeedError",
    "Fenced",
    "Follower",
    "Forked",
    "Inspection",
    "Internal",
    "Interrupted",
    "LimitExceeded",
    "NeedsBase",
    "NoConditions",
    "NoFeed",
    "NotInPlace",
    "NotInvertible",
    "NotTrusted",
    "OtherBase",
    "OtherRun",
    "Part",
    "Patch",
    "Prepared",
    "Published",
    "Publisher",
    "Record",
    "RolledBack",
    "Shadow",
    "Slice",
    "Stat",
    "StoreError",
    "TargetMismatch",
    "Unfit",
    "UnknownVersion",
    "Unreachable",
    "Unrecovered",
    "Version",
    "View",
    "WrongResult",
    "WrongVersion",
    "aio",
    "apply",
    "diff",
    "digest",
    "digests",
    "feed",
    "inspect",
    "join",
    "keygen",
    "load",
    "pinned",
    "snapshot",
    "stat",
]
