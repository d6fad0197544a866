#!/usr/bin/env python3
"""One run of a feed from beginning to end, with real processes that are killed at random moments.

    scripts/servers.py run s3 -- scripts/story.py [--feed URL] [--versions 200] [--mib 256] [--seed 1]

A trainer in memory publishes one version after the other. Four followers: one serves files beside (`pulse follow`), one
in memory (feed_serve), one changes a checkpoint in place, one joins late. A second trainer takes over halfway and
fences the first. A compactor and a pruner run all the time. Every process is killed at random moments and started
again. In the end all hold the trainer's digest, and nobody ever served another one than that of a published version.

Needs `pulse` and the programs of pulse-tools, in the release build unless told otherwise. Python's standard library only.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
START = time.monotonic()
PROGRAMS = None


def log(text):
    print(f"{time.monotonic() - START:8.1f}  {text}", flush=True)


class Process:
    """A program that is started again when it was killed, and what its lines of JSON said."""

    def __init__(self, name, command, story, restarts=True):
        self.name, self.command, self.story, self.restarts = name, command, story, restarts
        self.kills, self.starts, self.ended = 0, 0, None
        self.lines = []
        self.process = None
        self.lock = threading.Lock()
        self.start()

    def start(self):
        self.starts += 1
        log(f"{self.name}: start {self.starts}")
        errors = open(self.story.place / f"{self.name}.err", "ab")
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=errors, text=True)
        errors.close()
        threading.Thread(target=self.read, args=(self.process,), daemon=True).start()

    def read(self, process):
        for line in process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                # Cut off by a kill.
                continue
            self.lines.append(event)
            self.story.heard(self, event)
        process.wait()

    def is_running(self):
        return self.process is not None and self.process.poll() is None

    def kill(self):
        if self.is_running():
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.kills += 1

    def tend(self):
        """Starts it again if it is not running, unless it has come to its end."""
        if self.is_running() or self.ended is not None:
            return
        status = self.process.returncode
        if not self.restarts or (status == 0 and self.name.startswith("trainer")):
            self.ended = status
            log(f"{self.name}: ended with {status}")
        else:
            self.start()

    def stop(self):
        if self.is_running():
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()


class Story:
    def __init__(self, options, place):
        self.options, self.place = options, place
        # Digest by version, as the trainers published them: a version has one.
        self.published, self.newest = {}, -1
        self.wrong, self.served = [], {}
        self.dice = random.Random(options.seed)
        self.fenced = None

    def heard(self, process, event):
        if process.name.startswith("trainer"):
            if "digest" in event:
                version = event["version"]
                if self.published.setdefault(version, event["digest"]) != event["digest"]:
                    self.wrong.append(f"version {version} was published twice with other weights")
                self.newest = max(self.newest, version)
                if version % 20 == 0:
                    log(f"{process.name}: version {version}, {event['bytes']:,} bytes, {event['seconds']:.2f} s")
            elif "error" in event:
                log(f"{process.name}: {event['error']}: {event['message']}")
                if event["error"] == "fenced":
                    self.fenced = process.name
                    process.restarts = False
        elif "digest" in event and "version" in event:
            self.serve(process.name, event["version"], event["digest"])

    def serve(self, who, version, digest):
        self.served.setdefault(who, []).append((version, digest))

    def check(self):
        """Everything that was served is a published version, and never older than before."""
        targets = {line["version"]: line["digest"] for line in feed_log(self.options.feed)}
        for version, digest in self.published.items():
            if targets.get(version) != digest:
                self.wrong.append(f"version {version} was published as {digest}, the log has {targets.get(version)}")
        for who, served in self.served.items():
            before = -1
            for version, digest in served:
                if targets.get(version) != digest:
                    self.wrong.append(f"{who} served {digest} as version {version}")
                if version < before:
                    self.wrong.append(f"{who} went from version {before} back to {version}")
                before = version
        return targets


def feed_log(feed):
    found = subprocess.run([PROGRAMS / "pulse", "feed", "log", feed, "--from", "0", "--json"], stdout=subprocess.PIPE, check=True)
    return json.loads(found.stdout)


def digest_of(path):
    found = subprocess.run([PROGRAMS / "pulse", "digest", path, "--json"], stdout=subprocess.PIPE, check=False)
    return json.loads(found.stdout)[0]["digest"] if found.returncode == 0 else None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--feed", default=os.environ.get("PULSE_TEST_S3", "") + f"/story-{os.getpid()}")
    parser.add_argument("--versions", type=int, default=200)
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pause", type=int, default=700, help="milliseconds between steps")
    parser.add_argument("--kill-every", type=float, default=4.0, help="seconds between kills, on average")
    parser.add_argument("--profile", default="release", help="which build of the programs: release or debug")
    options = parser.parse_args()
    global PROGRAMS
    PROGRAMS = TARGET / options.profile
    with tempfile.TemporaryDirectory(prefix="pulse-story-", dir=os.environ.get("TMPDIR")) as place:
        sys.exit(tell(options, Path(place)))


def tell(options, place):
    story = Story(options, place)
    trainer = [
        PROGRAMS / "feed_train", options.feed, "--mib", str(options.mib), "--steps", str(options.versions),
        "--pause", str(options.pause), "--anchor-every", "50",
    ]
    follow = [PROGRAMS / "pulse", "follow", options.feed]
    first = Process("trainer-1", trainer, story)
    while story.newest < 0:
        time.sleep(0.2)
        first.tend()
    in_place = place / "in-place"
    subprocess.run([*follow, place / "first", "--once", "--quiet"], check=True)
    in_place.mkdir()
    source = (place / "first").resolve()
    shutil.copyfile(source, in_place / "model.safetensors")
    followers = [
        Process("files", [*follow, place / "files", "--json"], story),
        Process("memory", [PROGRAMS / "feed_serve", options.feed], story),
        Process("in-place", [*follow, in_place / "model.safetensors", "--in-place", "--json"], story),
    ]
    keepers = [
        Process(
            "compactor",
            ["bash", "-c", f"while sleep 5; do {PROGRAMS}/pulse feed compact {options.feed} --quiet; done"],
            story,
        ),
        Process(
            "pruner",
            ["bash", "-c", f"while sleep 7; do {PROGRAMS}/pulse feed prune {options.feed} --grace 60s --quiet; done"],
            story,
        ),
    ]
    trainers, second, late = [first], None, None
    next_kill = time.monotonic() + options.kill_every
    while not any(process.ended == 0 for process in trainers):
        time.sleep(0.2)
        for process in [*trainers, *followers, *keepers]:
            process.tend()
        if second is None and story.newest >= options.versions // 2:
            log("a second trainer takes over")
            # The first one is a zombie from here on: alive, and not started again.
            first.restarts = False
            second = Process("trainer-2", trainer, story)
            trainers.append(second)
        if late is None and story.newest >= options.versions * 3 // 4:
            log("a follower joins late")
            late = Process("late", [*follow, place / "late", "--json"], story)
            followers.append(late)
        if time.monotonic() > next_kill:
            victims = [p for p in [*trainers, *followers, *keepers] if p.is_running() and p is not first]
            if second is None:
                victims.append(first)
            victim = story.dice.choice(victims)
            log(f"kill {victim.name}")
            victim.kill()
            next_kill = time.monotonic() + story.dice.uniform(0.2, 2) * options.kill_every
    log(f"the trainer is done at version {story.newest}; everybody catches up")
    last = story.published[story.newest]
    deadline = time.monotonic() + 300

    def behind():
        return [p.name for p in followers if not any(digest == last for _, digest in story.served.get(p.name, []))]

    while behind() and time.monotonic() < deadline:
        time.sleep(0.5)
        for process in followers:
            process.tend()
    for process in [*trainers, *followers, *keepers]:
        process.stop()
    targets = story.check()
    for name, path in [("files", place / "files"), ("late", place / "late"), ("in-place", in_place / "model.safetensors")]:
        found = digest_of(path)
        if found != last:
            story.wrong.append(f"{name} holds {found}, the trainer has {last}")
    story.wrong += [f"{name} did not reach the newest version" for name in behind()]
    if story.fenced != "trainer-1":
        story.wrong.append("the first trainer was not fenced")
    print("\n| who | starts | kills | versions served | last |\n|---|---|---|---|---|")
    for process in [*trainers, *followers, *keepers]:
        served = story.served.get(process.name, [])
        end = served[-1][0] if served else ""
        print(f"| {process.name} | {process.starts} | {process.kills} | {len(served) or ''} | {end} |")
    kills = sum(process.kills for process in [*trainers, *followers, *keepers])
    print(f"\n{len(targets)} versions, {kills} kills, {time.monotonic() - START:.0f} s, seed {options.seed}.")
    for wrong in story.wrong:
        print(f"WRONG: {wrong}")
    print("wrong" if story.wrong else f"all hold {last}, and nobody served anything that was not published")
    return 1 if story.wrong else 0


if __name__ == "__main__":
    main()
