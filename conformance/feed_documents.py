"""The documents of a feed, written from FEED.md alone: §2 to §5.

    record = parse(data, "record", run, 7)                 # makes every check of one document, or raises FeedError
    check_sequence(before, record)                         # those of two records
    record.check_signed(key)
"""
import hashlib
import json
import re

import ed25519

LIMIT, HINTS_LIMIT = 1 << 16, 1 << 20
GREATEST = 1 << 53                                         # integer
NESTING = 8
KINDS = set("""malformed seal limit version run chain epoch ended unsigned signature rolled-back forked data result lost fenced
    conditions no-feed store""".split())                                                                                      # §9

class FeedError(Exception):
    def __init__(self, kind, message):
        super().__init__(f"{kind}: {message}")
        self.kind = kind

def check(condition, kind, message):
    if not condition:
        raise FeedError(kind, message)

# ---------------------------------------------------------------- forms of fields
def integer(least=0):
    return lambda value: type(value) is int and value >= least

def hexadecimal(digits):
    return lambda value: isinstance(value, str) and re.fullmatch(f"[0-9a-f]{{{digits}}}", value) is not None

def name(kind):
    return lambda value: isinstance(value, str) and parse_name(value)[0] == kind

def array(form, longest=GREATEST):
    return lambda value: isinstance(value, list) and len(value) <= longest and all(map(form, value))

def parse_name(text):
    """What kind of object a name is of, and the versions in it."""
    found = re.fullmatch(r"(?:(log)/([0-9]{20})\.json|(data)/([0-9]{20})-[0-9a-f]{16}|"
                         r"(anchor)/([0-9]{20})-[0-9a-f]{16}\.json|(skip)/([0-9]{20})-([0-9]{20})-[0-9a-f]{16}\.json)", text)
    kind, *versions = filter(None, found.groups()) if found else (None,)
    versions = [int(version) for version in versions]
    legal = all(version <= GREATEST for version in versions) and (kind != "skip" or versions[0] < versions[1])
    return (kind, *versions) if legal else (None,)

def record_name(version):
    return f"log/{version:020}.json"

def object_of(forms):
    """The form of an object with these fields; a question mark at the end of a name makes a field optional."""
    def form(value):
        return isinstance(value, dict) and all(
            value[field.rstrip("?")] is not None and good(value[field.rstrip("?")]) if field.rstrip("?") in value
            else field.endswith("?") for field, good in forms.items())
    return form

DIGEST, KEY, RUN = hexadecimal(64), hexadecimal(64), hexadecimal(32)
DATA = object_of({"object": name("data"), "sha256": DIGEST, "bytes": integer(), "format": integer()})
SEAL = object_of({"sha256": DIGEST, "signatures": array(object_of({"key": KEY, "signature": hexadecimal(128)}))})
FORMS = {
    "feed": {"major": integer(), "minor": integer(), "time": integer(), "key?": KEY},
    "record": {
        "version": integer(), "epoch": integer(1), "writer": RUN, "previous?": DIGEST, "back?": DIGEST, "base?": DIGEST,
        "target": DIGEST, "step?": integer(), "time": integer(), "patch?": DATA,
        "anchor": object_of({"version": integer(), "target": DIGEST, "data": DATA}), "rekeyed?": integer(), "new_key?": KEY,
        "ended?": lambda value: value is True},
    "latest": {"version": integer(), "record": DIGEST, "time": integer(), "expires": integer()},
    "skip": {"from": integer(), "to": integer(), "base": DIGEST, "target": DIGEST, "data": DATA},
    "anchor": {"version": integer(), "target": DIGEST, "data": DATA},
    "hints": {"anchors": array(name("anchor"), 1000), "skips": array(name("skip"), 4000)},
    "floor": {"version": integer(), "time": integer()},
}

# ---------------------------------------------------------------- lines
def strict_json(line):
    """F2: one JSON object in which nothing is left to the reader."""
    def unique(pairs):
        check(len(dict(pairs)) == len(pairs), "malformed", "a key stands twice")
        return dict(pairs)

    def number(text):
        check(text.isdigit() and len(text) <= 16 and int(text) <= GREATEST, "malformed", f"the number {text[:40]}")
        return int(text)

    def nested(value):
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return 0 if inner is None else 1 + max(map(nested, inner), default=0)

    try:
        value = json.loads(line.decode("utf-8"), object_pairs_hook=unique, parse_int=number, parse_float=number,
                           parse_constant=number)
        json.dumps(value, ensure_ascii=False).encode("utf-8")                              # no lone surrogate
        check(isinstance(value, dict) and nested(value) <= NESTING, "malformed", "no object, or nested too deep")
    except (ValueError, RecursionError) as error:
        raise FeedError("malformed", f"bad JSON: {error}") from None
    return value

class Document:
    def __init__(self, payload, fields, signatures):
        self.payload, self.fields, self.signatures = payload, fields, signatures
        self.digest = hashlib.sha256(payload).hexdigest()

    def __getattr__(self, field):
        """A field of the payload; None if it is absent."""
        return self.fields.get(field)

    def check_signed(self, key):
        """F14: a signature of this key."""
        check(self.signatures, "unsigned", f"{self.type} {self.version} is not signed")
        found = [bytes.fromhex(s["signature"]) for s in self.signatures if s["key"] == key]
        message = b"pulse-feed-1\n" + self.payload
        verified = any(ed25519.verify(bytes.fromhex(key), signature, message) for signature in found)
        check(verified, "signature", f"{self.type} {self.version} has no valid signature of {key}")

def parse(data, kind, run, *versions):
    """A document of this type, whose name has these versions; `run` is None where it is to be learned."""
    check(len(data) <= (HINTS_LIMIT if kind == "hints" else LIMIT), "limit", f"{kind}: {len(data)} bytes")
    check(data.count(b"\n") == 2 and data.endswith(b"\n"), "malformed", f"{kind}: not two lines")
    payload, seal = data[:-1].split(b"\n")
    seal = strict_json(seal)
    check(SEAL(seal), "malformed", f"{kind}: the seal")
    check(hashlib.sha256(payload).hexdigest() == seal["sha256"], "seal", f"{kind}: another payload than that of the seal")
    fields = strict_json(payload)
    check(fields.get("type") == kind, "malformed", f"{fields.get('type')} instead of {kind}")
    if kind == "feed" and integer()(fields.get("major")):
        check(fields["major"] == 1, "version", f"major version {fields['major']}")
    check(RUN(fields.get("run")), "malformed", f"{kind}: the run")
    check(run in (None, fields["run"]), "run", f"{kind} of run {fields['run']} instead of {run}")
    for field, form in FORMS[kind].items():
        check_format(fields.get(field.rstrip("?")))
        check(object_of({field: form})(fields), "malformed", f"{kind}: {field} is missing, or not of its form")
    document = Document(payload, fields, seal["signatures"])
    if kind == "record":
        check_record(document)
    here = [fields[field] for field in ("from", "to", "version") if field in FORMS[kind]]
    check(not versions or here == list(versions), "malformed", f"{kind}: the name has {versions}, the document {here}")
    check_data(fields.get("patch"), document.version)
    check_data(fields.get("data"), document.to if kind == "skip" else document.version)
    return document

def check_format(field):
    """F8: of the data in a field, if there are any."""
    data = field.get("data", field) if isinstance(field, dict) else None
    number = data.get("format") if isinstance(data, dict) else None
    check(number == 1 or not integer()(number), "version", f"data of format {number}")

def check_data(data, version):
    """F7"""
    right = data is None or parse_name(data["object"])[1] == version
    check(right, "malformed", f"data of version {version} are named {data and data['object']}")

# ---------------------------------------------------------------- §4
def check_record(record):
    first, before = record.version == 0, [record.previous, record.back, record.base]
    anchor, here = record.anchor, record.anchor["version"] == record.version
    check((None not in before) if not first else not any(before), "malformed", "previous, back or base")            # F10
    check(record.version % 2 == 0 or record.back == record.previous, "malformed", "back and previous differ")
    check(not first or record.patch is None and here, "malformed", "version 0 has a patch, or no anchor")
    check(anchor["version"] <= record.version, "malformed", "an anchor of a later version")                         # F11
    check(not here or anchor["target"] == record.target, "malformed", "its own anchor has another target")
    check_data(anchor["data"], anchor["version"])
    if record.base == record.target:
        check(record.patch is None, "malformed", "a patch that changes nothing")
    else:
        check(record.patch is not None or here, "malformed", "neither a patch nor an anchor of this version")
    rekeyed = record.version if record.rekeyed is None else record.rekeyed
    check(rekeyed <= record.version, "malformed", "rekeyed by a later version")
    check((record.rekeyed == record.version) == (record.new_key is not None), "malformed", "rekeyed and new_key")

def check_order(earlier, later):
    """F13: what never goes back."""
    check(not earlier.ended, "ended", f"version {earlier.version} was the last, and {later.version} follows")
    check(later.epoch >= earlier.epoch, "epoch", f"version {later.version} is of epoch {later.epoch} after {earlier.epoch}")
    old, new = earlier.anchor, later.anchor
    check(new == old or new["version"] > old["version"], "chain", f"version {later.version} has an earlier anchor")
    old, new = (-1 if record.rekeyed is None else record.rekeyed for record in (earlier, later))
    check(new >= old, "chain", f"version {later.version} was rekeyed earlier")

def check_sequence(first, second):
    """F12"""
    check(second.previous == first.digest, "chain", f"version {second.version} does not follow {first.version}")
    check(second.base == first.target, "chain", f"version {second.version} has another base")
    rekeyed = second.rekeyed in (first.rekeyed, second.version)
    check(rekeyed, "chain", f"version {second.version} has another change of keys")
    check_order(first, second)
