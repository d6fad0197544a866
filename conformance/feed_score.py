"""Scores a follower of feeds by the vectors of ../testvectors/feed, as README.md of this directory says.

    feed_score.py COMMAND...
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pulse_files import Checkpoint
from pulse_reader import PulseError, checkpoint_digest

ROOT = Path(__file__).parent.parent / "testvectors" / "feed"

def make(row, feed):
    """The feed of a vector, in an empty directory."""
    shutil.copytree(ROOT / "feeds" / row["feed"], feed)
    if row.get("changes"):
        shutil.copytree(ROOT / "changes" / row["name"], feed, dirs_exist_ok=True)
    for name in row.get("without", []):
        (feed / name).unlink()
    for name, size in row.get("stretch", {}).items():
        data = (feed / name).read_bytes()
        (feed / name).write_bytes(data[:-1] + b" " * (size - len(data)) + b"\n")

def problem(command, row, place):
    """What is wrong with what the command makes of a vector, or None."""
    feed, out, mark = place / "feed", place / "out", place / "mark"
    make(row, feed)
    arguments = [*command, str(feed), "--out", str(out), "--mark", str(mark), "--now", str(row["now"])]
    if "mark" in row:
        mark.write_text(json.dumps(row["mark"]))
    if "held" in row:
        arguments += ["--held", str(ROOT / row["held"])]
    arguments += [word for option in ("key", "at") if option in row for word in (f"--{option}", str(row[option]))]
    try:
        done = subprocess.run(arguments, capture_output=True, timeout=120)
        said = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError) as error:
        return f"no answer: {error}; {done.stderr.decode(errors='replace')[-500:]}"
    marked = json.loads(mark.read_bytes()) if mark.exists() else None
    if "errors" in row:
        if done.returncode != 1 or said.get("error") not in row["errors"]:
            return f"{said}, exit status {done.returncode}"
        return "an output" if out.exists() else "another mark" if marked != row.get("mark") else None
    if done.returncode != 0:
        return f"{said}, exit status {done.returncode}"
    try:
        made = checkpoint_digest(Checkpoint.open(out).tensors).hex()
    except (OSError, PulseError) as error:
        return f"no output: {error}"
    if (said["version"], said["digest"], made) != (row["version"], row["digest"], row["digest"]):
        return f"{said}, and {made} was made"
    if "way" in row and said["way"] != row["way"]:
        return f"another way: {said['way']}"
    if not set(row.get("says", [])) <= set(said["says"]) or not row.get("says") and {"expired", "future"} & set(said["says"]):
        return f"says {said['says']}"
    before = row.get("mark", {"version": 0})["version"]
    return None if marked["version"] == max(before, row["version"]) else f"the mark is at {marked['version']}"

def main():
    rows = json.loads((ROOT / "manifest.json").read_text())
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(os.cpu_count()) as pool:
        def of(row):
            place = Path(directory, row["name"])
            place.mkdir()
            return problem(sys.argv[1:], row, place)
        problems = list(pool.map(of, rows))
    for row, found in zip(rows, problems):
        if found:
            expected = " or ".join(row["errors"]) if "errors" in row else f"version {row['version']}"
            print(f"{row['name']}: expected {expected}, {found}\n    {row['shows']} {' '.join(row['rules'])}")
    def score(kind):
        chosen = [found for row, found in zip(rows, problems) if ("errors" in row) == kind]
        return f"{chosen.count(None)}/{len(chosen)}"
    print(f"score of feeds: good {score(False)}, refused {score(True)}")
    sys.exit(any(problems))

main()
