#!/usr/bin/env python3
"""Runs every shell block of README.md and docs/**/*.md, and compares what it prints.

    scripts/run_docs.py [FILE.md ...]

Each file gets a scratch directory of its own, in which its blocks run in order. `testvectors` leads
to that of the repository, `pulse` and `pulse-inspect` are the release build, and `cargo` works on
the repository. Python's standard library only.

Blocks, by the first word after the fence:
  sh       runs as one bash script that stops at the first failure. A `text` block that follows with
           nothing between says what it prints.
  console  lines that start with "$ " are commands, lines with "> " after them continue them; what
           follows says what they print.
Output is that of both streams. `skip because REASON` after the first word leaves a block out, and says so.

Comparing, line by line:
  - a line "..." stands for any number of lines, "..." within a line for any characters;
  - times, rates and rounded sizes (1.2 ms, 3.4 MB/s, 62.0 MB) are not compared: machines differ.
    Everything else is, exact sizes (1,206 bytes) among it;
  - a run of spaces counts as one, since columns are as wide as what is in them.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"^```(.*)$")
LOOSE = re.compile(r"\d[\d.,]*(?:e-?\d+)? ?(?:µs|ms|s|[kMGT]i?B(?:/s)?|bytes/s)(?![\w/])")
# Ends what hangs; a first build of an example is part of its block.
SECONDS = 900


class Block:
    """A fenced block: its language, what else the fence says, its lines, and where it starts."""

    def __init__(self, info, place, follows):
        self.language, _, self.note = info.strip().partition(" ")
        self.place = place
        # Whether nothing but empty lines stand between it and the block before.
        self.follows = follows
        self.lines = []


def blocks_of(path):
    """All fenced blocks of a Markdown file."""
    blocks, open_block, adjacent = [], None, False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fence = FENCE.match(line)
        if open_block is not None:
            if fence:
                blocks.append(open_block)
                open_block, adjacent = None, True
            else:
                open_block.lines.append(line)
        elif fence:
            open_block = Block(fence.group(1), f"{path.relative_to(REPOSITORY)}:{number}", adjacent)
        elif line.strip():
            adjacent = False
    if open_block is not None:
        raise SystemExit(f"{open_block.place}: this block has no end")
    return blocks


def steps_of(blocks):
    """(block, script, expected lines or None) for all that runs."""
    for position, block in enumerate(blocks):
        if block.language not in ("sh", "console"):
            continue
        if block.note.startswith("skip"):
            reason = block.note.removeprefix("skip").strip().removeprefix("because").strip()
            if not reason:
                raise SystemExit(f"{block.place}: say why it is not run: ```{block.language} skip because ...")
            print(f"{block.place}: not run because {reason}")
        elif block.note:
            raise SystemExit(f"{block.place}: {block.note!r} is not known; known is: skip because ...")
        elif block.language == "sh":
            after = blocks[position + 1] if position + 1 < len(blocks) else None
            expected = after.lines if after and after.follows and after.language == "text" else None
            yield block, "\n".join(block.lines), expected
        else:
            yield from commands_of(block)


def commands_of(block):
    """The commands of a console block, each with the lines after it."""
    command, expected = None, []
    for line in block.lines:
        if line.startswith("$ "):
            if command is not None:
                yield block, command, expected
            command, expected = line.removeprefix("$ "), []
        elif command is None:
            raise SystemExit(f"{block.place}: a console block starts with a command: $ ...")
        elif line.startswith("> ") and not expected:
            command += "\n" + line.removeprefix("> ")
        else:
            expected.append(line)
    if command is not None:
        yield block, command, expected


def pattern_of(line):
    """What a line of output must match."""
    parts = [re.escape(re.sub(r" +", " ", LOOSE.sub("<>", part))) for part in line.rstrip().split("...")]
    return re.compile(".*".join(parts))


def matches(expected, found):
    """Whether the found lines are the expected ones; "..." stands for any number of lines."""
    found = [re.sub(r" +", " ", LOOSE.sub("<>", line.rstrip())) for line in found]
    # Which numbers of found lines can be used up by the expected lines so far.
    reached = {0}
    for line in expected:
        if line.strip() == "...":
            reached = set(range(min(reached), len(found) + 1)) if reached else set()
        else:
            pattern = pattern_of(line)
            reached = {at + 1 for at in reached if at < len(found) and pattern.fullmatch(found[at])}
    return len(found) in reached


def trimmed(lines):
    """Without empty lines at either end."""
    return "\n".join(lines).strip("\n").splitlines()


def shell(script, directory, environment):
    """Runs a script; gives back its exit status and what it printed. It is ended if it takes too long."""
    with tempfile.TemporaryFile() as output:
        # A file, not a pipe: a process left in the background must not hold up the end.
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", script], cwd=directory, env=environment, stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )
        try:
            status = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            status = f"none after {SECONDS} s"
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
        output.seek(0)
        return status, trimmed(output.read().decode("utf-8", "replace").splitlines())


def run(path, environment):
    """Runs a file; gives back how many commands ran and how many were wrong."""
    ran = wrong = 0
    with tempfile.TemporaryDirectory(prefix="docs-") as scratch:
        os.symlink(REPOSITORY / "testvectors", Path(scratch, "testvectors"))
        for block, script, expected in steps_of(blocks_of(path)):
            ran += 1
            status, found = shell(script, scratch, environment)
            problem = None
            if status:
                problem = f"exit status {status}"
            elif expected is not None and not matches(trimmed(expected), found):
                problem = "another output than the document says"
            if problem:
                wrong += 1
                print(f"{block.place}: {problem}")
                print(textwrap.indent(script, "    $ "))
                print(textwrap.indent("\n".join(found), "    "))
    return ran, wrong


def main():
    named = [Path(name).resolve() for name in sys.argv[1:]]
    files = named or [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
    subprocess.run(["cargo", "build", "--release", "--quiet", "--package", "pulse-cli", "--bins"], cwd=REPOSITORY, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")).resolve()
    with tempfile.TemporaryDirectory(prefix="docs-bin-") as tools:
        # Blocks say `cargo run ...` as a reader in the repository would.
        cargo = Path(tools, "cargo")
        manifest = REPOSITORY / "Cargo.toml"
        cargo.write_text(
            f'#!/bin/sh\ncommand=$1; shift\nexec "$REAL_CARGO" "$command" --quiet --manifest-path "{manifest}" "$@"\n'
        )
        cargo.chmod(0o755)
        real = subprocess.run(["sh", "-c", "command -v cargo"], capture_output=True, text=True, check=True)
        environment = {
            **os.environ,
            "PATH": os.pathsep.join([tools, str(target / "release"), os.environ["PATH"]]),
            "REAL_CARGO": real.stdout.strip(),
            "CARGO_TARGET_DIR": str(target),
        }
        results = [run(path, environment) for path in files]
    ran, wrong = (sum(column) for column in zip(*results))
    print(f"{ran} commands of {len(files)} documents, {wrong} wrong")
    if not ran:
        raise SystemExit("there was nothing to run")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
