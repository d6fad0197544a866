"""What `pulse inspect` and `pulse stat` know, as objects with the fields of their JSON.

docs/inspect-json.md and docs/stat-json.md of the repository say what each field means, and when it is None.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pulse_codec import _pulse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pulse_codec.types import Path, Progress

_HINTS: dict[type, dict[str, Any]] = {}


def _made(kind: Any, value: Any) -> Any:
    """A value of JSON as the type that a field has."""
    origin = typing.get_origin(kind)
    if origin is types.UnionType:
        return None if value is None else _made(typing.get_args(kind)[0], value)
    if origin is list:
        return [_made(typing.get_args(kind)[0], item) for item in value]
    if origin is tuple:
        return tuple(value)
    if dataclasses.is_dataclass(kind):
        assert isinstance(kind, type)
        hints = _HINTS.get(kind)
        if hints is None:
            hints = _HINTS[kind] = typing.get_type_hints(kind)
        # Fields of a later version are not known here.
        return kind(**{name: _made(hint, value[name]) for name, hint in hints.items()})
    return value


@dataclass(frozen=True)
class Format:
    """Version of the format."""

    major: int
    minor: int


@dataclass(frozen=True)
class Damage:
    """What is wrong with the file."""

    kind: str
    offset: int
    section: str | None
    tensor: str | None
    block: int | None
    message: str
    advice: str


@dataclass(frozen=True)
class Header:
    """What a patch says of itself before its first tensor."""

    snapshot: bool
    block_leaves: int
    run: str | None
    base_step: int | None
    target_step: int | None
    base_digest: str | None
    metadata: dict[str, str]


@dataclass(frozen=True)
class Footer:
    """Totals and digests."""

    tensors: int
    changes: int
    target_tensors: int
    target_elements: int
    target_bytes: int
    base_digest: str | None
    target_digest: str
    sha256: str


@dataclass(frozen=True)
class Transfer:
    """How long it takes on a link, without latency."""

    megabits_per_second: int
    patch_seconds: float
    full_seconds: float | None


@dataclass(frozen=True)
class Step:
    """How often a step in ULPs occurs."""

    step: int
    changes: int


@dataclass(frozen=True)
class PatchTensor:
    """A tensor of a patch."""

    name: str
    action: str
    complete: bool
    dtype: str | None
    shape: list[int] | None
    changes: int
    elements: int
    density: float
    bytes: int
    blocks: dict[str, int]
    bytes_for: dict[str, int]
    base_digest: str | None
    target_digest: str | None


@dataclass(frozen=True)
class BaseOfFile:
    """A file as the base has it."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class PatchFile:
    """A file of the target."""

    name: str
    companion: bool
    state: str
    carried: bool
    bytes: int
    sha256: str
    base: BaseOfFile | None


@dataclass(frozen=True)
class Section:
    """Sections of one kind."""

    tag: str
    name: str
    count: int
    bytes: int


@dataclass(frozen=True)
class Inspection:
    """What is in a patch file, and where its bytes go."""

    schema: int
    format: Format | None
    file_bytes: int
    good_bytes: int
    full_copy_bytes: int | None
    error: str | None
    damage: Damage | None
    header: Header | None
    footer: Footer | None
    actions: dict[str, int]
    bytes_for: dict[str, int]
    transfer: list[Transfer]
    steps: list[Step]
    tensors: list[PatchTensor]
    files: list[PatchFile]
    left_packed: int
    sections: list[Section]


@dataclass(frozen=True)
class StatCheckpoint:
    """A checkpoint of a series."""

    label: str
    path: str
    step: int | None
    tensors: int
    elements: int
    tensor_bytes: int
    file_bytes: int


@dataclass(frozen=True)
class Kind:
    """A part of the model in one pair."""

    kind: str
    changes: int
    elements: int
    density: float | None


@dataclass(frozen=True)
class Pair:
    """Two checkpoints, compared."""

    base: int
    target: int
    distance: int
    changes: int
    elements: int
    density: float | None
    kinds: list[Kind]
    added: list[str]
    replaced: list[str]
    deleted: list[str]
    contextual_bytes: int | None
    flat_bytes: int | None


@dataclass(frozen=True)
class Window:
    """All pairs at one distance."""

    length: int
    pairs: int
    mean: float | None
    min: float | None
    max: float | None


@dataclass(frozen=True)
class Module:
    """Tensors whose names differ in layer and expert numbers only."""

    module: str
    tensors: int
    mean_changes: float
    mean_elements: float
    density: float | None


@dataclass(frozen=True)
class TypicalKind:
    """A part of the model, mean of the pairs at the typical distance."""

    kind: str
    mean_changes: float
    mean_elements: float
    density: float | None
    modules: list[Module]


@dataclass(frozen=True)
class Typical:
    """The pairs at the typical distance together."""

    distance: int
    pairs: int
    mean_changes: float
    mean_elements: float
    density: float | None
    ulp_steps: list[tuple[int, int]]
    kinds: list[TypicalKind]


@dataclass(frozen=True)
class StatTensor:
    """A tensor of the series."""

    name: str
    dtype: str
    shape: list[int]
    elements: int
    action: str
    mean_changes: float
    density: float


@dataclass(frozen=True)
class Link:
    """A link and the time that a transfer takes on it."""

    link: str
    seconds: float


@dataclass(frozen=True)
class Way:
    """One way to synchronise."""

    way: str
    mean_bytes: float
    max_bytes: int
    bits_per_second: float
    links: list[Link]


@dataclass(frozen=True)
class Sync:
    """What a synchronisation over the typical distance transfers."""

    distance: int
    interval_seconds: float
    ways: list[Way]


@dataclass(frozen=True)
class Stat:
    """What changed along a series of checkpoints."""

    unit: str
    steps_from: str | None
    checkpoints: list[StatCheckpoint]
    pairs: list[Pair]
    windows: list[Window]
    typical: Typical
    tensors: list[StatTensor]
    sync: Sync


def inspect(patch: Path, *, limits: Mapping[str, int] | None = None) -> Inspection:
    """Tells what is in a patch file, and where its bytes go: what `pulse inspect --json` prints. A damaged file is shown
    as far as it can be read; its `damage` then says what is wrong.

    >>> import numpy, pulse_codec as pulse
    >>> place = getfixture("tmp_path") / "40.anchor.pulse"
    >>> anchor = pulse.snapshot({"w": numpy.zeros(3, "f4")}, step=40, out=place)
    >>> found = pulse.inspect(place)
    >>> found.header.target_step, found.tensors[0].name, found.tensors[0].dtype
    (40, 'w', 'F32')
    """
    found: Inspection = _made(Inspection, json.loads(_pulse.inspect(patch, limits=limits)))
    return found


def stat(
    checkpoints: Sequence[Path],
    *,
    steps: Sequence[int] | None = None,
    sizes: bool = True,
    interval: float = 60.0,
    threads: int = 0,
    progress: Progress | None = None,
) -> Stat:
    """Measures what changed along a series of checkpoints, oldest first, without writing a patch: what
    `pulse stat --json` prints. `steps` are their optimizer steps, which are else read from their names; `sizes=False`
    leaves out the exact sizes of patches, and `interval` is the time between two synchronisations in seconds."""
    text = _pulse.stat(
        checkpoints, steps=steps, sizes=sizes, interval=interval, threads=threads, progress=progress
    )
    found: Stat = _made(Stat, json.loads(text))
    return found
