from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar, final, overload

from typing_extensions import Buffer as _Buffer
from typing_extensions import Self

from pulse_codec.types import Like, Path, Progress, Run, Tensors, Weights

__all__ = [
    "Applied",
    "Buffer",
    "Digests",
    "EncoderOptions",
    "Part",
    "Patch",
    "Prepared",
    "Shadow",
    "Slice",
    "Sparse",
    "Unpublished",
    "View",
    "apply",
    "diff",
    "digest",
    "digests",
    "inspect",
    "join",
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
