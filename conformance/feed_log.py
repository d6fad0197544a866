"""The records of a feed, written from FEED.md alone: §4, §5, §7.1.

    log = Log(Directory("feed"), key, mark)                # finds the head, and makes every check that leads to it
    log.record(7)                                          # a record that the head leads to

A store has get(name, limit): the object, None if it is absent; no more than limit + 1 bytes of it.
"""
import urllib.error
import urllib.request
from pathlib import Path

from feed_documents import (HINTS_LIMIT, LIMIT, FeedError, check, check_order, check_sequence, parse, parse_name,
                            record_name)

def bounded(file, limit):
    """At most limit + 1 bytes, whatever the limit."""
    data = bytearray()
    while len(data) <= limit and (piece := file.read(min(1 << 20, limit + 1 - len(data)))):
        data += piece
    return bytes(data)

class Directory:
    def __init__(self, path):
        self.path = Path(path)

    def get(self, name, limit):
        try:
            with open(self.path / name, "rb") as file:
                return bounded(file, limit)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise FeedError("store", f"{name}: {error}") from None

class Http:
    def __init__(self, address):
        self.address = address.rstrip("/")

    def get(self, name, limit):
        try:
            with urllib.request.urlopen(f"{self.address}/{name}", timeout=60) as answer:
                return bounded(answer, limit)
        except urllib.error.HTTPError as error:
            if error.code in (404, 410):
                return None
            raise FeedError("store", f"{name}: {error}") from None
        except OSError as error:
            raise FeedError("store", f"{name}: {error}") from None

class Log:
    """`key` is what the user trusts, or None; `mark` is a dict of run, version, record and key, or None."""
    def __init__(self, store, key=None, mark=None):
        self.store, self.says, self.documents = store, [], {}
        data = store.get("pulse.json", LIMIT)
        check(data is not None, "no-feed", "there is no pulse.json")
        self.feed = parse(data, "feed", None)
        self.run = self.feed.run
        check(not mark or mark["run"] == self.run, "run", f"run {self.run} after {mark and mark['run']}")
        self.trusted = list(filter(None, [key, mark and mark["key"]]))
        check(self.feed.key or not self.trusted, "unsigned", "a key is trusted, and the feed has none")
        if self.feed.key:
            self.feed.check_signed(self.feed.key)
            if not self.trusted:
                self.says.append("key-from-store")
        self.linked, self.keys = {}, None                  # records that the head leads to; F16: [(first version, key)]
        self.head = self.find_head(mark)
        self.linked[self.head.version] = self.head
        self.check_mark(mark)
        self.check_keys()

    # ------------------------------------------------------------ the head
    def load(self, version):
        data = self.store.get(record_name(version), LIMIT)
        return data if data is None else parse(data, "record", self.run, version)

    def exists(self, version):
        return self.store.get(record_name(version), 0) is not None

    def find_head(self, mark):
        """§7.1: after what is known, in steps that double, then by halves between what is there and what is not."""
        self.latest = self.document("latest.json", "latest")
        known = [doc["version"] for doc in (mark, self.latest and self.latest.fields) if doc]
        there = max((version for version in known if self.exists(version)), default=-1)
        step = 1
        while self.exists(there + step):
            there, step = there + step, 2 * step
        absent = there + step
        while absent - there > 1:
            middle = (there + absent) // 2
            there, absent = (middle, absent) if self.exists(middle) else (there, middle)
        check(there >= (mark["version"] if mark else 0), "rolled-back" if mark else "lost", f"the newest record is {there}")
        head = self.load(there)
        check(head is not None, "store", f"record {there} came and went")
        return head

    def check_mark(self, mark):
        """F27"""
        if mark:
            found = self.record(mark["version"]).digest
            check(found == mark["record"], "forked", f"version {mark['version']} is {found}, and {mark['record']} was served")

    # ------------------------------------------------------------ the chain
    def record(self, version):
        """F13: the record that the head leads to; every one on the way is kept."""
        check(version <= self.head.version, "lost", f"version {version}, and the newest is {self.head.version}")
        record = self.linked[min(known for known in self.linked if known >= version)]
        while record.version > version:
            back = record.version & record.version - 1
            if back >= version:
                record = self.follow(record, back, record.back)
            else:
                record = self.follow(record, record.version - 1, record.previous)
        return record

    def follow(self, later, version, digest):
        earlier = self.linked.get(version) or self.load(version)
        check(earlier is not None, "lost", f"record {version} is absent, and {later.version} leads to it")
        check(earlier.digest == digest, "chain", f"record {later.version} leads to another record {version}")
        (check_sequence if version + 1 == later.version else check_order)(earlier, later)
        if self.keys:
            self.check_signed(earlier)
        self.linked[version] = earlier
        return earlier

    # ------------------------------------------------------------ keys
    def check_keys(self):
        """F14 to F17: every change of the key, then all that was read so far."""
        if not self.feed.key:
            return
        keys, record = [], self.head
        while record.rekeyed is not None:
            changed = self.record(record.rekeyed)
            check(changed.new_key, "chain", f"{record.version} says that {changed.version} changed the key")
            keys.insert(0, (changed.version + 1, changed.new_key))
            if changed.version == 0:
                break
            record = self.record(changed.version - 1)
        self.keys = [(0, self.feed.key), *keys]
        for record in sorted(self.linked.values(), key=lambda record: record.version):
            self.check_signed(record)
        held = [key for _, key in self.keys]
        for key in self.trusted:
            check(key in held, "signature", f"nothing leads from {self.feed.key} to {key}, which is trusted")

    def key_at(self, version):
        return [key for first, key in self.keys if first <= version][-1]

    def check_signed(self, record):
        record.check_signed(self.key_at(record.version))
        if record.new_key:
            record.check_signed(record.new_key)

    # ------------------------------------------------------------ what is never trusted
    def document(self, name, kind, *versions):
        """F9: None if it is absent, malformed or wrong. Read once."""
        if name not in self.documents:
            self.documents[name] = None
            try:
                data = self.store.get(name, HINTS_LIMIT if kind == "hints" else LIMIT)
                self.documents[name] = None if data is None else parse(data, kind, self.run, *versions)
            except FeedError as error:
                self.says.append(f"{name}: {error}")
        return self.documents[name]

    def by_products(self, versions):
        """§2, §3: (name, document) of the by-products that the hints name, and that records of these versions confirm."""
        hints = self.document("hints.json", "hints")
        for name in (hints.anchors + hints.skips) if hints else ():
            kind, *ends = parse_name(name)
            if not set(ends) <= set(versions):
                continue
            found = self.document(name, kind, *ends)
            if found and [self.record(end).target for end in ends] == [*filter(None, [found.base]), found.target]:
                yield name, found

    def check_latest(self, now):
        """F34: what there is to report of latest.json."""
        latest = self.latest
        if latest is None:
            return
        try:
            right = latest.version <= self.head.version and self.record(latest.version).digest == latest.record
            check(right, "malformed", "it names no record of this feed")
            if self.keys:
                latest.check_signed(self.key_at(latest.version + 1))
        except FeedError as error:
            self.says.append(f"latest.json: {error}")
            return
        if latest.expires < now:
            self.says.append("expired")
        if latest.time > now + 5 * 60 * 1000:
            self.says.append("future")
