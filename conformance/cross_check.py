"""Holds a reader against the one in Python: on mutations of the good vectors, with right checksums again, both must
refuse with the same kind, or make the same target.

    cross_check.py [--mutations N] [--seed N] [--keep DIRECTORY] [--other-zstd] COMMAND...
"""
import argparse
import os
import random
import sys
import tempfile
import zlib
from collections import Counter
from functools import cache
from multiprocessing import Pool
from pathlib import Path

from manifest import ROOT, Outcome, rows, run
from pulse_apply import target_files
from pulse_files import Checkpoint
from pulse_reader import ADDED, DELETED, Cursor, Patch, PulseError, check_base
from pulse_reader import checkpoint_digest, new_bytes, sha256, tensor_digest

@cache
def vectors():
    return [(row, (ROOT / row["file"]).read_bytes()) for row in rows("good")]

@cache
def base_of(row_base):
    return row_base and Checkpoint.open(ROOT / row_base)

# ---------------------------------------------------------------- patches as lists of [tag, payload]
def split(patch):
    sections, file = [], Cursor(patch)
    start = file.take(10)
    while file.left():
        tag, length = file.take(1), file.varint()
        sections.append([tag, file.take(length)])
        file.take(4)
    return start, sections

def varint(value):
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)

def join(start, sections, mended=b"IF"):
    """The bytes of a patch. CRCs and SHA-256 are right, and offsets and tensor counts in sections to be mended."""
    out, entries, index_offset = bytearray(start), [], 0
    for tag, payload in sections:
        if tag == b"T":
            entries.append((name_fields(payload), len(out)))
        if tag == b"I":
            index_offset = len(out)
        if tag == b"I" and tag in mended:
            before, payload = 0, varint(len(entries))
            for name, offset in entries:
                payload, before = payload + name + varint(offset - before), offset
        if tag == b"F" and tag in mended and len(payload) == 145:
            payload = (payload[:1] + len(entries).to_bytes(8, "little") + payload[9:41]
                       + index_offset.to_bytes(8, "little") + payload[49:])
        section = tag + varint(len(payload)) + payload
        if tag == b"F" and len(payload) >= 32:
            section = section[:-32] + sha256(bytes(out), section[:-32])
        out += section + zlib.crc32(section).to_bytes(4, "little")
    return bytes(out)

def payload_of(tag, sections):
    return next((payload for found, payload in sections if found == tag), None)

def name_fields(payload):
    """The bytes of the name in a tensor header; of one that is broken, anything."""
    cursor = Cursor(payload)
    try:
        cursor.varint()
        cursor.take(cursor.varint())
    except PulseError:
        pass
    return payload[:cursor.at]

def forge(start, sections, base):
    """Sets digests and counts to those of what the blocks now make, so that the patch is a good one again."""
    patch = Patch(join(start, sections))
    target, trailers = dict(base), iter([s for s in sections if s[0] == b"E"])
    for t in patch.tensors.values():
        trailer = next(trailers)
        check_base(t, base.get(t.name))
        old = target.pop(t.name, (None, (), b""))[2]
        if t.action != DELETED:
            target[t.name] = t.dtype, t.shape, new_bytes(t, old)
            trailer[1] = trailer[1][:-32] + tensor_digest(target[t.name][2])
        if t.action != ADDED:
            at = len(varint(t.changes))
            trailer[1] = trailer[1][:at] + tensor_digest(old) + trailer[1][at + 32:]
    footer = sections[-1]
    sizes = [(len(data) // dtype.size, len(data)) for dtype, _, data in target.values()]
    numbers = [len(target), *(sum(column) for column in zip((0, 0), *sizes))]
    footer[1] = (footer[1][:17] + b"".join(n.to_bytes(8, "little") for n in numbers) + footer[1][41:81]
                 + checkpoint_digest(target) + footer[1][113:])

# ---------------------------------------------------------------- mutations
def mutate_bytes(rng, data):
    at, value = rng.randrange(len(data) + 1), rng.choice([0, 1, 2, 3, 127, 128, 255, rng.randrange(256)])
    some = rng.randrange(1, 5)
    return rng.choice([
        lambda: data[:at] + bytes([value]) + data[at + 1:],
        lambda: data[:at] + bytes([(data[at:at + 1] or b"\0")[0] ^ 1 << rng.randrange(8)]) + data[at + 1:],
        lambda: data[:at] + bytes([((data[at:at + 1] or b"\0")[0] + rng.choice([1, -1])) % 256]) + data[at + 1:],
        lambda: data[:at] + rng.randbytes(some) + data[at:],
        lambda: data[:at] + data[at + some:],
        lambda: data[:at],
        lambda: data[:at] + data[at:at + some] + data[at:],
    ])()

def mutate_sections(rng, sections):
    i, j = rng.randrange(len(sections)), rng.randrange(len(sections))
    kind = rng.randrange(6)
    if kind == 0:
        del sections[i]
    elif kind == 1:
        sections.insert(j, list(sections[i]))
    elif kind == 2:
        sections[i], sections[j] = sections[j], sections[i]
    elif kind == 3:
        sections[i][0] = bytes([rng.choice(b"HTBEIldFxX1")])
    elif kind == 4:
        sections.insert(i, [rng.choice([b"x", b"q", b"X"]), rng.randbytes(rng.randrange(4))])
    else:
        _, others = split(rng.choice(vectors())[1])
        sections[i] = rng.choice([other for other in others if other[0] == sections[i][0]] or [sections[i]])

def mutation(seed):
    """A mutated patch and the row of the vector that it was made from."""
    rng = random.Random(seed)
    row, patch = rng.choices(vectors(), [1 / (4000 + len(p) + Path(ROOT / r["target"]).stat().st_size)
                                         for r, p in vectors()])[0]
    start, sections = split(patch)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        if rng.random() < 0.15 and len(sections) > 1:
            mutate_sections(rng, sections)
        else:
            blocks = [s for s in sections if s[0] == b"B"]
            section = rng.choice(blocks if blocks and rng.random() < 0.5 else sections)
            section[1] = mutate_bytes(rng, section[1])
    # What was mutated itself, stays so.
    mended = b"".join(tag for tag in (b"I", b"F") if payload_of(tag, sections) == payload_of(tag, split(patch)[1]))
    if rng.random() < 0.75:
        try:
            base = base_of(row["base"])
            forge(start, sections, base.tensors if base else {})
        except (PulseError, StopIteration):
            pass                                       # it breaks a rule that no digest hides
    patch = join(start, sections, mended)
    return row, mutate_bytes(rng, patch) if rng.random() < 0.02 else patch

# ---------------------------------------------------------------- comparing
def in_python(patch, row):
    try:
        return Outcome(checkpoint=Checkpoint(target_files(patch, base_of(row["base"]))))
    except PulseError as error:
        return Outcome(kind=error.kind, said=str(error))
    except Exception as error:
        return Outcome(crash=f"crash: {error!r}")

def compare(job):
    seed, command, keep, other_zstd = job
    row, patch = mutation(seed)
    ours = in_python(patch, row)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "mutated.pulse")
        path.write_bytes(patch)
        theirs = run(command, path, row["base"] and ROOT / row["base"], Path(directory, "out"))
    agree = ours.kind == theirs.kind and not ours.crash and not theirs.crash
    if agree and ours.checkpoint:
        agree = ours.checkpoint.tensors == theirs.checkpoint.tensors
        if agree and b"l" in [tag for tag, _ in split(patch)[1]]:
            agree = ours.checkpoint.files == theirs.checkpoint.files
    if agree:
        return ours.kind or "target", None
    if other_zstd and "stream" in (ours.kind, theirs.kind) and not ours.crash and not theirs.crash:
        return "damaged frame", None                   # decoders differ in what damage they notice (R50)
    if keep:
        (keep / f"{seed}.pulse").write_bytes(patch)
    return "disagreement", f"seed {seed}, of {row['name']}:\n  Python: {ours}\n  command: {theirs}"

def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mutations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="write mutations that are disagreed upon here")
    parser.add_argument("--other-zstd", action="store_true",
                        help="the command has another decoder of Zstandard: what one refuses the other may accept")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    if not args.command:
        parser.error("no command")
    if args.keep:
        args.keep.mkdir(parents=True, exist_ok=True)
    totals = Counter()
    with Pool(os.cpu_count()) as pool:
        jobs = ((seed, args.command, args.keep, args.other_zstd) for seed in range(args.seed, args.seed + args.mutations))
        for total, message in pool.imap_unordered(compare, jobs, 16):
            totals[total] += 1
            if message:
                print(message, flush=True)
    print(f"cross-check: {args.mutations} mutations, {totals['target']} with the same target, "
          f"{args.mutations - totals['target'] - totals['disagreement']} refused with the same kind, "
          f"{totals['disagreement']} disagreements")
    print("  " + ", ".join(f"{kind} {n}" for kind, n in totals.most_common()))
    sys.exit(totals["disagreement"] > 0)

if __name__ == "__main__":
    main()
