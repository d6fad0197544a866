"""§9 of SPEC.md for a checkpoint that is a single safetensors file: reads it, and rebuilds that of a target.

    base = Base(open("base.safetensors", "rb").read())
    result = apply(open("step.pulse", "rb"), base.tensors)
    file = rebuild(result, base)                       # base is None for a snapshot
"""
import json
from math import prod

from pulse_reader import DTYPE_OF_NAME, DTYPES, JSON_BYTES, Dtype, PulseError, check, sha256

class Base:
    """A checkpoint that is a single file: its tensors, and the described bytes."""
    def __init__(self, data):
        check(len(data) >= 8, "checkpoint", "a safetensors file of less than 8 bytes")
        self.head, self.tensors = data[:8 + int.from_bytes(data[:8], "little")], {}
        end = len(self.head)
        for name, (dtype, shape, size) in safetensors_tensors(self.head).items():
            self.tensors[name] = dtype, shape, data[end:end + size]
            end += size
        check(end == len(data), "checkpoint", "a file of another size than its header says")

def safetensors_tensors(head):
    """R76: name -> dtype, shape, size, in the order of the data."""
    def unique(pairs):
        check(len(dict(pairs)) == len(pairs), "checkpoint", "a key stands twice")
        return dict(pairs)

    def numbers(value):
        return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 64 for n in value)

    n = int.from_bytes(head[:8], "little")
    check(len(head) == 8 + n and n <= JSON_BYTES, "checkpoint", f"{n} bytes of JSON in {len(head)}")
    try:
        text = head[8:].decode("utf-8").rstrip(" ")
        check(text[:1] == "{" and text[-1:] == "}", "checkpoint", "the JSON is not an object")
        entries = json.loads(text, object_pairs_hook=unique)
        json.dumps(entries, ensure_ascii=False, allow_nan=False).encode("utf-8")       # no NaN, no lone surrogate
    except (ValueError, RecursionError) as error:
        raise PulseError("checkpoint", f"bad JSON: {error}") from None
    metadata, found, at = entries.pop("__metadata__", {}), [], 0
    strings = isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())
    check(strings, "checkpoint", "__metadata__ is not an object of strings")
    for name, entry in entries.items():
        dtype, shape, offsets = map((entry if isinstance(entry, dict) else {}).get, ("dtype", "shape", "data_offsets"))
        good = isinstance(dtype, str) and numbers(shape) and numbers(offsets) and len(offsets) == 2
        check(good, "checkpoint", f"the entry of tensor {name!r}")
        found.append((offsets, name, DTYPE_OF_NAME.get(dtype) or Dtype(dtype), tuple(shape)))
    for (begin, end), name, dtype, shape in sorted(found, key=lambda row: row[0]):
        check(begin == at <= end, "checkpoint", "a hole or an overlap")
        fits = dtype not in DTYPES or end - begin == dtype.size * prod(shape)
        check(fits, "checkpoint", f"the size of tensor {name!r} does not fit its shape")
        at = end
    return {name: (dtype, shape, end - begin) for (begin, end), name, dtype, shape in sorted(found, key=lambda r: r[0])}

def rebuild(result, base):
    """The bytes of the target's file, if the patch says that the target is a single file."""
    try:
        check([f.name for f in result.patch.files] == [""], "checkpoint", "the target is not a single file")
        file, = result.patch.files
        head = bytes(file.content) if file.in_patch else base.head
        check(len(head) == file.size and sha256(head) == file.digest, "checkpoint", "the base has another header")
        listed = safetensors_tensors(head)
        made = {name: (dtype, shape, len(data)) for name, (dtype, shape, data) in result.tensors.items()}
        check(listed == made, "checkpoint", "the header lists other tensors than the target has")
        return head + b"".join(result.tensors[name][2] for name in listed)
    except PulseError as error:
        result.blame(error)
