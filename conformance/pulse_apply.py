"""Applies a patch: the command that README.md of this directory asks of a reader.

    pulse_apply.py PATCH [--base BASE] [--limit NAME=VALUE]... --out OUT
"""
import argparse
import sys
from pathlib import Path

from pulse_files import Checkpoint, rebuild
from pulse_reader import LIMITS, Patch, PulseError, apply, blame, check

def target_files(data, base, limits={}):
    """The files of the target: names to bytes. `base` is None if there is none."""
    patch = Patch(data, limits)
    check(patch.snapshot or base, "misuse", "this patch needs a base")
    base = None if patch.snapshot else base
    base_tensors = base.tensors if base else {}
    tensors = apply(patch, base_tensors)
    try:
        return rebuild(patch, tensors, base)
    except PulseError as error:
        blame(patch, base_tensors, error)

def limit(argument):
    name, _, value = argument.partition("=")
    if name not in LIMITS:
        raise argparse.ArgumentTypeError(f"no limit {name!r}")
    return name, int(value)

def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("patch", type=Path)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--limit", type=limit, action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    try:
        base = args.base and Checkpoint.open(args.base)
        files = target_files(args.patch.read_bytes(), base, dict(args.limit))
    except PulseError as error:
        sys.exit(str(error))
    if list(files) == [""]:
        args.out.write_bytes(files[""])
    else:
        args.out.mkdir()
        for name, data in files.items():
            (args.out / name).parent.mkdir(parents=True, exist_ok=True)
            (args.out / name).write_bytes(data)

if __name__ == "__main__":
    main()
