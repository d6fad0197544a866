from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar, final, overload

from typing_extensions import Buffer as _Buffer
from typing_extensions import Self

from pulse_codec.types import Like, OnEvent, Path, Progress, Run, Tensors, Weights

__all__ = [
    "Applied",
    "Buffer",
    "Digests",
    "EncoderOptions",
    "Follower",
    "Part",
    "Patch",
    "Prepared",
    "Published",
    "Publisher",
    "Record",
    "Shadow",
    "Slice",
    "Sparse",
    "Unpublished",
    "Version",
    "View",
    "apply",
    "diff",
    "digest",
    "digests",
    "feed_compact",
    "feed_log",
    "feed_mirror",
    "feed_prune",
    "feed_status",
    "feed_verify",
    "inspect",
    "join",
    "keygen",
    "load",
    "main",
    "snapshot",
    "stat",
]

_T = TypeVar("_T", bound=Tensors)

@final
class View:
    def __new__(cls, buffer: _Buffer, dtype: str, shape: Sequence[int]) -> Self: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def memory(self) -> memoryview: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_exception: object) -> None: ...

@final
class Slice:
    def __new__(cls, shape: Sequence[int], start: int | Sequence[int]) -> Self: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def start(self) -> int: ...

@final
class EncoderOptions:
    def __new__(
        cls,
        *,
        coding: Literal["contextual", "flat"] | None = None,
        values: Literal["step", "xor", "overwrite"] | None = None,
        level: int = 1,
        block_leaves: int = 32,
        metadata: Mapping[str, str] | None = None,
        base_digest: str | None = None,
    ) -> Self: ...

@final
class Digests:
    def __new__(cls, checkpoint: str, tensors: Mapping[str, str] | None = None) -> Self: ...
    @property
    def checkpoint(self) -> str: ...
    @property
    def tensors(self) -> dict[str, str]: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __getnewargs__(self) -> tuple[str, dict[str, str]]: ...

@final
class Patch:
    @classmethod
    def open(cls, path: Path, *, limits: Mapping[str, int] | None = None) -> Patch: ...
    @classmethod
    def from_bytes(cls, data: _Buffer, *, limits: Mapping[str, int] | None = None) -> Patch: ...
    @property
    def path(self) -> str | None: ...
    @property
    def base(self) -> str | None: ...
    @property
    def target(self) -> str: ...
    @property
    def is_snapshot(self) -> bool: ...
    @property
    def step(self) -> int | None: ...
    @property
    def base_step(self) -> int | None: ...
    @property
    def run(self) -> str | None: ...
    @property
    def metadata(self) -> dict[str, str]: ...
    @property
    def changes(self) -> int: ...
    @property
    def target_elements(self) -> int: ...
    @property
    def target_bytes(self) -> int: ...
    @property
    def tensors(self) -> list[tuple[str, str]]: ...
    @property
    def digests(self) -> Digests: ...
    def write(self, path: Path, *, replace: bool = False) -> None: ...
    def prepare(
        self,
        weights: Tensors,
        *,
        changes_bytes_max: int = 1 << 30,
        threads: int = 0,
        progress: Progress | None = None,
    ) -> Prepared: ...
    def verify_weights(
        self, weights: Weights, *, threads: int = 0, progress: Progress | None = None
    ) -> None: ...
    def __len__(self) -> int: ...
    def __bytes__(self) -> bytes: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __reduce__(self) -> tuple[Callable[[bytes], Patch], tuple[bytes]]: ...

@final
class Part:
    @classmethod
    def open(cls, path: Path) -> Part: ...
    @classmethod
    def from_bytes(cls, data: _Buffer) -> Part: ...
    @property
    def path(self) -> str | None: ...
    def write(self, path: Path, *, replace: bool = False) -> None: ...
    def __len__(self) -> int: ...
    def __bytes__(self) -> bytes: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __reduce__(self) -> tuple[Callable[[bytes], Part], tuple[bytes]]: ...

@final
class Applied:
    @property
    def target(self) -> str: ...
    @property
    def target_bytes(self) -> int: ...
    @property
    def changes(self) -> int: ...
    @property
    def files(self) -> int: ...
    @property
    def notes(self) -> list[str]: ...

@final
class Prepared:
    def commit(self, *, verify: bool = False, threads: int = 0) -> Applied: ...
    def sparse(self, *, like: Like | None = None) -> Sparse: ...
    @property
    def target(self) -> str: ...
    @property
    def changes(self) -> int: ...
    @property
    def tensors(self) -> list[str]: ...

@final
class Sparse:
    def __iter__(self) -> Self: ...
    def __next__(self) -> tuple[str, Any | None, Any]: ...

@final
class Buffer:
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class Unpublished: ...

@final
class Shadow:
    def __new__(
        cls, weights: Weights, *, threads: int = 0, progress: Progress | None = None
    ) -> Self: ...
    @property
    def digests(self) -> Digests: ...
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
    ) -> tuple[Patch, Unpublished]: ...
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
    ) -> Patch: ...
    def advance(self, made: Unpublished, *, threads: int = 0) -> None: ...

@overload
def diff(
    base: Weights | None,
    target: Weights,
    *,
    out: Path | None = None,
    replace: bool = False,
    step: int | None = None,
    base_step: int | None = None,
    run: Run | None = None,
    options: EncoderOptions | None = None,
    trusted: Patch | Digests | None = None,
    part_of: None = None,
    threads: int = 0,
    progress: Progress | None = None,
) -> Patch: ...
@overload
def diff(
    base: Weights | None,
    target: Weights,
    *,
    out: Path | None = None,
    replace: bool = False,
    step: int | None = None,
    base_step: int | None = None,
    run: Run | None = None,
    options: EncoderOptions | None = None,
    trusted: Patch | Digests | None = None,
    part_of: dict[str, Slice],
    threads: int = 0,
    progress: Progress | None = None,
) -> Part: ...
@overload
def snapshot(
    weights: Weights,
    *,
    out: Path | None = None,
    replace: bool = False,
    step: int | None = None,
    run: Run | None = None,
    options: EncoderOptions | None = None,
    part_of: None = None,
    threads: int = 0,
    progress: Progress | None = None,
) -> Patch: ...
@overload
def snapshot(
    weights: Weights,
    *,
    out: Path | None = None,
    replace: bool = False,
    step: int | None = None,
    run: Run | None = None,
    options: EncoderOptions | None = None,
    part_of: dict[str, Slice],
    threads: int = 0,
    progress: Progress | None = None,
) -> Part: ...
def join(
    parts: Iterable[Part | _Buffer | Path],
    *,
    out: Path | None = None,
    replace: bool = False,
    step: int | None = None,
    base_step: int | None = None,
    run: Run | None = None,
    options: EncoderOptions | None = None,
    threads: int = 0,
    progress: Progress | None = None,
) -> Patch: ...
def apply(
    weights: Weights | None,
    patch: Patch | Path | _Buffer | Iterable[Patch | Path | _Buffer],
    *,
    out: Path | None = None,
    replace: bool = False,
    in_place: bool = False,
    keep_files: bool = False,
    threads: int = 0,
    progress: Progress | None = None,
) -> Applied: ...
@overload
def load(
    patch: Patch | Path | _Buffer | Iterable[Patch | Path | _Buffer],
    into: None = None,
    *,
    like: Like | None = None,
    threads: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]: ...
@overload
def load(
    patch: Patch | Path | _Buffer | Iterable[Patch | Path | _Buffer],
    into: _T,
    *,
    like: Like | None = None,
    threads: int = 0,
    progress: Progress | None = None,
) -> _T: ...
def digest(weights: Weights, *, threads: int = 0, progress: Progress | None = None) -> str: ...
def digests(weights: Weights, *, threads: int = 0, progress: Progress | None = None) -> Digests: ...
def inspect(path: Path, *, limits: Mapping[str, int] | None = None) -> str: ...
def stat(
    checkpoints: Sequence[Path],
    *,
    steps: Sequence[int] | None = None,
    sizes: bool = True,
    interval: float = 60.0,
    threads: int = 0,
    progress: Progress | None = None,
) -> str: ...
def main(arguments: Sequence[str], program: Sequence[str]) -> int: ...

@final
class Record:
    @property
    def version(self) -> int: ...
    @property
    def digest(self) -> str: ...
    @property
    def step(self) -> int | None: ...
    @property
    def time(self) -> float: ...
    @property
    def writer(self) -> str: ...
    @property
    def epoch(self) -> int: ...
    @property
    def anchor(self) -> int: ...
    @property
    def ended(self) -> bool: ...

@final
class Published:
    @property
    def version(self) -> int: ...
    @property
    def digest(self) -> str: ...
    @property
    def step(self) -> int | None: ...
    @property
    def is_anchor(self) -> bool: ...
    @property
    def changes(self) -> int | None: ...
    @property
    def bytes(self) -> int: ...
    @property
    def make_seconds(self) -> float: ...
    @property
    def record_seconds(self) -> float: ...
    @property
    def warnings(self) -> list[str]: ...

@final
class Publisher:
    def __new__(
        cls,
        feed: str,
        *,
        key: Path | None = None,
        base: Tensors | None = None,
        fetch: bool = True,
        anchor_every: int = 50,
        expires: float = 86400.0,
        patience: float = 300.0,
        options: EncoderOptions | None = None,
        threads: int = 0,
    ) -> Self: ...
    def publish(
        self, weights: Tensors | Patch, *, step: int | None = None, progress: Progress | None = None
    ) -> Published: ...
    def claim(self) -> None: ...
    def refresh(self) -> None: ...
    def end(self) -> None: ...
    def hand_over(self, key: Path) -> None: ...
    def cancel(self) -> None: ...
    def close(self) -> None: ...
    @property
    def run(self) -> str: ...
    @property
    def writer(self) -> str: ...
    @property
    def head(self) -> Record | None: ...

@final
class Follower:
    def __new__(
        cls,
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
    ) -> Self: ...
    def next(self, *, timeout: float | None = None, progress: Progress | None = None) -> Version | None: ...
    def cancel(self) -> None: ...
    def close(self) -> None: ...
    @property
    def weights(self) -> Tensors | None: ...
    @property
    def head(self) -> Record | None: ...
    @property
    def key(self) -> str | None: ...

@final
class Version:
    @property
    def version(self) -> int: ...
    @property
    def digest(self) -> str: ...
    @property
    def step(self) -> int | None: ...
    @property
    def time(self) -> float: ...
    @property
    def bytes(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    @property
    def is_whole(self) -> bool: ...
    def prepare(
        self, *, changes_bytes_max: int = 1 << 30, threads: int = 0, progress: Progress | None = None
    ) -> Prepared: ...
    def commit(self, *, verify: bool = False, threads: int = 0) -> Applied: ...
    def load(
        self, *, like: Like | None = None, threads: int = 0, progress: Progress | None = None
    ) -> dict[str, Any]: ...

def keygen(path: Path) -> str: ...
def feed_status(feed: str, *, trust: str | None = None) -> dict[str, Any]: ...
def feed_log(
    feed: str, *, trust: str | None = None, first: int = 0, last: int | None = None
) -> list[Record]: ...
def feed_verify(feed: str, *, trust: str | None = None, spool: Path | None = None) -> dict[str, Any]: ...
def feed_prune(
    feed: str,
    *,
    trust: str | None = None,
    anchors: int = 2,
    grace: float = 3600.0,
    spool: Path | None = None,
) -> dict[str, Any]: ...
def feed_compact(
    feed: str,
    *,
    trust: str | None = None,
    spans: Sequence[int] | None = None,
    anchor_every: int | None = None,
    spool: Path | None = None,
    threads: int = 0,
) -> list[dict[str, Any]]: ...
def feed_mirror(feed: str, to: str, *, trust: str | None = None) -> dict[str, Any]: ...
