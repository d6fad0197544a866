"""§9 of SPEC.md: checkpoints on disk, and the files of the target.

    base = Checkpoint.open(Path("base.safetensors"))   # or a directory
    files = rebuild(patch, apply(patch, base.tensors), base)

A checkpoint is a dict of files from names to bytes; the only file of a checkpoint that is no directory has no name.
"""
import json
import math
import re

from pulse_reader import DTYPE_OF_NAME, DTYPES, HEADERS, PATCHED, REMOVED, Dtype, PulseError, check, sha256

INDEX = ".safetensors.index.json"
# Directories in which nothing is looked at.
SKIPPED = re.compile(r"\..*|(checkpoint-|global_step)[0-9]+", re.DOTALL)

class Checkpoint:
    def __init__(self, files):
        self.files, self.heads, self.tensors = files, {}, {}
        homes, indexes = ({"": ""}, {}) if "" in files else tensor_files(files, strict=False)
        listed = {}
        for name, data in files.items():
            if name in homes:
                check(len(data) >= 8, "checkpoint", "a safetensors file of less than 8 bytes")
                self.heads[name] = head = data[:8 + int.from_bytes(data[:8], "little")]
                end = len(head)
                listed[name] = {}
                for tensor, (dtype, shape, size) in safetensors_tensors(head).items():
                    listed[name][tensor] = dtype, shape, data[end:end + size]
                    end += size
                check(end == len(data), "checkpoint", "a file of another size than its header says")
        for name, names in tensor_names(listed, homes, indexes).items():
            self.tensors.update({names[tensor]: row for tensor, row in listed[name].items()})

    @staticmethod
    def open(path):
        """A safetensors file, or a directory of them."""
        if path.is_dir():
            files = (file for file in path.rglob("*") if file.is_file())
            return Checkpoint({file.relative_to(path).as_posix(): file.read_bytes() for file in files})
        return Checkpoint({"": path.read_bytes()})

def parent(name):
    return name.rpartition("/")[0]

def base_name(name):
    return name.rpartition("/")[2]

def join(home, name):
    return f"{home}/{name}" if home else name

def tensor_names(listed, homes, indexes):
    """R99: for each file, the names of its tensors in the checkpoint by those in its header."""
    holders = {}
    for file, tensors in listed.items():
        for tensor in tensors:
            holders.setdefault((homes[file], tensor), []).append(file)

    def name(file, tensor):
        home = homes[file]
        files, counted = holders[home, tensor], indexes.get(home, {}).get(tensor)
        check(len(files) == 1 or counted in files, "checkpoint", f"tensor {tensor!r} is in two files")
        return join(home if len(files) == 1 or counted == file else file, tensor)

    names = {file: {tensor: name(file, tensor) for tensor in tensors} for file, tensors in listed.items()}
    every = [name for of_file in names.values() for name in of_file.values()]
    check(len(set(every)) == len(every), "checkpoint", "two tensors of one name")
    return names

def tensor_files(files, strict):
    """§9: for each file of a tree that holds tensors, the directory whose tensors are named with it; and for each of
    these directories with an index, the files of its tensors. Strict: nothing is left out for where it is."""
    looked_at = {name for name in files if not any(map(SKIPPED.fullmatch, name.split("/")[:-1]))}
    visible = {name for name in looked_at if not base_name(name).startswith(".")}
    plain = {name for name in visible if name.endswith(".safetensors")}
    homes, indexes, excluded = {}, {}, set()

    def add(home):
        here = {name for name in plain if parent(name) == home}
        found = [name for name in visible if parent(name) == home and name.endswith(INDEX)]
        usual = join(home, "model" + INDEX)
        index = usual if usual in found else found[0] if len(found) == 1 else None
        named = index and weight_map(index, files[index], home)
        if named is not None:
            leads = set(named.values())
            if leads and leads <= looked_at:
                check(here <= leads or not strict, "checkpoint", f"{index} leaves out tensors")
                indexes[home], here = named, leads
            else:
                stale = here and not leads & looked_at
                check(stale and not strict, "checkpoint", f"{index} has files that are not there")
        for name in here:
            homes.setdefault(name, home)

    add("")
    modules = modules_of(files.get("modules.json", b""))
    of_tensors = plain | {name for name in visible if name.endswith(INDEX)}
    for home in sorted({parent(name) for name in of_tensors} - {""}):
        here = {name for name in of_tensors if parent(name) == home}
        if not here <= set(homes) and not any(f"{home}/".startswith(f"{out}/") for out in excluded):
            if "model_index.json" in files or home in modules:
                add(home)
            else:
                excluded.add(home)
    check(homes, "checkpoint", "no tensor file")
    left_out = (name for name in looked_at if any(name.startswith(f"{out}/") for out in excluded))
    check(all(name in homes for name in left_out) or not strict, "checkpoint", "a directory of other tensors")
    return homes, indexes

def weight_map(index, data, home):
    try:
        found = strict_json(data)["weight_map"]
        check(all(isinstance(name, str) for name in found.values()), "checkpoint", f"{index} is no index")
    except (TypeError, KeyError, AttributeError):
        raise PulseError("checkpoint", f"{index} is no index") from None
    return {tensor: join(home, file) for tensor, file in found.items()}

def modules_of(data):
    """The directories that are named by a list of modules, if it is one."""
    try:
        found = strict_json(data)
        paths = [module.get("path", "") for module in found] if isinstance(found, list) else []
    except (PulseError, AttributeError):
        return set()
    return {plain(path) for path in paths} if all(isinstance(path, str) for path in paths) else set()

def plain(path):
    """A path without what leads nowhere."""
    return path if path.startswith("/") else "/".join(name for name in path.split("/") if name not in ("", "."))

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
        homes, indexes = {"": ""}, {}
        if names != [""]:                                                                                  # R95
            homes, indexes = tensor_files(found, strict=True)
            check(heads and set(homes) == set(heads), "checkpoint", "readers take other files for tensors")
            check(not any(map(disguised, set(found) - set(homes))), "checkpoint", "a tensor file where case is nothing")
    elif base and all(t.action == PATCHED for t in patch.tensors.values()):                                # R78
        found, heads = base.files, base.heads
        homes, indexes = ({"": ""}, {}) if "" in found else tensor_files(found, strict=False)
    else:
        # A file of our own making: R78 leaves open which.
        found, homes, indexes = {"": own_head(tensors)}, {"": ""}, {}
        heads = found
    listed = {name: safetensors_tensors(head) for name, head in heads.items()}
    names = tensor_names(listed, homes, indexes)
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
