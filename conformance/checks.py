#!/usr/bin/env python3
"""Leaves out one check of a reader after another, and tells which vectors notice.

    checks.py python                                the reader in Python: pulse_reader.py and pulse_files.py
    checks.py rust                                  the library, as the command of tools/src/bin/conformance.rs
    checks.py python rust --table CHECKS.md         and writes down what was found

A check is a condition on which a reader refuses a patch; of several conditions in one, each is left out by itself. A
vector notices if its outcome is not that of the manifest any more. Fails if there is a check that no vector notices and
that checks.json does not explain: a reader without it would pass. Results are kept in target/checks by the text of the
check, so that a run which was stopped goes on: remove them to start anew. Uses the Python that `run` has prepared.
"""
import argparse
import ast
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
WORK = TARGET / "checks"
PYTHON = ROOT / "target/conformance/bin/python"
# A reader without a check may never end, or ask for all memory: both are noticed.
SECONDS, MEMORY = 60, 4 << 30
# So many vectors are named; the others are not run.
NAMED = 3
# Reasons: why no vector can notice a check, by a part of its text that only it has. Edits: checks of the library that
# no pattern finds, as file, source, and source with `%s` for the switch.
SAID = json.loads((HERE / "checks.json").read_text())

@dataclass(frozen=True)
class Check:
    file: str
    text: str                                          # the source of the check, and what of it is left out
    edits: tuple                                       # of the source without the check: (start, end, replacement)
    lines: range = range(0)                            # those of the whole check, in Python

    def key(self):
        return self.file, self.text

def squeezed(text):
    return " ".join(text.split())

def numbered(checks):
    """The same checks, with texts of their own where a text occurs again."""
    seen, out = {}, []
    for check in sorted(checks, key=lambda check: (check.file, check.edits)):
        seen[check.key()] = times = seen.get(check.key(), 0) + 1
        out.append(replace(check, text=check.text + (f" (no. {times})" if times > 1 else "")))
    return out

def vectors():
    from manifest import rows
    return rows("malformed") + rows("good")

def is_wrong(row, outcome):
    from manifest import ROOT as vectors
    from pulse_files import Checkpoint
    if "errors" in row:
        return outcome.kind not in row["errors"]
    found, target = outcome.checkpoint, Checkpoint.open(vectors / row["target"])
    return not found or found.tensors != target.tensors or row["exact"] and found.files != target.files

# ---------------------------------------------------------------- checks of the reader in Python
PYTHON_FILES = ["pulse_reader.py", "pulse_files.py"]
# Calls for nothing but their checks.
HELPERS = {"end", "utf8", "spend", "unpacked", "limit", "expand", "check_base", "encode"}
# Arguments that make a callee refuse, and what they are where it does not.
SWITCHES = {"skip": "True", "strict": "False", "object_pairs_hook": "None", "parse_int": "None", "parse_float": "None",
            "allow_nan": "True"}
BOUNDS = {"unpack": {1: "1 << 40", 2: "0"}, "string": {0: "1 << 40"}}
TAGS = "HTBEIldF"

def called(call):
    return getattr(call.func, "attr", getattr(call.func, "id", None))

class PythonChecks(ast.NodeVisitor):
    def __init__(self, file, source):
        self.file, self.source, self.checks, self.values, self.returned = file, source, [], {}, {}
        self.starts = [0]
        for line in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        tree = ast.parse(source)
        for found in ast.walk(tree):
            # Functions that are a condition.
            if isinstance(found, ast.FunctionDef) and isinstance(getattr(found.body[0], "value", None), ast.BoolOp):
                self.returned[found.name] = found.body[0].value
        self.visit(tree)

    def at(self, line, column):
        # Columns of ast count bytes.
        text = self.source[self.starts[line - 1]:self.starts[line]].encode()
        return self.starts[line - 1] + len(text[:column].decode())

    def span(self, node):
        return self.at(node.lineno, node.col_offset), self.at(node.end_lineno, node.end_col_offset)

    def text(self, node):
        return self.source[slice(*self.span(node))]

    def add(self, whole, node, new):
        """The check `whole`, in which `node` becomes `new`."""
        text = squeezed(self.text(whole))
        if node is not whole:
            text = f"{text} | {squeezed(self.text(node))}" + (f" -> {new}" if new not in ("True", "False") else "")
        lines = range(whole.lineno, whole.end_lineno + 1)
        self.checks.append(Check(self.file, text, ((*self.span(node), new),), lines))

    def visit_FunctionDef(self, node):
        before, self.values = self.values, {}
        for found in ast.walk(node):
            if isinstance(found, (ast.Assign, ast.AugAssign)):
                target = found.targets[0] if isinstance(found, ast.Assign) else found.target
                if isinstance(target, ast.Name):
                    self.values.setdefault(target.id, []).append(found.value)
        if node.name != "check":
            self.generic_visit(node)
        self.values = before

    def visit_Expr(self, node):
        if isinstance(node.value, ast.Call) and called(node.value) in HELPERS:
            self.add(node, node, "pass")
        self.generic_visit(node)

    def visit_Raise(self, node):
        self.add(node, node, "return None")

    def visit_ExceptHandler(self, node):
        for one in node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]:
            self.add(node, one, "ZeroDivisionError")

    def visit_Call(self, node):
        name = called(node)
        if name == "check":
            for part, new in self.weakened(node.args[0], True):
                self.add(node, part, new)
        bounds = BOUNDS.get(name, {}) if self.text(node.func) != "struct.unpack" else {}
        for at, free in bounds.items():
            for part, new in self.unbounded(node, at, free):
                self.add(node, part, new)
        for keyword in node.keywords:
            new = SWITCHES.get(keyword.arg)
            if new and self.text(keyword.value) != new:
                self.add(node, keyword, f"{keyword.arg}={new}")
        if name == "section" and node.args:
            self.widen(node)
        self.generic_visit(node)

    def unbounded(self, call, at, free):
        if at < len(call.args):
            bound = call.args[at]
            if isinstance(bound, ast.Call) and called(bound) == "min":
                yield from ((bound, self.text(other)) for other in bound.args)
            else:
                yield bound, free

    def widen(self, call):
        """Sections that the grammar does not allow here."""
        first = call.args[0]
        for allowed in [first.body, first.orelse] if isinstance(first, ast.IfExp) else [first]:
            for tag in TAGS if isinstance(allowed, ast.Constant) else "":
                if tag not in allowed.value:
                    self.add(call, allowed, repr(allowed.value + tag))

    def weakened(self, node, wanted):
        """Each way to make a condition one check weaker, which must be `wanted`: a part of it and what that becomes."""
        always = str(wanted)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield from self.weakened(node.operand, not wanted)
        elif isinstance(node, ast.IfExp):
            yield from self.weakened(node.body, wanted)
            yield from self.weakened(node.orelse, wanted)
        elif isinstance(node, ast.BoolOp):
            parts = [list(self.weakened(value, wanted)) for value in node.values]
            if isinstance(node.op, ast.And) != wanted:
                parts = [part for part in parts if len(part) > 1] or [[(node, always)]]
            for part in parts:
                yield from part
        elif isinstance(node, ast.Name) and self.conditions(node.id):
            for value in self.conditions(node.id):
                yield from self.weakened(value, wanted)
        elif isinstance(node, ast.Call) and called(node) == ("all" if wanted else "any"):
            inner = getattr(node.args[0], "elt", None)
            parts = list(self.weakened(inner, wanted)) if inner else []
            yield from parts if len(parts) > 1 else [(node, always)]
        elif isinstance(node, ast.Call) and called(node) in self.returned:
            yield node, always
            yield from self.weakened(self.returned[called(node)], wanted)
        else:
            yield from list(self.fewer(node, wanted)) or [(node, always)]

    def conditions(self, name):
        kinds = ast.BoolOp, ast.Compare, ast.UnaryOp
        return [value for value in self.values.get(name, []) if isinstance(value, kinds)
                or isinstance(value, ast.Call) and called(value) in ("all", "any")]

    def fewer(self, node, wanted):
        """The parts of a comparison."""
        if not isinstance(node, ast.Compare):
            return
        left, right = node.left, node.comparators[0]
        if len(node.ops) > 1:
            if wanted and all(isinstance(op, ast.Eq) for op in node.ops):
                equal = [left, *node.comparators]
                for one in equal[:-1]:
                    yield node, " == ".join(self.text(other) for other in equal if other is not one)
            elif wanted:
                yield node, self.source[self.span(right)[0]:self.span(node)[1]]
                yield node, self.source[self.span(node)[0]:self.span(node.comparators[-2])[1]]
        elif isinstance(node.ops[0], ast.Eq) and isinstance(left, ast.Tuple) and wanted:
            for number, element in enumerate(left.elts):
                yield element, f"({self.text(right)})[{number}]"
        elif isinstance(node.ops[0], ast.Eq) and isinstance(left, ast.BinOp) and isinstance(left.op, ast.BitAnd):
            mask = left.right.value
            for bit in (1 << n for n in range(8) if mask >> n & 1):
                yield node, f"{self.text(left.left)} & {mask - bit} == {right.value & ~bit}"
        elif isinstance(node.ops[0], ast.In) and not wanted:
            if isinstance(right, ast.Tuple):
                yield from ((one, "None") for one in right.elts)
            elif isinstance(right, ast.Constant):
                yield from ((right, repr(right.value.replace(one, ""))) for one in right.value)
        elif isinstance(right, ast.Call) and called(right) == "min":
            yield from ((right, self.text(other)) for other in right.args)

class PythonReader:
    def __init__(self):
        checks = [check for file in PYTHON_FILES for check in PythonChecks(file, (HERE / file).read_text()).checks]
        # Parts of what two checks call are found twice.
        self.checks = numbered({(check.file, check.edits): check for check in checks}.values())

    def prepare(self):
        """Runs all vectors once: those that a check does not refuse are not run without it."""
        self.refused = self.run(None, "all")
        if isinstance(self.refused, list):
            sys.exit(f"checks.py: {self.refused[0]}")

    def notice(self, check):
        def is_refused(places):
            return any(file == check.file and line in check.lines for file, line in places)
        names = [name for name, places in self.refused.items() if is_refused(places)]
        # What passes errors on, or makes something else of them, leaves no place.
        text = check.text
        if text.startswith(("raise", "json.")) or text.startswith("except") and "raise" not in text:
            names = list(self.refused)
        return self.run(check, *names) if names else []

    @staticmethod
    def run(check, *names):
        with tempfile.TemporaryDirectory() as directory:
            for file in [*PYTHON_FILES, "pulse_apply.py"]:
                source = (HERE / file).read_text()
                for start, end, new in check.edits if check and file == check.file else ():
                    source = source[:start] + new + source[end:]
                Path(directory, file).write_text(source)
            command = [sys.executable, __file__, "vectors", directory, *names]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=20 * SECONDS)
            except subprocess.TimeoutExpired:
                return ["no end"]
        if done.returncode:
            return [f"exit status {done.returncode}: {done.stderr.strip().splitlines()[-1:]}"]
        return json.loads(done.stdout)

def in_time(*_):
    raise TimeoutError

def run_vectors(directory, *names):
    """Prints which vectors go wrong with the reader in a directory; of all of them, it prints the places in the source
    that refused something, which must be right."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, in_time)
    sys.path.insert(0, directory)
    places, found, wrong = set(), {}, []
    record_errors(places)
    for row in vectors():
        if names == ("all",) or row["name"] in names:
            places.clear()
            signal.alarm(SECONDS)
            try:
                problem = is_wrong(row, python_outcome(row))
            except BaseException:
                problem = True
            signal.alarm(0)
            found[row["name"]] = sorted(places)
            wrong += [row["name"]] if problem else []
        if len(wrong) == NAMED:
            break
    if names == ("all",) and wrong:
        sys.exit(f"wrong although no check is left out: {wrong}")
    print(json.dumps(found if names == ("all",) else wrong))

def record_errors(places):
    """Whenever an error is made, the lines that led to it become `places`."""
    from pulse_reader import PulseError
    make = PulseError.__init__
    def made(self, *args):
        frame = sys._getframe(1)
        while frame:
            places.add((Path(frame.f_code.co_filename).name, frame.f_lineno))
            frame = frame.f_back
        make(self, *args)
    PulseError.__init__ = made

def python_outcome(row):
    from manifest import ROOT as vectors, Outcome
    from pulse_apply import target_files
    from pulse_files import Checkpoint
    from pulse_reader import PulseError
    try:
        base = row["base"] and Checkpoint.open(vectors / row["base"])
        files = target_files((vectors / row["file"]).read_bytes(), base, row["limits"] or {})
    except PulseError as error:
        return Outcome(kind=error.kind)
    return Outcome(checkpoint=Checkpoint(files))

# ---------------------------------------------------------------- checks of the library
# What reads patches and the files of checkpoints; tests at the end of a file are not looked at.
RUST_FILES = """
    parse.rs varint.rs bits.rs packed.rs limits.rs wire/mod.rs wire/block.rs wire/file.rs wire/footer.rs wire/header.rs
    wire/index.rs wire/tensor.rs coding/flat.rs coding/matrix.rs coding/whole.rs coding/contextual/decode.rs
    coding/contextual/signs.rs coding/contextual/table.rs stream/framing.rs stream/grammar.rs stream/push.rs stream/pull.rs stream/tally.rs
    tensors/target.rs tensors/diagnose.rs patch/tail.rs checkpoint/safetensors.rs checkpoint/json.rs checkpoint/index.rs
    checkpoint/names.rs checkpoint/layout.rs checkpoint/tree.rs checkpoint/plan.rs checkpoint/companions.rs
    checkpoint/apply.rs
""".split()
# All checks are built in at once, each behind this: a run says which one it leaves out.
OFF = "crate::checks::off(%d)"
SWITCH = """
//! For conformance/checks.py: which check is left out.
use std::{env, fs::OpenOptions, io::Write, sync::Mutex};
static SEEN: Mutex<Vec<u32>> = Mutex::new(Vec::new());
pub(crate) fn off(check: u32) -> bool {
    if let Ok(log) = env::var("CHECK_LOG") {
        let mut seen = SEEN.lock().unwrap();
        if !seen.contains(&check) {
            seen.push(check);
            let file = OpenOptions::new().create(true).append(true).open(log);
            writeln!(file.unwrap(), "{check}").unwrap();
        }
    }
    static OFF: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    let read = || env::var("CHECK_OFF").ok()?.parse().ok();
    *OFF.get_or_init(|| read().unwrap_or(u32::MAX)) == check
}
"""
REFUSAL = r"(?:Err\(|parse::fail\(|\bfail\(|\bfault\(\d|Parsed::Invalid)"
# Statements that are there for their checks.
CALLS = r"""(?:self\s*\.used\b | gaps\.finish | values\.finish | file\.check\( | self\.check\( | check_carried\(
    | check_entries\( | check_outside\( | tree\.check_parts\( | carried\.add\( | footer\.check\( | plan\.check_opened\(
    | self\s*\.end\s*\.footer\s*\.check\( )"""
# Calls that give an error where a limit is exceeded.
LIMITS = r"(?:parse::limit|limits::check|(?<!fn )check_(?:name_)?expansion|(?<!fn )spend)\("
UNLESS_OFF = ".or_else(|error| if %s { Ok(()) } else { Err(error) })"

def blanked(source):
    """Rust source, as long as before, with spaces for comments and for what is in quotes."""
    pattern = r'//[^\n]*|r#".*?"#|b?"(?:\\.|[^"\\])*"|b?\'(?:\\.[^\']*|[^\\\'])\''
    def blank(found):
        text = found.group()
        inner = re.sub(r"[^\n]", " ", text[1:-1])
        return " " * len(text) if text.startswith("//") else text[0] + inner + text[-1]
    return re.sub(pattern, blank, source, flags=re.DOTALL)

def closing(text, at):
    """Where the bracket at this place is closed."""
    depth = 0
    for place in range(at, len(text)):
        depth += (text[place] in "([{") - (text[place] in ")]}")
        if depth == 0:
            return place
    return len(text)

def until(text, at, *ends):
    """The first place from `at` outside of brackets where one of `ends` stands."""
    while at < len(text) and not text.startswith(ends, at) and text[at] not in ")]}":
        at = closing(text, at) + 1 if text[at] in "([{" else at + 1
    return at

def pieces(text, start, end, separator):
    """Spans of what separators outside of brackets divide."""
    spans, at = [], start
    while at < end:
        stop = min(until(text, at, separator), end)
        spans.append(trimmed(text, at, stop))
        at = stop + len(separator)
    return spans

def trimmed(text, start, end):
    inner = text[start:end]
    return start + len(inner) - len(inner.lstrip()), start + len(inner.rstrip())

def outside(text):
    """The text without what is in braces."""
    while (shorter := re.sub(r"\{[^{}]*\}", "", text)) != text:
        text = shorter
    return text

class RustChecks:
    def __init__(self, file, source):
        cut = re.search(r"^#\[cfg\(test\)\]\s*mod tests", source, re.MULTILINE)
        self.file, self.source, self.checks = file, source, []
        self.code = blanked(source[:cut.start()] if cut else source)
        for find in (self.ifs, self.lets, self.filters, self.arguments, self.rows, self.calls, self.edits):
            find()

    def add(self, start, end, before, after, shown=None):
        """A check of which the span gets this before it and after it, `%s` for the switch."""
        text = squeezed(self.source[slice(*(shown or (start, end)))])
        if not any(check.edits[0][0] == start and check.edits[-1][0] == end for check in self.checks):
            self.checks.append(Check(self.file, text, ((start, start, before), (end, end, after))))

    def split(self, start, end, separator):
        """The parts of a condition, those of a group in brackets at its end among them."""
        other = {"||": "&&", "&&": "||"}[separator]
        for at, stop in pieces(self.code, start, end, separator):
            last = pieces(self.code, at, stop, other)[-1]
            group = self.code[last[0]] == "(" and closing(self.code, last[0]) == last[1] - 1
            if group and last[0] > at:
                yield from self.split(last[0] + 1, last[1] - 1, separator)
            else:
                yield at, stop

    def refused_if(self, start, end):
        for at, stop in self.split(start, end, "||"):
            self.add(at, stop, "((", ") && !%s)")

    def refused_unless(self, start, end):
        for at, stop in self.split(start, end, "&&"):
            self.add(at, stop, "((", ") || %s)")

    def ifs(self):
        for found in re.finditer(r"\bif (?!let\b)", self.code):
            start = found.end()
            end = until(self.code, start, "{", "=>")
            if self.code.startswith("=>", end):
                self.arm(start, end)
            elif self.code[end:end + 1] == "{":
                self.branch(*trimmed(self.code, start, end), end)

    def arm(self, start, end):
        body = end + 2
        stop = until(self.code, body, ",")
        brace = until(self.code, body, "{")
        if not self.code[body:brace].strip() and brace < stop:
            stop = closing(self.code, brace)
        if re.match(r"\s*\{?\s*(?:return\s+)?" + REFUSAL, self.code[body:stop]):
            self.refused_if(*trimmed(self.code, start, end))

    def branch(self, start, end, brace):
        close = closing(self.code, brace)
        body, rest = self.code[brace + 1:close], self.code[close + 1:close + 400]
        other = re.match(r"\s*else\s*\{", rest)
        if other:
            begin = close + other.end()
            otherwise = self.code[begin:closing(self.code, begin)]
            first, second = (re.search(REFUSAL, part) is not None for part in (body, otherwise))
            if first != second:
                (self.refused_if if first else self.refused_unless)(start, end)
        elif re.search(r"return\s+" + REFUSAL, outside(body)):
            self.refused_if(start, end)
        elif re.fullmatch(r"\s*return Ok\((?:\(\)|None|layout)\);\s*", body):
            if re.match(r"\s*(?:let [^;]*;\s*)?" + REFUSAL, rest):
                self.refused_unless(start, end)
        elif re.fullmatch(r"\s*Ok\((?:out|size)\)\s*", body):
            self.refused_unless(start, end)

    def lets(self):
        """`if let Some(..) = found { refuse }`"""
        for found in re.finditer(r"\bif let Some\([^=]*?\)+ =\s", self.code):
            brace = until(self.code, found.end(), "{")
            if re.search(r"return\s+" + REFUSAL, outside(self.code[brace + 1:closing(self.code, brace)])):
                self.add(*trimmed(self.code, found.end(), brace), "(", ").filter(|_| !%s)")

    def filters(self):
        """`found.filter(|found| condition)` where nothing found is refused."""
        for found in re.finditer(r"\.filter\(\|[^|]*\| ", self.code):
            close = closing(self.code, found.start() + len(".filter"))
            after = self.code[close + 1:until(self.code, close + 1, ";")]
            statement = self.code[self.code.rfind(";", 0, found.start()) + 1:found.start()]
            if "ok_or" in after or re.match(r"\s*else\s*\{", after) or "let step =" in statement:
                self.refused_unless(*trimmed(self.code, found.end(), close))

    def arguments(self):
        """`parse::check(at, condition, ..)`, and calls of LIMITS."""
        for found in re.finditer(r"parse::check\(", self.code):
            close = closing(self.code, found.end() - 1)
            condition = pieces(self.code, found.end(), close, ",")[1]
            self.add(*condition, "(", ") || %s", (found.start(), close + 1))
        for found in re.finditer(LIMITS, self.code):
            self.add(found.start(), closing(self.code, found.end() - 1) + 1, "", UNLESS_OFF)

    def rows(self):
        """Tables of what must be equal, or within a limit: (name, expected, found)."""
        for found in re.finditer(r"(?:in|totals =) \[(?=\s*\()", self.code):
            opening = found.end() - 1
            for start, end in pieces(self.code, opening + 1, closing(self.code, opening), ","):
                spans = pieces(self.code, start + 1, end - 1, ",")
                if self.code[start:start + 2] != '("' or len(spans) < 3:
                    continue
                right, left = (self.source[slice(*span)] for span in spans[1:3])
                if "(limit, asked" in self.code[found.start() - 60:found.start()]:
                    right = "u64::MAX"
                # Without the comparison where the compiler could not tell the types.
                differs = "" if ".into()" in right else f"{left} != {right} && "
                self.add(*spans[2], f"if {differs}%s {{ {right} }} else {{ ", " }", (start, end))

    def calls(self):
        for found in re.finditer(r"(?<=\n)[ ]+" + CALLS, self.code, re.VERBOSE):
            start = found.end() - len(found.group().lstrip())
            end = until(self.code, start, ";") + 1
            if self.code[start:end].endswith("?;"):
                self.add(end - 2, end - 2, UNLESS_OFF, "", (start, end))

    def edits(self):
        for file, old, new in SAID["edits"]:
            if file == self.file:
                if (times := self.source.count(old)) != 1:
                    sys.exit(f"checks.py: {times} times in {file}, not once: {old}")
                start = self.source.index(old)
                self.checks.append(Check(file, squeezed(old), ((start, start + len(old), new),)))

class RustReader:
    """One build has the switches of all checks. A switch is looked at where its check refuses."""
    DRIVER = ('[package]\nname = "pulse-checks"\nversion = "0.0.0"\nedition = "2021"\n'
              '[dependencies]\npulse-codec = { path = ".." }\n')
    PROGRAM = TARGET / "debug/pulse-checks"

    def __init__(self):
        found = (RustChecks(file, (ROOT / "src" / file).read_text()).checks for file in RUST_FILES)
        self.checks = numbered(sum(found, []))

    def prepare(self):
        """Builds the reader, and runs all vectors once: for each check, those that come to its switch."""
        self.numbers = {check.key(): number for number, check in enumerate(self.checks)}
        tree, environment = self.tree(), dict(os.environ, CARGO_TARGET_DIR=str(TARGET), CARGO_PROFILE_DEV_DEBUG="0")
        command = "cargo build --quiet -p pulse-checks".split()
        for package in ("pulse-codec", "tape-sha256"):
            # It is built for few runs.
            command += ["--config", f"profile.dev.package.{package}.opt-level=0"]
        subprocess.run(command, cwd=tree, env=environment, check=True)
        self.refused = {}
        with ThreadPoolExecutor(2) as pool, tempfile.TemporaryDirectory() as directory:
            def wrong(row):
                return self.is_wrong(row, f"CHECK_LOG={Path(directory, row['name'])}")
            if names := [row["name"] for row, is_wrong in zip(vectors(), pool.map(wrong, vectors())) if is_wrong]:
                sys.exit(f"checks.py: wrong although no check is left out: {', '.join(names)}")
            for row in vectors():
                log = Path(directory, row["name"])
                for number in log.read_text().split() if log.exists() else ():
                    self.refused.setdefault(int(number), []).append(row)

    def tree(self):
        tree = WORK / "tree"
        command = ["git", "ls-files", "-co", "--exclude-standard", ":!testvectors"]
        listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        names = (name for name in listed.stdout.splitlines() if (ROOT / name).is_file())
        files = {name: (ROOT / name).read_text("latin-1") for name in names}
        files["Cargo.toml"] = files["Cargo.toml"].replace("members = [", 'members = ["checks", ', 1)
        files["checks/Cargo.toml"] = self.DRIVER
        files["checks/src/main.rs"] = files["tools/src/bin/conformance.rs"]
        files["src/checks.rs"] = SWITCH
        files["src/lib.rs"] = "#![allow(warnings)]\n" + files["src/lib.rs"].replace("\nmod ", "\nmod checks;\nmod ", 1)
        for file in RUST_FILES:
            source = self.switched(file).encode()
            files["src/" + file] = source.decode("latin-1")
        for name, text in files.items():
            # A file stays as it is that has this text: cargo builds what has changed.
            path, data = tree / name, text.encode("latin-1")
            if not path.is_file() or path.read_bytes() != data:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        return tree

    def switched(self, file):
        """The source with all of its switches. Of edits at one place, inner ones stay inside."""
        edits, source = [], (ROOT / "src" / file).read_text()
        for check in (check for check in self.checks if check.file == file):
            size = check.edits[-1][1] - check.edits[0][0]
            for nth, (start, end, new) in enumerate(check.edits):
                order = (0, size) if nth == 1 else (1, -size)
                edits.append((start, order, end, new.replace("%s", OFF % self.numbers[check.key()])))
        for start, _, end, new in sorted(edits, reverse=True):
            source = source[:start] + new + source[end:]
        return source

    def notice(self, check):
        wrong, number = [], self.numbers[check.key()]
        for row in self.refused.get(number, []):
            wrong += [row["name"]] if self.is_wrong(row, f"CHECK_OFF={number}") else []
            if len(wrong) == NAMED:
                break
        return wrong

    def is_wrong(self, row, variable):
        from manifest import ROOT as vectors, run
        command = ["env", variable, "timeout", str(SECONDS), "prlimit", f"--as={MEMORY}", str(self.PROGRAM)]
        base = row["base"] and vectors / row["base"]
        with tempfile.TemporaryDirectory() as directory:
            return is_wrong(row, run(command, vectors / row["file"], base, Path(directory, "out"), row["limits"]))

# ---------------------------------------------------------------- results
READERS = {"python": PythonReader, "rust": RustReader}

class Results:
    def __init__(self, reader):
        self.path = WORK / f"{reader}.jsonl"
        rows = map(json.loads, self.path.read_text().splitlines()) if self.path.exists() else ()
        self.noticed = {(row["file"], row["check"]): row["noticed"] for row in rows}

    def put(self, check, noticed):
        self.noticed[check.key()] = noticed
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a") as out:
            out.write(json.dumps({"file": check.file, "check": check.text, "noticed": noticed}) + "\n")

    def verdict(self, check):
        if names := self.noticed[check.key()]:
            return ", ".join(f"`{name}`" for name in names)
        return next((reason for part, reason in SAID["reasons"].items() if part in check.text), None)

def examine(reader, results, only, again):
    def is_left(check):
        here = check.key() in results.noticed and (results.noticed[check.key()] or not again)
        return not here and re.search(only, f"{check.file} {check.text}")
    left = list(filter(is_left, reader.checks))
    if not left:
        return
    reader.prepare()
    with ThreadPoolExecutor(2) as pool:
        runs = {pool.submit(reader.notice, check): check for check in left}
        for done in as_completed(runs):
            check = runs[done]
            results.put(check, done.result())
            print(f"{check.file}  {check.text[:100]}: {results.verdict(check)}", flush=True)

def counts(reader, results):
    found = [check for check in reader.checks if check.key() in results.noticed]
    noticed = sum(bool(results.noticed[check.key()]) for check in found)
    unnoticed = [check for check in found if results.verdict(check) is None]
    return len(found), noticed, len(found) - noticed - len(unnoticed), unnoticed

HEAD = """# Checks of the readers, and what holds them
Written by `checks.py python rust --table CHECKS.md`: for each check of a reader, up to three vectors that notice when
it is left out, or why no vector can.

| reader | checks | noticed | explained | unnoticed |
|---|---|---|---|---|
"""

def table(found):
    lines, total = [], HEAD
    for name, reader, results in found:
        checks, noticed, explained, unnoticed = counts(reader, results)
        total += f"| {name} | {checks} | {noticed} | {explained} | {len(unnoticed)} |\n"
        lines += [f"\n## {name}", "| file | check | noticed by |", "|---|---|---|"]
        for check in (check for check in reader.checks if check.key() in results.noticed):
            parts = [part if len(part) <= 80 else part[:77] + "..." for part in check.text.rsplit(" | ", 1)]
            text = " | ".join(parts).replace("`", "'").replace("|", "\\|")
            lines.append(f"| {check.file} | `{text}` | {results.verdict(check) or '**nothing**'} |")
    return total + "\n".join(lines) + "\n"

def main():
    if sys.argv[1:2] == ["vectors"]:
        return run_vectors(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reader", nargs="+", choices=READERS)
    parser.add_argument("--only", default="", metavar="REGEX", help="these files or texts")
    parser.add_argument("--again", action="store_true", help="once more what was not noticed")
    parser.add_argument("--table", type=Path, help="where a Markdown table of all results goes")
    args = parser.parse_args()
    found = [(name, READERS[name](), Results(name)) for name in args.reader]
    missed = False
    for name, reader, results in found:
        examine(reader, results, args.only, args.again)
        checks, noticed, explained, unnoticed = counts(reader, results)
        print(f"{name}: {checks} checks, {noticed} noticed, {explained} explained, {len(unnoticed)} unnoticed")
        for check in unnoticed:
            missed = True
            print(f"unnoticed: {check.file}  {check.text}")
    if args.table:
        args.table.write_text(table(found))
    return missed

if __name__ == "__main__":
    if PYTHON.exists() and Path(sys.prefix) != PYTHON.parent.parent:
        os.execv(PYTHON, [str(PYTHON), *sys.argv])
    sys.exit(main())
