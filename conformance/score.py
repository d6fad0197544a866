"""Scores a reader by the vectors of ../testvectors, as README.md of this directory says.

    score.py [--without FEATURE]... COMMAND...
"""
import argparse
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from manifest import ROOT, rows, run
from pulse_files import Checkpoint

def good_problem(row, outcome, without):
    """What is wrong with the outcome of a good vector, or None."""
    if not outcome.checkpoint:
        return str(outcome)
    target = Checkpoint.open(ROOT / row["target"])
    if outcome.checkpoint.tensors != target.tensors:
        return "other tensors than the target's"
    if row["exact"] and not without & {"files", "rebuild"} and outcome.checkpoint.files != target.files:
        return "the tensors of the target, but other files"

def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--without", action="append", default=[], choices=["files", "rebuild", "limits"],
                        help="a feature that the reader does not have; see README.md")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    if not args.command:
        parser.error("no command")
    without = set(args.without)
    without |= {"rebuild"} if "files" in without else set()
    def asked(row):
        return row.get("needs") not in without and not (row["limits"] and "limits" in without)
    good, bad = (list(filter(asked, rows(kind))) for kind in ("good", "malformed"))
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(os.cpu_count()) as pool:
        def outcome(row):
            base = row["base"] and ROOT / row["base"]
            return run(args.command, ROOT / row["file"], base, Path(directory, row["name"]), row["limits"])
        outcomes = list(pool.map(outcome, good + bad))
    problems = [good_problem(row, found, without) for row, found in zip(good, outcomes)]
    refused = [found.kind is not None for found in outcomes[len(good):]]
    kinds = [found.kind in row["errors"] for row, found in zip(bad, outcomes[len(good):])]
    for row, found, problem in zip(good, outcomes, problems):
        if problem:
            print(f"{row['name']}: {problem}\n    {row['shows']} {' '.join(row['rules'])}")
    for row, found, right in zip(bad, outcomes[len(good):], kinds):
        if not right:
            expected = " or ".join(row["errors"])
            print(f"{row['name']}: expected {expected}, {found}\n    {row['shows']} {' '.join(row['rules'])}")
    print(f"score: good {problems.count(None)}/{len(good)}, malformed {sum(refused)}/{len(bad)}, "
          f"kinds {sum(kinds)}/{len(bad)}", f"(without {', '.join(sorted(without))})" if without else "")
    sys.exit(any(problems) or not all(kinds))

main()
