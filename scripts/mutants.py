#!/usr/bin/env python3
"""Breaks one rule after another of those that keep weights right, and tells which tests notice.

scripts/mutants.py              all of them, a Markdown table
scripts/mutants.py --take N     N of them, others with each commit: what CI does
scripts/mutants.py WORD...      those whose rule has one of the words

Each is one change of the sources in a copy of the tree, in target/mutants. Fails if a change goes unnoticed, or if its
lines are not in the sources any more. For changes that nobody thought of: all_mutants.py.
"""
import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "target" / "mutants"
# What the tests may take, in seconds: far more than they need, as a mutant may never end. Building does, and takes
# what it takes: on a busy machine that is no sign of a mutant.
LIMIT = 600

UPDATES = ["--lib", "--", "update::", "disk::"]
CHECKPOINTS = ["--test", "checkpoints", "--"]
COMMIT, PENDING, JUDGE = "src/update/commit.rs", "src/update/pending.rs", "src/update/judge.rs"
RECOVER, REDO, UNDO = "src/update/recover.rs", "src/update/redo.rs", "src/update/undo.rs"
LAYOUT, PLAN = "src/checkpoint/layout.rs", "src/checkpoint/plan.rs"
# The rules of a feed: what the simulation notices in so many schedules, and what a test of one situation does.
SIMULATION = ["--package", "pulse-sync", "--test", "simulation", "--"]
FEED = ["--package", "pulse-sync", "--test", "feed", "--"]
SCHEDULES = "300"
PUBLISHER, SETTLE = "sync/src/publisher/publisher.rs", "sync/src/publisher/pending.rs"
FOLLOWER, PRUNE, MIRROR = "sync/src/follower/follower.rs", "sync/src/prune.rs", "sync/src/mirror.rs"

# Rule, file, lines, what they become, tests.
MUTANTS = [
    ("nothing changes before the marks are on disk", COMMIT,
     "            .mark()\n            .and_then(|()| overwrite(&pending))\n",
     "            .sync_directory()\n            .and_then(|()| overwrite(&pending))\n", UPDATES),
    ("a mark is synced", PENDING,
     "            self.sync(file)?;\n        }\n        Ok(())\n    }\n\n    /// Gives their names",
     "        }\n        Ok(())\n    }\n\n    /// Gives their names", UPDATES),
    ("names are looked at before the journal goes", PENDING,
     "            .try_for_each(|file| self.sync(file))?;\n        self.check_names()?;\n",
     "            .try_for_each(|file| self.sync(file))?;\n", UPDATES),
    ("a name is looked at before a file takes it", PENDING,
     "                    let from = self.staged(number);\n                    self.check_name(at)?;\n",
     "                    let from = self.staged(number);\n", UPDATES),
    ("the journal is whole on disk before the marks", COMMIT,
     "file.write_all_at(&bytes, 0).and_then(|()| file.sync()).map_err(io)?;",
     "file.write_all_at(&bytes, 0).map_err(io)?;", UPDATES),
    ("the name of the journal is on disk before the marks", COMMIT,
     "        self.disk\n            .sync_directory(&self.room.directory)\n"
     "            .map_err(failed(\"syncing\", &self.room.directory))?;\n        Ok(file)", "        Ok(file)", UPDATES),
    ("what is staged is synced", REDO,
     "            file.sync().map_err(failed(\"syncing\", file.path()))?;\n", "            let _ = file;\n", UPDATES),
    ("the patch that leads back is synced", UNDO,
     "written.and_then(|()| file.sync())", "written", UPDATES),
    ("the journal goes last", PENDING,
     "if mark == self.mark && what != JOURNAL {", "if mark == self.mark {", UPDATES),
    ("the first bytes come after what was made was opened", COMMIT,
     "            .and_then(|()| self.check_opened(&pending))\n            .and_then(|()| pending.settle(Side::Target));",
     "            .and_then(|()| pending.settle(Side::Target))\n            .and_then(|()| self.check_opened(&pending));",
     UPDATES),
    ("every file is synced before the journal goes", PENDING,
     "            .try_for_each(|file| self.sync(file))?;\n        self.check_names()?;\n        self.forget()",
     "            .try_for_each(|_| Ok::<(), Error>(()))?;\n        self.check_names()?;\n        self.forget()", UPDATES),
    ("after a failed sync nothing more is done", COMMIT,
     "    if pending.sync_failed.get() {", "    if false {", UPDATES),
    ("recovery proves the target before it writes", JUDGE,
     "        if found != self.record.target.digest {", "        if false && found != self.record.target.digest {",
     UPDATES),
    ("recovery proves the base before it writes", JUDGE,
     "        if found == self.record.base.digest {", "        if true || found == self.record.base.digest {", UPDATES),
    ("recovery proves the patch that leads back", JUDGE,
     "            Ok(()) if undo.footer().target == self.record.base.digest => {", "            Ok(()) => {", UPDATES),
    ("only a file with the mark is replaced", JUDGE,
     "                if record.base.is_none() || !self.has_mark(old)? {", "                if record.base.is_none() {",
     UPDATES),
    ("only a file with the mark is written to by undo", JUDGE,
     "            if !marked[tensor.file] {", "            if false && !marked[tensor.file] {", UPDATES),
    ("a journal of files that are not here does nothing", JUDGE,
     "Ok(if self.is_marked()? { Verdict::Stuck", "Ok(if true { Verdict::Stuck", UPDATES),
    ("recovery reads from the disk", RECOVER,
     "            file.reload().map_err(failed(\"reading\", &path))?;\n", "", UPDATES),
    ("no recovery says that all is well of a marked file", RECOVER,
     "    check_marks(&room)?;\n    Ok(recovery)", "    Ok(recovery)", UPDATES),
    ("the leftovers of an update that runs stay", RECOVER,
     "        if claims.claim(&file, path)? {\n            disk.remove(path)",
     "        if claims.claim(&file, path)? || true {\n            disk.remove(path)", UPDATES),
    ("a companion is changed only if its bytes are the base's", PENDING,
     "                found if found == Found::of(companion.base) => {}\n",
     "                found if found != Found::Other => {}\n", UPDATES),
    ("an update locks its files", "src/checkpoint/safetensors.rs",
     "    if locked == Locked::Busy || !is_named {", "    if !is_named {", UPDATES),
    ("a marked file is refused as such", "src/checkpoint/safetensors.rs",
     "        if let Some(mark) = Mark::of(length) {",
     "        if let Some(mark) = Mark::of(length).filter(|_| false) {", UPDATES),
    ("what was made is opened and compared", PLAN,
     "        let expected = self.files.iter().map(|file| (&file.name, &file.header.bytes));\n",
     "        if self.files.len() < usize::MAX {\n            return Ok(());\n        }\n"
     "        let expected = self.files.iter().map(|file| (&file.name, &file.header.bytes));\n", UPDATES),
    ("an output replaces no input", "src/disk/place.rs",
     "is_in_the_way && is_below_input(&found, path, inputs)", "is_in_the_way && false", CHECKPOINTS),
    ("what takes a place is looked at again", "src/disk/place.rs",
     "            (Some(then), Some(now)) => cfg!(not(unix)) || Identity::of(then).is(&Identity::of(now)),",
     "            (Some(_), Some(_)) => true,", CHECKPOINTS),
    ("an output is synced before it has its name", "src/disk/staged.rs",
     "        for file in files {\n            file.sync().map_err(failed(\"syncing\", path))?;\n        }\n        match self.stage",
     "        match self.stage", UPDATES),
    ("the directory is read as its readers will read it", PENDING,
     "            self.check_directory()?;\n", "            let _ = Self::check_directory;\n", UPDATES),
    ("a journal without marks changes nothing", RECOVER,
     "            Verdict::Forward if !was_marked => {", "            Verdict::Forward if !was_marked && false => {", UPDATES),
    ("what is written to the base before the marks is noticed", COMMIT,
     "        self.base.check_unchanged()?;\n        staging.kept", "        staging.kept", UPDATES),
    ("readers take what is listed for what it is", PLAN,
     "        if let Some(name) = read.difference(&tensors).next() {",
     "        if let Some(name) = read.difference(&tensors).next().filter(|_| false) {",
     ["--test", "checkpoints", "--test", "spec"]),
    ("a tensor file that cannot be read is an error", LAYOUT,
     "            Ok((name, found.map_err(|error| Error::io_at(\"opening\", &path, error))?))\n        });\n"
     "        let tensors = tensors.collect::<Result<Vec<_>>>()?;",
     "            Ok((name, found.map_err(|error| Error::io_at(\"opening\", &path, error))?))\n        });\n"
     "        let tensors = tensors.filter_map(|found: Result<_>| found.ok()).collect::<Vec<_>>();", CHECKPOINTS),
    ("a part that nobody looked into is an error", "src/checkpoint/tree.rs",
     "        if may_have_tensors {\n            self.unseen", "        if false && may_have_tensors {\n            self.unseen",
     CHECKPOINTS),
    ("inputs are looked at again at the end", "src/checkpoint/checkpoint.rs",
     "    fn check_unchanged(&self) -> Result<()> {\n        for file",
     "    fn check_unchanged(&self) -> Result<()> {\n        if self.is_directory || !self.is_directory {\n"
     "            return Ok(());\n        }\n        for file", CHECKPOINTS),
    ("F18: the store is asked whether it has all of the data", "sync/src/upload.rs",
     "        if found != Some(self.bytes) {", "        if false && found != Some(self.bytes) {", SIMULATION),
    ("F19: a put without a clear answer is pending", SETTLE,
     "                Put::Unclear(error) => Some(error),\n            };",
     "                Put::Unclear(error) => {\n                    self.pending = None;\n"
     "                    return Err(error);\n                }\n            };", SIMULATION),
    ("F19: what exists is read", SETTLE, "                Put::Created => {\n",
     "                Put::Created | Put::Exists => {\n", SIMULATION),
    ("F21: the base moves when the record is durable", PUBLISHER,
     "            self.begin(record, source.unpublished())?;\n",
     "            let early = source.unpublished();\n            self.begin(record, None)?;\n"
     "            if let Some(early) = early {\n"
     "                in_place(|| source.advance(early, Control::threads(1)))?;\n            }\n", SIMULATION),
    ("F22: a writer asks for the data of the head", PUBLISHER,
     "        if !is_there.await.unwrap_or(Ok(false))? {", "        if !is_there.await.unwrap_or(Ok(true))? && false {",
     FEED),
    ("F24: a writer that starts takes a higher epoch", PUBLISHER,
     "log.head().record.epoch + 1)", "log.head().record.epoch)", SIMULATION),
    ("F25: a writer that meets another one stops", SETTLE,
     "        if other.epoch < self.epoch ||", "        if true || other.epoch < self.epoch ||", SIMULATION),
    ("F25: a writer does not go on after a higher epoch", PUBLISHER,
     "        if other_epoch > self.epoch {", "        if false && other_epoch > self.epoch {", SIMULATION),
    ("F16: a writer does not go on with an old key", PUBLISHER,
     "            (Some(found), Some(trusted)) if found != trusted => {",
     "            (Some(found), Some(trusted)) if false && found != trusted => {", FEED),
    ("F12: an epoch does not fall", "sync/src/record.rs",
     "        } else if this.epoch < old.epoch {", "        } else if false && this.epoch < old.epoch {", SIMULATION),
    ("F27: a head leads back to the mark", "sync/src/log.rs",
     "            log.check_mark(mark).await?;", "            let _ = mark;", SIMULATION),
    ("F29: data leads where the records say", FOLLOWER,
     "        if footer.base != base || footer.target != part.target {",
     "        if false && (footer.base != base || footer.target != part.target) {", SIMULATION),
    ("F31: by-products of a way that failed are barred", FOLLOWER,
     "            self.barred_names.insert(object);\n            self.barred_digests.insert(part.data.sha256);\n", "",
     SIMULATION),
    ("F35: the anchor is read before the floor rises", PRUNE,
     "    if is_higher || !old.is_empty() {", "    if false && (is_higher || !old.is_empty()) {", FEED),
    ("F36: nothing from the floor on is deleted", PRUNE,
     "|version| version < anchor.version)", "|version| version <= anchor.version)", SIMULATION),
    ("F37: data is copied before the record", MIRROR,
     "            if record.version >= floor {\n",
     "            copy_document(from, to, &name::record(record.version), Some(sealed.digest)).await?;\n"
     "            if record.version >= floor {\n", SIMULATION),
    ("a mirror puts no document that was cut off", MIRROR,
     "    let found = Document::parse(name, &bytes)?;\n    if expected.is_some_and(|expected| expected != found.digest) {",
     "    let _ = expected;\n    if false {", SIMULATION),
]

def tree():
    """A copy of what git has and of what is new, in which the mutants are made."""
    files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True,
                           text=True).stdout.splitlines()
    copy = WORK / "tree"
    if copy.exists():
        shutil.rmtree(copy)
    for name in files:
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    # By its version cargo tells what is built of the copy from what is built of the tree; all else is built once.
    manifest = copy / "Cargo.toml"
    text = manifest.read_text()
    manifest.write_text(re.sub(r'(?m)^version = "(\d+\.\d+)\.\d+"$', r'version = "\1.999"', text))
    return copy

def run(copy, tests):
    """Names of the tests that fail; None if all pass."""
    package = [] if "--package" in tests else ["--package", "pulse-codec"]
    command = ["cargo", "test", "--quiet", *package, "--no-fail-fast"]
    environment = dict(os.environ, CARGO_TARGET_DIR=str(ROOT / "target"), RUST_BACKTRACE="0",
                       PULSE_SCHEDULES=SCHEDULES)
    in_copy = dict(cwd=copy, env=environment, capture_output=True, text=True)
    built = subprocess.run([*command, "--no-run", *programs(tests)], **in_copy)
    if built.returncode:
        sys.exit(f"mutants.py: it does not compile:\n{built.stderr}")
    try:
        done = subprocess.run([*command, *tests], timeout=LIMIT, **in_copy)
    except subprocess.TimeoutExpired:
        return ["does not end"]
    failed = re.findall(r"^---- (\S+) stdout ----$", done.stdout, re.MULTILINE)
    return sorted(set(failed)) or (["no name"] if done.returncode else None)

def programs(tests):
    """The part of the arguments that says which programs have the tests."""
    return tests[:tests.index("--")] if "--" in tests else tests

def changed(copy, file, old, new):
    source = (copy / file).read_text()
    if source.count(old) != 1:
        sys.exit(f"mutants.py: {source.count(old)} times in {file}, not once:\n{old}")
    (copy / file).write_text(source.replace(old, new))
    return source

def chosen(arguments):
    if arguments.take:
        commits = subprocess.run(["git", "rev-list", "--count", "HEAD"], cwd=ROOT, check=True, capture_output=True,
                                 text=True).stdout
        first = int(commits) * arguments.take
        return [MUTANTS[(first + at) % len(MUTANTS)] for at in range(min(arguments.take, len(MUTANTS)))]
    words = arguments.words
    return [mutant for mutant in MUTANTS if not words or any(word in mutant[0] for word in words)]

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--take", type=int, metavar="N")
    parser.add_argument("words", nargs="*", metavar="WORD")
    mutants = chosen(parser.parse_args())
    copy = tree()
    survived, noticed = 0, {}
    print("| rule that is broken | in | noticed by | seconds |\n|---|---|---|---|", flush=True)
    for rule, file, old, new, tests in mutants:
        source = changed(copy, file, old, new)
        begin = time.monotonic()
        failed = run(copy, tests)
        (copy / file).write_text(source)
        if failed is None:
            survived += 1
        else:
            noticed.setdefault((*programs(tests), "--"), set()).add(failed[0])
        by = "**nobody**" if failed is None else ", ".join(f"`{name.split('::')[-1]}`" for name in failed[:2])
        more = f" and {len(failed) - 2} more" if failed and len(failed) > 2 else ""
        print(f"| {rule} | {file} | {by}{more} | {time.monotonic() - begin:.0f} |", flush=True)
    print(f"\n{len(mutants) - survived} of {len(mutants)} noticed")
    # A test that fails of itself notices nothing.
    for tests, names in noticed.items():
        if failed := run(copy, [*tests, "--exact", *sorted(names)]):
            print(f"fails although no rule is broken: {', '.join(failed)}")
            return 1
    return 1 if survived else 0

if __name__ == "__main__":
    sys.exit(main())
