"""Runs every vector of testvectors/manifest.json: fed whole, byte by byte, and in chunks of 7."""
import hashlib
import io
import json
import sys
from pathlib import Path

from pulse_files import Base, rebuild
from pulse_reader import PulseError, apply, checkpoint_digest

ROOT = Path(__file__).parent.parent / "testvectors"


class Chunks(io.BytesIO):
    """A stream that never gives more than `most` bytes at once."""
    def __init__(self, data, most):
        super().__init__(data)
        self.most = most

    def read(self, n=-1):
        return super().read(min(n, self.most))


def run(row, most):
    data = (ROOT / row["file"]).read_bytes()
    assert hashlib.sha256(data).hexdigest() == row.get("sha256", hashlib.sha256(data).hexdigest()), "vector sha256"
    base = Base((ROOT / row["base"]).read_bytes()) if row["base"] else None
    if base and row.get("base_digest"):
        assert checkpoint_digest(base.tensors).hex() == row["base_digest"], "base digest"
    result = apply(Chunks(data, most), base and base.tensors)
    file = rebuild(result, base) if any(f.name == "" for f in result.patch.files) else None
    return result, file


def problem(row, most):
    """What is wrong with the outcome of a vector, or None."""
    try:
        result, file = run(row, most)
    except PulseError as error:
        return None if error.kind == row.get("error") else f"expected {row.get('error', 'success')}, got {error}"
    except Exception as error:
        return f"crash: {error!r}"
    if "error" in row:
        return f"expected {row['error']}, got success"
    target = (ROOT / row["target"]).read_bytes()
    if result.digest.hex() != row["target_digest"]:
        return "target digest"
    if result.tensors != Base(target).tensors:
        return "target tensors"
    if file is not None and file != target:
        return "target file"


def main():
    manifest = json.loads((ROOT / "manifest.json").read_text())
    passed = failed = 0
    for row in manifest["good"] + manifest["malformed"]:
        problems = [p for p in (problem(row, most) for most in (1 << 30, 1, 7)) if p]
        passed, failed = passed + (not problems), failed + bool(problems)
        if problems:
            print(f"FAILED {row['name']}: {problems[0]}\n       shows: {row['shows']} {row['rules']}")
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed > 0)


main()
