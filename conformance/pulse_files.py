"""§9 of SPEC.md: checkpoints on disk, and the files of the target.

    base = Checkpoint.open(Path("base.safetensors"))   # or a directory
    files = rebuild(patch, apply(patch, base.tensors), base)

A checkpoint is a dict of files from names to bytes; the only file of a checkpoint that is no directory has no name.
"""
import json
import math

from pulse_reader import DTYPE_OF_NAME, DTYPES, HEADERS, PATCHED, REMOVED, Dtype, PulseError, check, sha256

INDEX = ".safetensors.index.json"

class Checkpoint:
    def __init__(self, files):
        self.files, self.heads, self.tensors = files, {}, {}
        names, index = ([""], {}) if "" in files else tensor_files(files, strict=False)
        listed = {}
        for name, data in files.items():
            if name in names:
                check(len(data) >= 8, "checkpoint", "a safetensors file of less than 8 bytes")
                self.heads[name] = head = data[:8 + int.from_bytes(data[:8], "little")]
                end = len(head)
                listed[name] = {}
                for tensor, (dtype, shape, size) in safetensors_tensors(head).items():
                    listed[name][tensor] = dtype, shape, data[end:end + size]
                    end += size
                check(end == len(data), "checkpoint", "a file of another size than its header says")
        for name, names in tensor_names(listed, index).items():
            self.tensors.update({names[tensor]: row for tensor, row in listed[name].items()})

    @staticmethod
    def open(path):
        """A safetensors file, or a directory of them."""
        if path.is_dir():
            files = (file for file in path.rglob("*") if file.is_file())
            return Checkpoint({file.relative_to(path).as_posix(): file.read_bytes() for file in files})
        return Checkpoint({"": path.read_bytes()})

def tensor_names(listed, index):
    """R99: for each file, the names of its tensors in the checkpoint by those in its header."""
    holders = {}
    for file, tensors in listed.items():
        for tensor in tensors:
            holders.setdefault(tensor, []).append(file)

    def name(file, tensor):
        if len(holders[tensor]) == 1:
            return tensor
        check(index.get(tensor) in holders[tensor], "checkpoint", f"tensor {tensor!r} is in two files")
        return tensor if index[tensor] == file else f"{file}/{tensor}"

    names = {file: {tensor: name(file, tensor) for tensor in tensors} for file, tensors in listed.items()}
    every = [name for of_file in names.values() for name in of_file.values()]
    check(len(set(every)) == len(every), "checkpoint", "two tensors of one name")
    return names

def tensor_files(files, strict):
    """§9: the names of those files of a directory that hold tensors, and what the index says of each tensor.
    Strict: no file is left out for the index."""
    visible = [name for name in files if not name.startswith(".") and "/" not in name]
    plain = {name for name in visible if name.endswith(".safetensors")}
    indexes = [name for name in visible if name.endswith(INDEX)]
    index = "model" + INDEX if "model" + INDEX in indexes else indexes[0] if len(indexes) == 1 else None
    if index is None:
        return plain, {}
    try:
        weight_map = strict_json(files[index])["weight_map"]
        values = weight_map.values()
    except (TypeError, KeyError, AttributeError):
        raise PulseError("checkpoint", f"{index} is no index") from None
    check(all(isinstance(name, str) for name in values), "checkpoint", f"{index} is no index")
    named = set(values)
    if not named or not named <= set(files):
        stale = plain and not named & set(files)
        check(stale and not strict, "checkpoint", f"{index} has files that are not there")
        return plain, {}
    check(plain <= named or not strict, "checkpoint", f"{index} leaves out tensors")
    return named, weight_map

def disguised(name):
    """R95: a name that is one of these in other letters."""
    return any(name.lower().endswith(end) and not name.endswith(end) for end in (".safetensors", INDEX))

def strict_json(data):
    """R76: JSON in which nothing is left to the reader."""
    def unique(pairs):
        check(len(dict(pairs)) == len(pairs), "checkpoint", "a key stands twice")
        return dict(pairs)

    def number(text):
        check(math.isfinite(float(text)), "checkpoint", "a number beyond all floats")
        # Minus zero is no integer: nothing that has a sign is.
        return int(text) if text.isdigit() else float(text)

    def nested(value):
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return 0 if inner is None else 1 + max(map(nested, inner), default=0)

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_int=number, parse_float=number)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")         # no NaN, no lone surrogate
        check(nested(value) <= 64, "checkpoint", "JSON nested more than 64 deep")
    except (ValueError, RecursionError) as error:
        raise PulseError("checkpoint", f"bad JSON: {error}") from None
    return value

def safetensors_tensors(head):
    """R76: name -> dtype, shape, size, in the order of the data."""
    def numbers(value):
        return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 64 for n in value)

    n = int.from_bytes(head[:8], "little")
    check(len(head) == 8 + n <= HEADERS, "checkpoint", f"{n} bytes of JSON in {len(head)}")
    check(head[8:9] == b"{", "checkpoint", "the JSON is not an object")
    entries = strict_json(head[8:])
    metadata, found, at = entries.pop("__metadata__", {}), [], 0
    strings = isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())
    check(strings, "checkpoint", "__metadata__ is not an object of strings")
    for name, entry in entries.items():
        dtype, shape, offsets = map((entry if isinstance(entry, dict) else {}).get, ("dtype", "shape", "data_offsets"))
        good = isinstance(dtype, str) and numbers(shape) and numbers(offsets) and len(offsets) == 2
        check(good, "checkpoint", f"the entry of tensor {name!r}")
        found.append((offsets, name, DTYPE_OF_NAME.get(dtype) or Dtype(dtype), tuple(shape)))
    found.sort(key=lambda row: row[0])
    for (begin, end), name, dtype, shape in found:
        check(begin == at <= end, "checkpoint", "a hole or an overlap")
        fits = dtype not in DTYPES or end - begin == dtype.size * math.prod(shape)
        check(fits, "checkpoint", f"the size of tensor {name!r} does not fit its shape")
        at = end
    return {name: (dtype, shape, end - begin) for (begin, end), name, dtype, shape in found}

def rebuild(patch, tensors, base):
    """The files of the target; `base` is None for a snapshot."""
    if patch.files:
        names = [file.name for file in patch.files]
        check(names == [""] or "" not in names, "checkpoint", "a file without a name next to others")       # R75
        found = {file.name: described(file, base) for file in patch.files if file.state != REMOVED}          # R73
        heads = {file.name: found[file.name] for file in patch.files if not file.companion}
        index = {}
        if names != [""]:                                                                                  # R95
            named, index = tensor_files(found, strict=True)
            check(heads and named == set(heads), "checkpoint", "readers take other files for tensors")
            check(not any(map(disguised, set(found) - named)), "checkpoint", "a tensor file where case does not count")
            check(all("/" not in name or name in named for name in found), "checkpoint", "not in the index, but below")
    elif base and all(t.action == PATCHED for t in patch.tensors.values()):                                # R78
        found, heads = base.files, base.heads
        index = {} if "" in found else tensor_files(found, strict=False)[1]
    else:
        # A file of our own making: R78 leaves open which.
        found, index = {"": own_head(tensors)}, {}
        heads = found
    listed = {name: safetensors_tensors(head) for name, head in heads.items()}
    names = tensor_names(listed, index)
    rows = {names[file][t]: row for file, of_file in listed.items() for t, row in of_file.items()}
    made = {name: (dtype, shape, len(data)) for name, (dtype, shape, data) in tensors.items()}
    check(rows == made, "checkpoint", "the headers list other tensors")                                         # R77
    data = {name: head + b"".join(tensors[names[name][t]][2] for t in listed[name]) for name, head in heads.items()}
    return {**found, **data}

def described(file, base):
    """The described bytes of a file section: R74, R71."""
    if file.in_patch:
        return bytes(file.content)
    data = (base.files if file.companion else base.heads).get(file.name, b"")
    check(len(data) == file.size and sha256(data) == file.digest, "checkpoint", f"file {file.name!r} of the base")
    return data

def own_head(tensors):
    entries, at = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        entries[name] = {"dtype": dtype.name, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text
