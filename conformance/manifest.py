"""The vectors of ../testvectors, and what an outcome of theirs should have been."""
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pulse_files import Checkpoint
from pulse_reader import PulseError

KINDS = set("""signature version truncated trailing crc file-digest order unknown-section varint reserved value length name
    duplicate count stream position digest limit base target checkpoint misuse io""".split())                       # §11
ROOT = Path(__file__).parent.parent / "testvectors"

def rows(kind):
    return json.loads((ROOT / "manifest.json").read_text())[kind]

@dataclass
class Outcome:
    """What a command made of a patch: the checkpoint that it wrote, or the kind of its refusal."""
    checkpoint: Checkpoint | None = None
    kind: str | None = None
    crash: str | None = None
    said: str = ""

    def __str__(self):
        return self.crash or (f"refused as {self.said}" if self.kind else "a target")

def run(command, patch, base, out, limits=None):
    """Calls `command` as README.md says."""
    arguments = [*command, str(patch), *(["--base", str(base)] if base else []), "--out", str(out)]
    arguments += [word for name, value in (limits or {}).items() for word in ("--limit", f"{name}={value}")]
    try:
        done = subprocess.run(arguments, capture_output=True, timeout=120)
    except subprocess.TimeoutExpired:
        return Outcome(crash="no end after 120 s")
    if done.returncode == 0:
        try:
            return Outcome(checkpoint=Checkpoint.open(out))
        except (PulseError, OSError) as error:
            return Outcome(crash=f"exit status 0, but the output cannot be read: {error}")
    last = done.stderr.decode("utf-8", "replace").strip().split("\n")[-1] or "nothing on standard error"
    if done.returncode != 1:
        return Outcome(crash=f"exit status {done.returncode}: {last}")
    if out.exists():
        return Outcome(crash="refused, but there is an output")
    kind = last.partition(":")[0].strip()
    return Outcome(kind=kind, said=last) if kind in KINDS else Outcome(crash=f"exit status 1, but no kind: {last}")
