#!/usr/bin/env python3
"""Tries every change that cargo-mutants knows of some files, all of them built at once.

scripts/all_mutants.py FILE...            such as 'src/disk/*.rs': a table by file, and what no test noticed
scripts/all_mutants.py --slow 5 FILE...   leaves out tests of more than that many seconds
scripts/all_mutants.py --jobs 1 FILE...   tries one change at a time

One copy of the tree has all of the changes, each behind a switch that is thrown when a test starts. So the tests are
built once, each change is tried by those tests alone that come by it, the quick ones first, and a thousand of them take
minutes, not a day. Changes that do not compile are left out; a few cannot be woven in (a constant, a field), and are
named: `cargo mutants -F NAME` tries them one by one.

scripts/all_mutants.allow lists the changes that no test can notice, with the reason. Those are not tried; fails if
others go unnoticed, or if a listed one is not in the sources any more.

Needs cargo-mutants, and the packages tree-sitter and tree-sitter-rust. Results are kept in target/woven by the text of
the change, so that a run which was stopped goes on; after a change of the tree, those that went unnoticed are tried
again. Remove it to start from nothing. Not run by CI, which breaks rules by scripts/mutants.py.
"""
import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import tree_sitter
import tree_sitter_rust

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "target" / "woven"
TREE = WORK / "tree"
PARSER = tree_sitter.Parser(tree_sitter.Language(tree_sitter_rust.language()))
ENVIRONMENT = dict(
    os.environ, CARGO_TARGET_DIR=str(WORK / "target"), RUSTFLAGS="--cap-lints=warn",
    CARGO_PROFILE_DEV_DEBUG="0", CARGO_PROFILE_TEST_DEBUG="0", RUST_BACKTRACE="0",
)
# Those of .cargo/mutants.toml.
TESTS = ["--package", "pulse-codec", "--lib", "--test", "checkpoints"]
# Tests that build the library once more.
BUILDS = "examples::"
# Seconds of tests that run in one process, and how many of them.
BATCH_SECONDS, BATCH_TESTS = 1, 60
# A change may lead to endless work: address space, in KiB, that its tests may take.
MEMORY = 8 << 20
ALLOWED = ROOT / "scripts" / "all_mutants.allow"
FINAL = ("does not compile", "not woven", "noticed")
KINDS = ("does not compile", "noticed", "without end", "allowed", "unnoticed", "unreached", "not woven")

SWITCH = """
/// Whether this change is the one of this run; where it is traced, that a test came by it is written down.
pub(crate) fn changed(number: u32) -> bool {
    use std::io::Write;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::OnceLock;
    static CHOSEN: OnceLock<(u32, Option<std::ffi::OsString>)> = OnceLock::new();
    static SEEN: [AtomicBool; 10_000] = [const { AtomicBool::new(false) }; 10_000];
    let (chosen, trace) = CHOSEN.get_or_init(|| {
        let chosen = std::env::var("WOVEN").ok().and_then(|number| number.parse().ok());
        (chosen.unwrap_or(0), std::env::var_os("WOVEN_TRACE"))
    });
    if let Some(trace) = trace {
        if !SEEN[number as usize].swap(true, Ordering::Relaxed) {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(trace);
            file.unwrap().write_all(format!("{number}\\n").as_bytes()).unwrap();
        }
    }
    *chosen == number
}
"""


def listed(files):
    """What cargo-mutants would change in these files, in their order."""
    command = ["cargo", "mutants", "--list", "--json"] + [word for file in files for word in ("-f", file)]
    found = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)
    found = [mutant for mutant in found if any(Path(mutant["file"]).match(file) for file in files)]
    wanted = lambda mutant: [Path(mutant["file"]).match(file) for file in files].index(True)
    start = lambda mutant: (mutant["file"], mutant["span"]["start"]["line"], mutant["span"]["start"]["column"])
    found.sort(key=lambda mutant: (wanted(mutant), start(mutant), mutant["name"]))
    names = Counter()
    for number, mutant in enumerate(found, 1):
        mutant["number"] = number
        # By its text, not its place: that stays what it is when other lines change.
        what = mutant["name"].split(": ", 1)[1]
        lines = (ROOT / mutant["file"]).read_text().splitlines()
        name = f"{mutant['file']}: {what} | {lines[mutant['span']['start']['line'] - 1].strip()}"
        names[name] += 1
        mutant["name"] = name if names[name] == 1 else f"{name} ({names[name]})"
    return found


def allowed():
    """The changes that no test can notice."""
    lines = ALLOWED.read_text().splitlines() if ALLOWED.exists() else []
    return [line for line in lines if line and not line.startswith("#")]


class Weaver:
    """The text of one file with all of its changes."""

    NODES = {"BinaryOperator": ("binary_expression", "compound_assignment_expr"), "UnaryOperator": ("unary_expression",)}

    def __init__(self, source, mutants, left_out):
        self.source, self.left_out = source, left_out
        self.lines = [0]
        for line in source.split(b"\n"):
            self.lines.append(self.lines[-1] + len(line) + 1)
        self.root = PARSER.parse(source).root_node
        self.bodies, self.nodes, self.guards = defaultdict(list), defaultdict(list), defaultdict(list)
        self.arms = defaultdict(list)
        for mutant in mutants:
            if mutant["name"] not in left_out and not self.place(mutant):
                left_out[mutant["name"]] = "not woven"

    def offset(self, place):
        line = self.source[self.lines[place["line"] - 1]:self.lines[place["line"]]].decode()
        return self.lines[place["line"] - 1] + len(line[:place["column"] - 1].encode())

    def place(self, mutant):
        """Finds where a change belongs; whether it has a place."""
        begin, end = (self.offset(mutant["span"][which]) for which in ("start", "end"))
        node = self.root.descendant_for_byte_range(begin, end)
        if mutant["genre"] == "FnValue":
            while node and node.type != "function_item":
                node = node.parent
            if node:
                self.bodies[node.child_by_field_name("body").start_byte].append(mutant)
        elif mutant["genre"] == "MatchArmGuard":
            while node and (node.start_byte, node.end_byte) != (begin, end):
                node = node.parent
            if node:
                self.guards[begin, end].append(mutant)
        elif mutant["genre"] == "MatchArm":
            while node and node.type != "match_arm":
                node = node.parent
            if node:
                self.arms[node.child_by_field_name("pattern").start_byte].append(mutant)
        elif mutant["genre"] in self.NODES:
            while node and node.type not in self.NODES[mutant["genre"]]:
                node = node.parent
            if node:
                self.nodes[node.start_byte, node.end_byte, node.type].append((mutant, begin, end))
        else:
            return False
        return node is not None

    def raw(self, begin, end):
        return self.source[begin:end].decode()

    def text(self):
        return self.render(self.root) + self.raw(self.root.end_byte, len(self.source))

    def render(self, node):
        """A node with what is changed in it; in what is changed, nothing else is."""
        guards = self.guards.pop((node.start_byte, node.end_byte), [])
        parts, at = [], node.start_byte
        for child in node.children:
            parts += [self.raw(at, child.start_byte), self.render(child)]
            at = child.end_byte
        text = "".join(parts) + self.raw(at, node.end_byte)
        if node.type == "block":
            returns = (
                marked(mutant, f"if crate::changed({mutant['number']}) {{ return {mutant['replacement']}; }}")
                for mutant in self.bodies.pop(node.start_byte, [])
            )
            text = "{" + "".join(returns) + text[1:]
        for mutant, begin, end in self.nodes.get((node.start_byte, node.end_byte, node.type), []):
            other = self.raw(node.start_byte, begin) + mutant["replacement"] + self.raw(end, node.end_byte)
            text = f"(if crate::changed({mutant['number']}) {{ {marked(mutant, other)} }} else {{ {text} }})"
        if node.type == "match_pattern":
            for mutant in self.arms.pop(node.start_byte, []):
                # An arm that is taken away is one whose guard is never true.
                guard = node.child_by_field_name("condition")
                text += " && " if guard else " if "
                text += marked(mutant, f"!crate::changed({mutant['number']})")
        for mutant in guards:
            switch = f"crate::changed({mutant['number']})"
            either = f"{switch} || ({text})" if mutant["replacement"] == "true" else f"!{switch} && ({text})"
            text = marked(mutant, f"({either})")
        return text


def marked(mutant, text):
    """Text by which an error of the compiler finds its change."""
    return f"/*<{mutant['number']}*/{text}/*{mutant['number']}>*/"


def weave(mutants, left_out):
    """Makes the tree; what is in it already is not written again, so that cargo builds only what differs."""
    files = ["git", "ls-files", "-z", "-co", "--exclude-standard"]
    found = subprocess.run(files, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    tree = {name: (ROOT / name).read_bytes() for name in found.split("\0") if name and (ROOT / name).is_file()}
    by_file = defaultdict(list)
    for mutant in mutants:
        by_file[mutant["file"]].append(mutant)
    for file, own in by_file.items():
        tree[file] = Weaver(tree[file], own, left_out).text().encode()
    tree["src/lib.rs"] += SWITCH.encode()
    for path in [path for path in TREE.rglob("*") if path.is_file()]:
        if str(path.relative_to(TREE)) not in tree:
            path.unlink()
    for name, text in tree.items():
        path = TREE / name
        if not path.is_file() or path.read_bytes() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text)
            shutil.copymode(ROOT / name, path)


def blamed(span, text):
    """The change that an error is about: the smallest that has it, else one within it, else the next, as the body of a
    function comes after its type."""
    begin, end = span["byte_start"], span["byte_end"]
    best = None
    for mark in re.finditer(rb"/\*<(\d+)\*/", text):
        last = text.find(b"/*%s>*/" % mark.group(1), mark.end())
        inside, around = mark.start() <= begin and end <= last, begin <= mark.start() and last <= end
        if inside or around and span["is_primary"]:
            best = min(best or (True, sys.maxsize, 0), (not inside, last - mark.start(), int(mark.group(1))))
    if best:
        return best[2]
    call = re.compile(rb"crate::changed\((\d+)\)").search(text, begin)
    return int(call.group(1)) if call else None


def compiles(mutants, left_out):
    """Whether the tree compiles; if not, the changes that are to blame are left out."""
    command = ["cargo", "check", "--package", "pulse-codec", "--lib", "--message-format=json"]
    done = subprocess.run(command, cwd=TREE, env=ENVIRONMENT, capture_output=True, text=True)
    if done.returncode == 0:
        return True
    names = {mutant["number"]: mutant["name"] for mutant in mutants}
    before = len(left_out)
    for line in done.stdout.splitlines():
        message = json.loads(line).get("message") or {}
        if message.get("level") != "error":
            continue
        for span in message["spans"]:
            number = blamed(span, (TREE / span["file_name"]).read_bytes()) if span["is_primary"] else None
            if number:
                kind = (message.get("code") or {}).get("code", "")
                left_out.setdefault(names[number], "does not compile" if kind != "E0015" else "not woven")
    if len(left_out) == before:
        sys.exit(f"the woven tree does not compile, and nothing is to blame:\n{done.stderr[-2000:]}")
    return False


def build():
    """The test programs, and where they run."""
    command = ["cargo", "test", *TESTS, "--no-run", "--message-format=json"]
    done = subprocess.run(command, cwd=TREE, env=ENVIRONMENT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    programs = {}
    for made in map(json.loads, done.stdout.splitlines()):
        if made.get("executable") and made.get("profile", {}).get("test"):
            programs[made["target"]["name"]] = (made["executable"], Path(made["manifest_path"]).parent)
    return programs


def run(program, tests, limit, **variables):
    """Whether these tests pass, None if they do not end; and the seconds that they took."""
    executable, directory = program
    scratch = tempfile.mkdtemp(dir=scratch_root())
    begin = time.time()
    limited = ["sh", "-c", f'ulimit -v {MEMORY} 2>/dev/null; exec "$@"', "sh"]
    process = subprocess.Popen(
        [*limited, executable, "--quiet", "--exact", *tests], cwd=directory, start_new_session=True,
        env=dict(ENVIRONMENT, TMPDIR=scratch, **variables), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    try:
        passed = process.wait(limit) == 0
    except subprocess.TimeoutExpired:
        passed = None
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
    subprocess.run(["chmod", "-R", "u+rwX", scratch], stderr=subprocess.DEVNULL)
    shutil.rmtree(scratch, ignore_errors=True)
    return passed, time.time() - begin


def scratch_root():
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def state():
    """What the sources and tests of the woven tree are."""
    digest = hashlib.sha256()
    for path in sorted(path for path in TREE.rglob("*") if path.suffix in (".rs", ".toml", ".lock")):
        digest.update(str(path).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def traced(programs, jobs, tree):
    """Each test that passes, how long it takes, and the changes that it comes by."""
    kept = WORK / "traces.json"
    if kept.exists() and (known := json.loads(kept.read_text()))["tree"] == tree:
        return known["traces"]
    tests = []
    for name, (executable, directory) in programs.items():
        command = [executable, "--list", "--format", "terse"]
        lines = subprocess.run(command, cwd=directory, capture_output=True, text=True).stdout.splitlines()
        found = [line.removesuffix(": test") for line in lines if line.endswith(": test")]
        tests += [(name, test) for test in found if not test.startswith(BUILDS)]

    def trace(test):
        name, test = test
        file = Path(tempfile.mkdtemp(dir=scratch_root())) / "trace"
        passed, seconds = run(programs[name], [test], 300, WOVEN_TRACE=str(file))
        seen = sorted({int(line) for line in file.read_text().split()}) if file.exists() else []
        shutil.rmtree(file.parent)
        return {"program": name, "test": test, "passed": passed, "seconds": seconds, "seen": seen}

    with ThreadPoolExecutor(jobs) as threads:
        traces = list(threads.map(trace, tests))
    kept.write_text(json.dumps({"tree": tree, "traces": traces}))
    return traces


def batches(tests):
    """The quick tests together, each slow one alone."""
    made = []
    for test in sorted(tests, key=lambda test: test["seconds"]):
        last = made[-1] if made else None
        fits = last and last["program"] == test["program"] and len(last["tests"]) < BATCH_TESTS
        if fits and last["seconds"] + test["seconds"] < BATCH_SECONDS:
            last["tests"].append(test["test"])
            last["seconds"] += test["seconds"]
        else:
            made.append({"program": test["program"], "tests": [test["test"]], "seconds": test["seconds"]})
    return made


def attempt(mutant, tests, programs):
    if not tests:
        return "unreached"
    for batch in batches(tests):
        limit = 20 + 10 * batch["seconds"]
        passed, _ = run(programs[batch["program"]], batch["tests"], limit, WOVEN=str(mutant["number"]))
        if not passed:
            return "without end" if passed is None else "noticed"
    return "unnoticed"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--slow", type=float, default=60, help="seconds of a test that is left out")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many changes are tried at a time")
    arguments = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    mutants, results = listed(arguments.files), WORK / "results.json"
    known = json.loads(results.read_text()) if results.exists() else {}
    known = {name: what for name, what in known.items() if what != "allowed"}
    left_out = {name: what for name, what in known.items() if what in ("does not compile", "not woven")}
    weave(mutants, left_out)
    while not compiles(mutants, left_out):
        weave(mutants, left_out)
    known |= left_out
    results.write_text(json.dumps(known, indent=1))
    programs, tree = build(), state()
    # What went unnoticed may be noticed by other tests.
    if known.get("tried") != [tree, arguments.slow]:
        known = {name: what for name, what in known.items() if what in FINAL} | {"tried": [tree, arguments.slow]}
    traces = traced(programs, arguments.jobs, tree)
    for trace in traces:
        if not trace["passed"]:
            print(f"left out, as it fails unchanged: {trace['test']}", file=sys.stderr)
    by_number = defaultdict(list)
    for trace in traces:
        if trace["passed"] and trace["seconds"] <= arguments.slow:
            for number in trace["seen"]:
                by_number[number].append(trace)

    lock = threading.Lock()

    def judge(mutant):
        outcome = attempt(mutant, by_number[mutant["number"]], programs)
        with lock:
            known[mutant["name"]] = outcome
            results.write_text(json.dumps(known, indent=1))

    spared = set(allowed())
    known |= {mutant["name"]: "allowed" for mutant in mutants if mutant["name"] in spared}
    with ThreadPoolExecutor(arguments.jobs) as threads:
        list(threads.map(judge, [mutant for mutant in mutants if mutant["name"] not in known]))
    sys.exit(report(mutants, known))


def report(mutants, known):
    """Prints a table, and what is not as it should be; whether something is not."""
    print("| file | changes | " + " | ".join(KINDS) + " |\n|---|---" + "|---" * len(KINDS) + "|")
    counts = defaultdict(Counter)
    for mutant in mutants:
        counts[mutant["file"]][known[mutant["name"]]] += 1
    for file, own in sorted(counts.items()):
        print(f"| {file} | {own.total()} | " + " | ".join(str(own[kind]) for kind in KINDS) + " |")
    total = sum(counts.values(), Counter())
    print(f"| all | {total.total()} | " + " | ".join(str(total[kind]) for kind in KINDS) + " |")
    bad = 0
    for kind in ("without end", "unnoticed", "unreached", "not woven"):
        names = [mutant["name"] for mutant in mutants if known[mutant["name"]] == kind]
        print(f"\n{kind}:\n" + "\n".join(names) if names else "")
        bad += len(names) if kind != "without end" else 0
    there = {mutant["name"] for mutant in mutants}
    gone = [name for name in allowed() if name.split(":")[0] in counts and name not in there]
    print("\nallowed, and not in the sources:\n" + "\n".join(gone) if gone else "")
    return 1 if bad or gone else 0


if __name__ == "__main__":
    main()
