"""A reader of the `.pulse` format, version 1.0, written from SPEC.md. Needs Python 3.11 and the package `zstandard`.

    patch = Patch(open("step.pulse", "rb").read())     # makes every check of §8.1, or raises PulseError
    tensors = apply(patch, base)                       # those of §8.2 and §8.4

Checkpoints are dicts from names to (Dtype, shape, bytes); a snapshot's base is an empty one. pulse_files.py does files.
This is made to be read, not to be fast, and holds patch, base and target in memory (so it does not meet R83).
"""
import hashlib
import struct
import zlib
from collections import deque
from dataclasses import dataclass
from math import prod
from types import SimpleNamespace
import zstandard

SIGNATURE = bytes.fromhex("ab504c530d0a1a0a")
LEAF, FILE_DATA, HEADERS = 1 << 16, 1 << 20, 100_000_008
LIMITS = {                                             # the defaults of §10
    "section_bytes": 64 << 20, "block_leaves": 64, "name_bytes": 4096, "names_bytes": 128 << 20, "name_expansion": 8,
    "metadata_bytes": 1 << 20, "tensors": 1 << 20, "files": 1 << 16, "rank": 64, "blocks": 1 << 24,
    "target_bytes": 16 << 40, "expansion": 1024}
NAMES_FREE, FREE = 1 << 20, 256 << 20                  # what the two expansions leave free
PATCHED, ADDED, REPLACED, DELETED = range(4)        # tensors
KEPT, NEW, REPLACED, REMOVED = range(4)             # files
UNSIGNED, SIGNED, FLOAT = range(3)

class PulseError(Exception):
    def __init__(self, kind, message):
        super().__init__(f"{kind}: {message}")
        self.kind = kind                               # §11

def check(condition, kind, message):
    if not condition:
        raise PulseError(kind, message)

# ---------------------------------------------------------------- §2: varints, strings, names
def utf8(data):
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise PulseError("name", "not well-formed UTF-8") from None

class Cursor:
    """Reads fields. `kind` is that of fields that do not fit and of bytes left over (R6, R16, R55)."""
    def __init__(self, data, kind="length"):
        self.data, self.at, self.kind = data, 0, kind

    def left(self):
        return len(self.data) - self.at

    def take(self, n):
        check(n <= self.left(), self.kind, f"a field of {n} bytes, but {self.left()} are left")
        self.at += n
        return self.data[self.at - n:self.at]

    def uint(self, size=1):
        return int.from_bytes(self.take(size), "little")

    def varint(self):
        value = 0
        for i in range(10):
            byte = self.uint()
            check(i < 9 or byte <= 1, "varint", "more than 64 bits")
            value |= (byte & 127) << 7 * i
            if byte < 128:
                check(i == 0 or byte, "varint", "not in shortest form")
                return value

    def string(self, longest=None):
        size = self.varint()
        check(longest is None or size <= longest, "limit", f"a name of {size} bytes")
        return utf8(self.take(size))

    def name(self, before, longest):
        """A front-coded tensor name (§2.3), as bytes."""
        shared = self.varint()
        check(shared <= len(before), "value", "shares more bytes than the name before has")
        suffix = self.varint()
        check(shared + suffix <= longest, "limit", f"a tensor name of {shared + suffix} bytes")
        name = before[:shared] + self.take(suffix)
        utf8(name)
        return name

    def end(self):
        check(self.left() == 0, self.kind, f"{self.left()} bytes after the last field")

# ---------------------------------------------------------------- §6.2, §7.1: dtypes
@dataclass(frozen=True)
class Dtype:
    name: str
    size: int = 1                                      # bytes of an element
    order: int = UNSIGNED
    mantissa: int = 0                                  # bits, in float order

    def step(self, base, zigzag):
        """The element at a zigzag step from `base`."""
        sign = 1 << 8 * self.size - 1

        def flip(negative):                            # XOR with this makes ranks of elements, and the other way round
            return 0 if self.order == UNSIGNED else 2 * sign - 1 if self.order == FLOAT and negative else sign
        step = -(zigzag + 1) // 2 if zigzag % 2 else zigzag // 2
        rank = ((base ^ flip(base & sign)) + step) % (2 * sign)
        return rank ^ flip(not rank & sign)

    def greatest_exponent(self):
        return (1 << 8 * self.size - 1 - self.mantissa) - 1 if self.order == FLOAT else 0

    def exponent(self, x):
        return x >> self.mantissa & self.greatest_exponent()

    def elements(self, data):
        return list(struct.unpack(f"<{len(data) // self.size}{' BH I   Q'[self.size]}", data))

    def data(self, elements):
        return struct.pack(f"<{len(elements)}{' BH I   Q'[self.size]}", *elements)

DTYPES = [None] + [Dtype(*row) for row in (            # by code; code 0 is any other name
    ("BOOL", 1), ("U8", 1), ("I8", 1, SIGNED), ("F8_E4M3", 1, FLOAT, 3), ("F8_E5M2", 1, FLOAT, 2), ("F8_E8M0", 1),
    ("I16", 2, SIGNED), ("U16", 2), ("F16", 2, FLOAT, 10), ("BF16", 2, FLOAT, 7), ("I32", 4, SIGNED), ("U32", 4),
    ("F32", 4, FLOAT, 23), ("C64", 8), ("F64", 8, FLOAT, 52), ("I64", 8, SIGNED), ("U64", 8))]
DTYPE_OF_NAME = {dtype.name: dtype for dtype in DTYPES[1:]}

# ---------------------------------------------------------------- §5: digests
def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()

def tensor_digest(data):
    return sha256(b"\1", *(sha256(b"\0", data[i:i + LEAF]) for i in range(0, len(data), LEAF)))

def checkpoint_digest(tensors):
    entries = []
    for name, (dtype, shape, data) in sorted(tensors.items(), key=lambda item: item[0].encode()):
        name, dtype = name.encode(), dtype.name.encode()
        entries += [struct.pack("<I", len(name)), name, struct.pack("<B", len(dtype)), dtype,
                    struct.pack(f"<B{len(shape)}Q", len(shape), *shape), tensor_digest(data)]
    return sha256(b"\2", *entries)

# ---------------------------------------------------------------- §7.2: packed streams
def unpack(cursor, most, least=0):
    head = cursor.varint()
    data = cursor.take(head >> 1)
    size = content_size(data) if head & 1 else len(data)
    check(least <= size <= most, "stream", f"a stream of {size} bytes instead of {least} to {most}")
    return decompress(data, size) if head & 1 else data

def content_size(frame):
    """What a frame says that it holds; its head is legal, and its blocks end where it does."""
    frame = Cursor(frame, "stream")
    check(frame.take(4) == b"\x28\xb5\x2f\xfd", "stream", "not a zstd frame")
    descriptor = frame.uint()
    check(descriptor & 63 == 32, "stream", f"a frame with the descriptor {descriptor:#04x}")
    width = descriptor >> 6
    size, last = frame.uint(1 << width) + (256 if width == 1 else 0), 0
    while not last:
        head = frame.uint(3)
        last, kind, length = head & 1, head >> 1 & 3, head >> 3
        check(kind != 3 and length <= min(size, 1 << 17), "stream", f"a block of type {kind} and size {length}")
        frame.take(1 if kind == 1 else length)
    frame.end()
    return size

def decompress(frame, size):
    try:
        data = zstandard.ZstdDecompressor().decompress(frame)
    except zstandard.ZstdError as error:
        raise PulseError("stream", str(error)) from None
    check(len(data) == size, "stream", f"a frame of {len(data)} bytes that says {size}")
    return data

# ---------------------------------------------------------------- §7.3 to §7.5: codings
# Each reads what is left of a block's payload, and gives a function from the base's bytes of the block to the target's.
def whole(cursor, dtype, elements, changes, matrix):
    form, out = cursor.uint(), bytearray(elements * dtype.size)
    check(form <= 1, "value", f"form {form} of whole")
    for p in range(dtype.size):
        out[p::dtype.size] = unpack(cursor, elements, elements)
    cursor.end()
    if form:                                           # rotated left by one bit: the lowest was the highest
        out = dtype.data([x >> 1 | (x & 1) << 8 * dtype.size - 1 for x in dtype.elements(out)])
    return lambda base: out

def flat(cursor, dtype, elements, changes, matrix):
    byte = cursor.uint()
    gap_width, form, value_width = byte & 7, byte >> 3 & 3, byte >> 5
    check(gap_width <= 3 and form <= 2 and value_width <= 4, "value", f"form {byte:#04x}")
    gaps, next_gap = flat_numbers(cursor, gap_width, changes)
    values, next_value = flat_numbers(cursor, value_width, changes)
    pairs, e = [], 0
    for _ in range(changes):
        e += next_gap()
        check(e < elements, "position", "a change outside its block")
        value = next_value()
        check(value < 1 << 8 * dtype.size, "value", f"value {value} is too wide")
        check(value or form == 2, "value", "value 0 changes nothing")
        pairs.append((e, value))
        e += 1
    for numbers in (gaps, values, cursor):
        numbers.end()

    def decode(base):
        out = dtype.elements(base)
        for e, v in pairs:
            out[e] = (dtype.step(out[e], v), out[e] ^ v, v)[form]
        return dtype.data(out)
    return decode

def flat_numbers(cursor, width, n):
    """A stream of n numbers, and a function that reads the next one."""
    size = 1 << width - 1 if width else 0
    numbers = Cursor(unpack(cursor, n * size, n * size) if width else unpack(cursor, 10 * n), "stream")
    return numbers, (lambda: numbers.uint(size)) if width else numbers.varint

class Codes:
    """The bits of §7.5."""
    def __init__(self, data):
        self.data, self.at = data, 0

    def left(self):
        return 8 * len(self.data) - self.at

    def bits(self, n):
        check(n <= self.left(), "stream", "codes need more bits than there are")
        first, self.at = self.at, self.at + n
        return int.from_bytes(self.data[first >> 3:self.at + 7 >> 3], "little") >> first % 8 & (1 << n) - 1

    def rice(self, k, raw):
        q = 0
        while q < 24 and self.bits(1):
            q += 1
        if q < 24:
            return (q << k) + self.bits(k)
        v = self.bits(raw)
        check(v >> k >= 24, "value", "a number is written raw although it need not be")
        return v

def contextual(cursor, dtype, elements, changes, matrix):
    lowest, classes = cursor.varint(), cursor.uint()
    predicted, classes = classes >> 7, classes & 127
    check(1 <= classes <= 32, "value", f"{classes} classes")
    check(matrix or not predicted, "value", "signs are predicted in what is no matrix, or too wide a one")
    check(lowest + classes - 1 <= dtype.greatest_exponent(), "value", "classes beyond the greatest exponent")
    table = [contextual_class(cursor, dtype) for _ in range(classes)]
    codes = Codes(cursor.take(cursor.left()))
    total = sum(count for count, *_ in table)
    check(total <= min(elements, codes.left()), "value", "counts exceed the elements or the codes")
    lists = [contextual_list(codes, dtype, predicted, *parameters) for parameters in table]
    check(codes.bits(codes.left() % 8) == 0, "reserved", "padding bits that are not zero")
    stream = codes.data[codes.at >> 3:]
    check(predicted or not stream, "stream", "bytes that no code needs")
    check(stream[:4] != b"\xff" * 4, "stream", "a sign stream that begins with 2^32 - 1")
    given = sum(step != 0 for entries in lists for _, step in entries)
    check(given == changes, "count", f"{given} changes in the codes, {changes} in the block")

    def decode(base):
        queues = [deque(entries) for entries in lists]
        left = [queue[0][0] if queue else None for queue in queues]
        signs = Signs(stream, *matrix) if predicted else None
        out = dtype.elements(base)
        for e, b in enumerate(out):
            c = min(max(dtype.exponent(b) - lowest, 0), classes - 1)
            if left[c]:
                left[c] -= 1
            elif queues[c]:
                step = queues[c].popleft()[1]
                if signs and step:                     # a magnitude
                    step = 2 * step - signs.negative(e)
                out[e] = dtype.step(b, step)
                left[c] = queues[c][0][0] if queues[c] else None
        check(not any(queues), "position", "a class has fewer elements than its codes need")
        check(not signs or signs.complete(), "stream", "a sign stream that does not end with the last change")
        return dtype.data(out)
    return decode

class Signs:
    """§7.6: whether steps are negative, from a range coder and what rows and columns have had before."""
    def __init__(self, stream, columns, first):
        self.stream, self.at, self.columns, self.first = stream, 0, columns, first
        self.v = [[256, -256 if c % 2 else 256] for c in range(columns)]
        self.row, self.range, self.code = 0, 2 ** 32 - 1, 0
        self.start_row()
        for _ in range(4):
            self.next_byte()

    def start_row(self):
        self.u, self.weight, self.changes = [0, 0], 16384, []

    def next_byte(self):
        self.code = self.code * 256 + (self.stream[self.at] if self.at < len(self.stream) else 0)
        self.at += 1

    def predict(self, c):
        return self.u[0] * self.v[c][0] + self.u[1] * self.v[c][1] >> 12

    def negative(self, element):
        row, c = divmod(self.first + element, self.columns)
        if row != self.row:
            self.end_row()
            self.row = row
        d, v = self.predict(c), self.v[c]
        bound = (self.range >> 16) * clamp(32768 + 8 * d, 1024, 64512)
        negative = self.code >= bound
        if negative:
            self.code, self.range = self.code - bound, self.range - bound
        else:
            self.range = bound
        while self.range < 1 << 24:
            self.range *= 256
            self.next_byte()
        s = -4096 if negative else 4096
        self.changes.append((c, s))
        self.weight = min(self.weight + (v[0] * v[0] + v[1] * v[1] >> 12), 1 << 30)
        t = abs(s - d) * 16384 // self.weight * (1 if s > d else -1)               # towards zero
        self.u = [clamp(u + (t * f >> 14), -8191, 8191) for u, f in zip(self.u, v)]
        return negative

    def end_row(self):
        for c, s in self.changes:
            e = s - self.predict(c)
            self.v[c] = [clamp(f + (e * u >> 11), -8191, 8191) for f, u in zip(self.v[c], self.u)]
        self.start_row()

    def complete(self):
        return self.at == len(self.stream) + 3 and self.code < 1 << 24

def clamp(x, least, most):
    return min(max(x, least), most)

def contextual_class(cursor, dtype):
    """A row of the table: count, gap k, exception k, magnitude k, exceptions; gap k is None if the class is dense."""
    count = cursor.varint()
    if count == 0:
        return 0, 0, 0, 0, 0
    parameters = cursor.uint(2)
    gap_k, exception_k, magnitude_k = parameters & 31, parameters >> 5 & 31, parameters >> 10
    check(exception_k <= 30 and magnitude_k < 8 * dtype.size, "value", "a parameter is too great")
    if gap_k == 31:
        check(exception_k == 0, "value", "a dense class has an exception k")
        return count, None, 0, magnitude_k, 0
    exceptions = cursor.varint()
    check(exceptions <= count, "value", "more exceptions than changes")
    check(exceptions or exception_k == magnitude_k == 0, "reserved", "parameters without exceptions")
    return count, gap_k, exception_k, magnitude_k, exceptions

def contextual_list(codes, dtype, predicted, count, gap_k, exception_k, magnitude_k, exceptions):
    """The codes of a class as pairs of gap and zigzag, or of gap and magnitude where signs are predicted."""
    width = 8 * dtype.size

    def fitting(step):
        check(step < 1 << width - predicted, "value", "a step that the dtype does not have")
        return step
    if gap_k is None:
        return [(0, fitting(codes.rice(magnitude_k, width))) for _ in range(count)]
    gaps, places, at = [], [], 0
    for _ in range(count):
        gaps.append(codes.rice(gap_k, 32))
        check(gaps[-1] < 2**32 - 1, "position", "a gap that no block has")
    steps = [1 if predicted else 2 - codes.bits(1) for _ in range(count)]
    for _ in range(exceptions):
        at += codes.rice(exception_k, 32)
        check(at < count, "position", "an exception after the last change")
        places.append(at)
        at += 1
    for p in places:
        magnitude = 2 + codes.rice(magnitude_k, width)
        steps[p] = fitting(magnitude if predicted else 2 * magnitude - steps[p] % 2)
    return list(zip(gaps, steps))

CODINGS = [whole, flat, contextual]

# ---------------------------------------------------------------- §3, §4, §6, §8.1: reading
class Patch:
    """What a patch says. Its tensors have `blocks`, each (start, end, decode), which are checked as far as they can be
    without the base; its files have their `content`, if the patch carries it. `limits` are those that differ from the
    defaults."""
    def __init__(self, data, limits={}):
        self.limits = LIMITS | limits
        self.file, self.start = Cursor(data, "truncated"), 0       # start: of the section being read
        self.files, self.tensors, self.index, self.names_bytes, self.head_bytes = [], {}, [], 0, 0
        self.block_count = self.declared_bytes = self.unpacked_bytes = 0
        check(self.file.take(8) == SIGNATURE, "signature", "not a patch")
        major, _minor = self.file.take(2)
        check(major == 1, "version", f"major version {major}")
        self.read_header(self.section("H", skip=False)[1])
        tag, payload = self.section("lTI")
        while tag == "l":
            self.read_file(payload)
            tag, payload = self.section("lTI")
        while tag == "T":
            self.read_tensor(payload)
            tag, payload = self.section("TI")
        self.index_offset = self.start
        self.read_index(payload)
        self.read_footer(self.section("F", skip=False)[1])
        check(self.file.left() == 0, "trailing", "bytes after the footer")

    def section(self, allowed, skip=True):
        """Tag and payload of the next section, unknown skippable ones skipped: steps 2 and 3 of §8.1."""
        file = self.file
        while True:
            self.start = file.at
            tag = chr(file.uint())
            check(tag.isascii() and tag.isalpha(), "unknown-section", f"tag {tag!r}")
            length = file.varint()
            self.limit("section_bytes", length)
            payload = file.take(length)
            crc = zlib.crc32(file.data[self.start:file.at])
            check(file.uint(4) == crc, "crc", f"wrong CRC-32 of the section at byte {self.start}")
            known = tag in "HTBEIldF"
            check(known or tag.islower(), "unknown-section", f"critical section {tag}")
            check(tag in allowed if known else skip, "order", f"a section {tag} where one of {allowed} is expected")
            if known:
                return tag, Cursor(payload)

    def read_header(self, payload):
        flags = payload.uint()
        check(flags < 32, "reserved", f"flags {flags:#04x}")
        self.snapshot = bool(flags & 1)
        check(not self.snapshot or not flags & 0b10100, "value", "a snapshot with a base step or base digest")
        self.block_leaves = payload.varint()
        check(1 <= self.block_leaves <= 1024, "value", f"block size {self.block_leaves}")
        self.limit("block_leaves", self.block_leaves)
        self.run = payload.take(16) if flags & 2 else None
        self.base_step = payload.varint() if flags & 4 else None
        self.target_step = payload.varint() if flags & 8 else None
        self.header_base_digest = payload.take(32) if flags & 16 else None
        self.limit("metadata_bytes", payload.left())
        self.metadata, before = {}, None
        for _ in range(payload.varint()):
            key = payload.string()
            check(before is None or before < key.encode(), "duplicate", f"metadata key {key!r} is not in order")
            self.metadata[key], before = payload.string(), key.encode()
        payload.end()

    def read_file(self, payload):
        self.limit("files", len(self.files) + 1)
        flags = payload.uint()
        kind, state = flags & 1, flags >> 1
        check(state <= (REMOVED if kind else NEW), "reserved", f"flags {flags:#04x}")
        name = payload.string(self.limits["name_bytes"])
        components = name.split("/")
        bad = any(c in "\\:" or c < " " or "\x7f" <= c <= "\x9f" for c in name)
        bad |= len(name.encode()) > 1024 or len(components) > 8
        bad |= any(part in ("", ".", "..") or len(part.encode()) > 255 for part in components)
        check(not name and not kind or not bad, "name", f"file name {name!r}")
        file = SimpleNamespace(companion=kind, state=state, in_patch=state in (NEW, REPLACED), name=name,
                               size=payload.varint(), digest=payload.take(32), content=bytearray())
        if state == REPLACED:
            file.base = payload.varint(), payload.take(32)
            check(file.base != (file.size, file.digest), "value", f"{name!r} is replaced by itself")         # R96
        payload.end()
        check(state == NEW or not self.snapshot, "value", "a file of a snapshot that is not new")
        check(all(name != f.name for f in self.files), "duplicate", f"file {name!r} stands twice")
        self.files.append(file)
        self.spend(file.size if file.in_patch else 0)
        while file.in_patch and len(file.content) < file.size:
            payload = self.section("d")[1]
            data = unpack(payload, min(FILE_DATA, file.size - len(file.content)))
            check(data, "value", "a file data section without data")
            self.unpacked(len(data), payload)
            payload.end()
            self.head_bytes += 0 if file.companion else len(data)
            check(self.head_bytes <= HEADERS, "checkpoint", f"safetensors headers of more than {HEADERS} bytes")
            file.content += data
        check(not file.in_patch or sha256(file.content) == file.digest, "digest", f"content of {name!r}")

    def read_tensor(self, payload):
        self.limit("tensors", len(self.index) + 1)
        name = payload.name(self.index[-1][0] if self.index else b"", self.limits["name_bytes"])
        self.names_bytes += len(name)
        self.limit("names_bytes", self.names_bytes)
        self.expand("name_expansion", self.names_bytes - NAMES_FREE, payload)
        t = SimpleNamespace(name=utf8(name), action=payload.uint(), dtype=None, shape=(), size=0, end=0, changes=0)
        check(t.action <= 3, "value", f"action {t.action}")
        if t.action != DELETED:
            code = payload.uint()
            check(code < len(DTYPES), "value", f"dtype {code}")
            t.dtype = DTYPES[code]
            if code == 0:
                dtype_name = payload.string(min(self.limits["name_bytes"], 255))
                check(dtype_name and dtype_name not in DTYPE_OF_NAME, "name", f"dtype name {dtype_name!r}")
                t.dtype, t.size = Dtype(dtype_name), payload.varint()
            rank = payload.varint()
            check(rank <= min(self.limits["rank"], 255), "limit", f"rank {rank}")
            t.shape = tuple(payload.varint() for _ in range(rank))
            t.size = t.dtype.size * prod(t.shape) if code else t.size
            check(t.size < 1 << 64, "value", "the size exceeds 64 bits")
        payload.end()
        check(t.action == ADDED or not self.snapshot, "value", "a tensor of a snapshot that is not added")
        check(t.name not in self.tensors, "duplicate", f"tensor {t.name!r} stands twice")
        self.tensors[t.name], t.blocks = t, []
        self.spend(t.size)
        self.index.append((name, self.start))
        tag, payload = self.section("E" if t.action == DELETED else "BE")
        while tag == "B":
            self.read_block(payload, t)
            tag, payload = self.section("BE")
        self.read_trailer(payload, t)

    def spend(self, size):
        self.declared_bytes += size
        self.limit("target_bytes", self.declared_bytes)

    def unpacked(self, size, payload):
        self.unpacked_bytes += size
        self.expand("expansion", self.unpacked_bytes - FREE, payload)

    def limit(self, name, found):
        check(found <= self.limits[name], "limit", f"{found}, and {name} is {self.limits[name]}")

    def expand(self, name, found, payload):
        """The bytes of what was expanded, for those of the file up to the end of this payload."""
        read, limit = self.start + len(payload.data), self.limits[name]
        check(found <= limit * read, "limit", f"{found} bytes from {read}, and {name} is {limit}")

    def read_block(self, payload, t):
        self.block_count += 1
        self.limit("blocks", self.block_count)
        coding = payload.uint()
        check(coding < len(CODINGS), "value", f"coding {coding}")
        skipped, leaves = payload.varint(), payload.varint()
        check(1 <= leaves <= self.block_leaves, "value", f"a block of {leaves} leaves")
        changes = payload.varint()
        check(changes >= 1, "value", "a block without changes")
        check(t.action == PATCHED or coding == skipped == 0, "value", "a tensor put whole has another coding, or a gap")
        start = t.end + LEAF * skipped
        check(start < t.size, "value", "a block after the end of its tensor")
        check(LEAF * (leaves - 1) < t.size - start, "value", "more leaves than are left")
        t.end = min(start + LEAF * leaves, t.size)
        elements = (t.end - start) // t.dtype.size
        check(changes <= elements, "count", f"{changes} changes in {elements} elements")
        check(t.action == PATCHED or changes == elements, "count", "a tensor put whole, but not every element")
        t.changes += changes
        self.unpacked(t.end - start if CODINGS[coding] is whole else 0, payload)
        columns = t.shape[-1] if len(t.shape) >= 2 and t.dtype in DTYPES else 0                          # §7.6
        matrix = (columns, start // t.dtype.size % columns) if 1 <= columns <= 1 << 16 else None
        t.blocks.append((start, t.end, CODINGS[coding](payload, t.dtype, elements, changes, matrix)))

    def read_trailer(self, payload, t):
        changes = payload.varint()
        check(changes or t.action != PATCHED, "value", "a patched tensor without changes")
        t.base_digest = payload.take(32) if t.action != ADDED else None
        t.target_digest = payload.take(32) if t.action != DELETED else None
        payload.end()
        check(changes == t.changes, "count", f"{changes} changes in the trailer, {t.changes} in the blocks")
        check(t.action == PATCHED or t.end == t.size, "count", "the blocks do not cover the tensor")

    def read_index(self, payload):
        check(payload.varint() == len(self.index), "count", "the index has another number of tensors")
        before, offset = b"", 0
        for name, tensor_offset in self.index:
            before = payload.name(before, self.limits["name_bytes"])
            check(before == name, "name", f"{before} in the index, {name} in the tensor header")
            offset += payload.varint()
            check(offset == tensor_offset, "count", f"offset {offset} in the index, {tensor_offset} in the file")
        payload.end()

    def read_footer(self, payload):
        flags = payload.uint()
        check(flags < 2, "reserved", f"flags {flags:#04x}")
        tensors, changes, *self.target_counts, index_offset = (payload.uint(8) for _ in range(6))
        self.base_digest = payload.take(32)
        check(flags or not any(self.base_digest), "reserved", "an absent base digest that is not zero")
        self.target_digest, file_digest = payload.take(32), payload.take(32)
        payload.end()
        check(flags != self.snapshot, "count", "a snapshot with a base digest, or another patch without")
        sum_of_changes = sum(t.changes for t in self.tensors.values())
        check(sum_of_changes < 1 << 64, "value", "the sum of changes exceeds 64 bits")
        expected = len(self.index), sum_of_changes, self.index_offset
        check((tensors, changes, index_offset) == expected, "count", "tensors, changes or index offset")
        self.limit("target_bytes", self.target_counts[2])
        check(self.header_base_digest in (None, self.base_digest), "digest", "the header has another base digest")
        found = sha256(self.file.data[:self.file.at - 36])
        check(file_digest == found, "file-digest", "the SHA-256 of the file is wrong")

# ---------------------------------------------------------------- §8.2, §8.4: applying
def apply(patch, base):
    """The tensors of the target."""
    try:
        for t in patch.tensors.values():
            check_base(t, base.get(t.name))
        target = {name: tensor for name, tensor in base.items() if name not in patch.tensors}
        for t in patch.tensors.values():
            apply_tensor(t, base.get(t.name, (None, (), b""))[2], target)
        check(checkpoint_digest(target) == patch.target_digest, "digest", "checkpoint digest of the target")
        sizes = [(1, len(data) // dtype.size, len(data)) for dtype, _, data in target.values()]
        counts = [sum(column) for column in zip((0, 0, 0), *sizes)]
        check(counts == patch.target_counts, "count", f"target {counts}, footer {patch.target_counts}")
        for t in patch.tensors.values():
            right = t.action not in (REPLACED, DELETED) or tensor_digest(base[t.name][2]) == t.base_digest
            check(right, "base", f"tensor {t.name!r} of the base")
        return target
    except PulseError as error:
        blame(patch, base, error)

def check_base(t, old):
    check((old is None) == (t.action == ADDED), "checkpoint", f"tensor {t.name!r} in the base")
    dtype, shape, data = old or (None, (), b"")
    same = (dtype, shape, len(data)) == (t.dtype, t.shape, t.size)
    check(same or t.action != PATCHED, "checkpoint", f"tensor {t.name!r} has another dtype, shape or size")

def apply_tensor(t, old, target):
    if t.action != DELETED:
        new = new_bytes(t, old)
        check(tensor_digest(new) == t.target_digest, "digest", f"tensor {t.name!r} of the target")
        target[t.name] = t.dtype, t.shape, new

def new_bytes(t, old):
    new = bytearray()
    for start, end, decode in t.blocks:
        new += old[len(new):start] + decode(old[start:end])
    return bytes(new + old[len(new):] if t.action == PATCHED else new)

def blame(patch, base, error):
    """R63: the base is the reason if it is not the one that the patch names."""
    right = patch.snapshot or checkpoint_digest(base) == patch.base_digest
    check(right, "base", f"another base than that of the patch ({error})")
    raise error
