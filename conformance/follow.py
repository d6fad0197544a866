"""Follows a feed, as FEED.md says: makes its newest version, or that of a number, and proves it.

    follow.py FEED [--key HEX] [--mark FILE] [--held FILE] [--at VERSION] [--now MILLISECONDS] [--out FILE]

FEED is a directory or an address of http. MARK is what was served before: it is read, and written again. HELD is a
checkpoint, as OUT is, which is made as one safetensors file. Prints one JSON object: what was made, and in what way, or
the error kind (§9), with exit status 1.
"""
import argparse
import hashlib
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from feed_documents import DIGEST, KEY, RUN, FeedError, check, integer, object_of
from feed_log import Directory, Http, Log
from pulse_files import Checkpoint, own_head
from pulse_reader import Patch, PulseError, apply, checkpoint_digest

MARK = object_of({"run": RUN, "version": integer(), "record": DIGEST, "key?": KEY})

class Absent(Exception):
    pass

@dataclass
class Part:
    """A step of a way: what leads from one version, or from nothing, to another."""
    start: int | None
    end: int
    data: dict | None = None                               # None where no weights change
    by_product: str | None = None

    def cost(self):
        return self.data["bytes"] if self.data else 0

    def names(self):
        return {self.by_product, self.data["object"], self.data["sha256"]} if self.data else set()

class Follower:
    def __init__(self, log, tensors=None):
        self.log, self.tensors = log, tensors
        self.barred, self.failed = set(), set()            # F31: by-products; objects that are absent or were refused
        self.held = self.version_of(checkpoint_digest(tensors).hex()) if tensors is not None else None

    def version_of(self, digest):
        """§7.2: the newest version with this target, or None."""
        versions = range(self.log.head.version, -1, -1)
        return next((version for version in versions if self.log.record(version).target == digest), None)

    # ------------------------------------------------------------ ways
    def parts(self, low, wanted):
        for version in range(low, wanted + 1):
            record = self.log.record(version)
            anchor = record.anchor
            if anchor["version"] >= low and self.log.record(anchor["version"]).target == anchor["target"]:
                yield Part(None, anchor["version"], anchor["data"])
            if version > low and record.base == record.target:
                yield Part(version - 1, version)
            elif version > low and record.patch:
                yield Part(version - 1, version, record.patch)
        for name, found in self.log.by_products(range(low, wanted + 1)):
            start = getattr(found, "from")
            yield Part(start, found.version if start is None else found.to, found.data, name)

    def ways(self, low, wanted):
        """The cheapest way to each version that can be reached: (bytes, parts)."""
        best = {self.held: (0, ())} if self.held is not None and low <= self.held <= wanted else {}
        best[None] = (0, ())
        # Every part leads to a later version than it starts from.
        for part in sorted(self.parts(low, wanted), key=lambda part: (part.end, part.cost())):
            if part.start in best and not self.left_out(part):
                cost, before = best[part.start]
                if part.end not in best or cost + part.cost() < best[part.end][0]:
                    best[part.end] = cost + part.cost(), (*before, part)
        del best[None]
        return best

    def left_out(self, part):
        return part.data and (part.data["object"] in self.failed or part.by_product and part.names() & self.barred)

    def floors(self, wanted):
        """Where to look for ways: from the newest anchor on, then from each one before it."""
        low = wanted + 1
        while low:
            low = self.log.record(low - 1).anchor["version"]
            yield low if self.held is None or self.held > wanted else min(low, self.held)

    def way(self, wanted, exact):
        for low in self.floors(wanted):
            ways = self.ways(low, wanted)
            if wanted in ways:
                return wanted, *ways[wanted]
        # F32: the newest that can be reached, if any version will do.
        newest = max(ways) if ways and not exact else None
        return (newest, *ways[newest]) if newest is not None else None

    # ------------------------------------------------------------ making
    def make(self, wanted, exact=False, least=0):
        """F29 to F32: (version, bytes, parts) of what was made, which is in `tensors` then."""
        failed, again = None, True
        while True:
            way = self.way(wanted, exact)
            own = least if self.held is None else max(least, self.held + 1)
            if way is None or way[0] != wanted and way[0] < own:
                raise failed or FeedError("lost", f"nothing leads to version {wanted}")
            version, cost, parts = way
            try:
                self.walk(version, parts)
                return way
            except Absent as absent:
                self.failed.add(str(absent))
            except FeedError as error:
                failed = error
                by_products = [part for part in parts if part.by_product]
                if by_products:
                    self.barred |= set().union(*(part.names() for part in by_products))
                elif again:
                    again = False
                else:
                    self.failed.add(self.culprit["object"])

    def walk(self, version, parts):
        tensors = self.tensors
        for part in parts:
            if part.data:
                self.culprit = part.data
                tensors = self.apply(part, tensors)
        right = checkpoint_digest(tensors).hex() == self.log.record(version).target
        check(right, "result", f"what was made is not version {version}")
        self.tensors, self.held = tensors, version

    def apply(self, part, tensors):
        said = part.data
        data = self.log.store.get(said["object"], said["bytes"])
        if data is None:
            raise Absent(said["object"])
        check(len(data) == said["bytes"], "data", f"{said['object']} has another size than {said['bytes']}")
        check(hashlib.sha256(data).hexdigest() == said["sha256"], "data", f"{said['object']} has another SHA-256")
        try:
            patch = Patch(data)
        except PulseError as error:
            raise FeedError("limit" if error.kind == "limit" else "data", f"{said['object']}: {error}") from None
        base = None if part.start is None else self.log.record(part.start).target
        found = None if patch.snapshot else patch.base_digest.hex()
        check(found == base, "data", f"{said['object']} is of base {found}, not {base}")
        right = patch.target_digest.hex() == self.log.record(part.end).target
        check(right, "data", f"{said['object']} has another target than version {part.end}")
        try:
            return apply(patch, {} if patch.snapshot else tensors)
        except PulseError as error:
            raise FeedError("result", f"{said['object']}: {error}") from None

def replace(path, data):
    """Whole or not at all."""
    new = path.with_name(path.name + ".new")
    with open(new, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)

def safetensors(tensors):
    tensors = dict(sorted(tensors.items(), key=lambda item: item[0].encode()))
    return own_head(tensors) + b"".join(data for _, _, data in tensors.values())

def read_mark(path):
    try:
        mark = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    if not MARK(mark):
        sys.exit(f"{path} is no mark")
    return {"key": None} | mark

def follow(args):
    store = Http(args.feed) if args.feed.startswith(("http://", "https://")) else Directory(args.feed)
    mark = args.mark and read_mark(args.mark)
    log = Log(store, args.key, mark)
    log.check_latest(int(time.time() * 1000) if args.now is None else args.now)
    follower = Follower(log, args.held and Checkpoint.open(args.held).tensors)
    # F28: an older version than was served, only if it is asked for.
    wanted, least = (log.head.version, mark["version"] if mark else 0) if args.at is None else (args.at, 0)
    log.record(wanted)
    version, cost, parts = follower.make(wanted, args.at is not None, least)
    record = log.record(version)
    if args.out:
        replace(args.out, safetensors(follower.tensors))
    if args.mark and (not mark or version >= mark["version"]):
        key = log.key_at(version + 1) if log.keys else None
        new = {"run": log.run, "version": version, "record": record.digest} | ({"key": key} if key else {})
        replace(args.mark, json.dumps(new).encode())
    names = [part.data["object"] for part in parts if part.data]
    return {"run": log.run, "version": version, "digest": record.target, "record": record.digest, "step": record.step,
            "head": log.head.version, "ended": bool(log.head.ended), "way": names, "bytes": cost, "says": log.says}

def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("feed")
    parser.add_argument("--key")
    parser.add_argument("--mark", type=Path)
    parser.add_argument("--held", type=Path)
    parser.add_argument("--at", type=int)
    parser.add_argument("--now", type=int)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.key and not KEY(args.key):
        parser.error("a key has 64 hex digits")
    try:
        print(json.dumps(follow(args)))
    except FeedError as error:
        print(json.dumps({"error": error.kind, "message": str(error)}))
        sys.exit(1)

if __name__ == "__main__":
    main()
