#!/usr/bin/env python3
"""What goes wrong around a feed, and what the program says of it: one clear message each, nothing lost.

    scripts/servers.py run s3 rclone -- scripts/trouble.py [--profile debug]

Prints a table of situations, kinds and messages, and fails if one of them is not what it should be. The full disk is a
small file system that is mounted for it; where that is not allowed, it says so. Python's standard library only.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
# Nobody is asked for credentials outside this machine.
NOWHERE = {"AWS_METADATA_ENDPOINT": "http://127.0.0.1:9", "AWS_EC2_METADATA_DISABLED": "true"}


class Refusing(BaseHTTPRequestHandler):
    """A store that refuses in the words of S3: the policy, or the clock."""

    code = "AccessDenied"

    def answer(self):
        # What was sent is read, so that the client is not cut off.
        self.rfile.read(int(self.headers.get("content-length") or 0))
        is_read = self.command in ("GET", "HEAD")
        code = "NoSuchKey" if is_read and self.code == "AccessDenied" else self.code
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code} it is.</Message></Error>".encode()
        self.send_response(404 if code == "NoSuchKey" else 403)
        self.send_header("content-type", "application/xml")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer

    def log_message(self, *_):
        pass


def refusing(code):
    handler = type("Handler", (Refusing,), {"code": code})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


class Trouble:
    def __init__(self, pulse, place):
        self.pulse, self.place = pulse, place
        self.wrong = 0

    def run(self, *arguments, **environment):
        own = {**os.environ, **NOWHERE, "XDG_STATE_HOME": str(self.place / "state"), **environment}
        own = {name: value for name, value in own.items() if value is not None}
        return subprocess.run([self.pulse, *map(str, arguments)], capture_output=True, text=True, env=own, timeout=120, check=False)

    def row(self, what, kind, message, is_right):
        self.wrong += not is_right
        print(f"| {what} | `{kind}` | {message} | {'ok' if is_right else 'WRONG'} |", flush=True)

    def fails(self, what, arguments, kind, words, **environment):
        found = self.run(*arguments, "--json", **environment)
        try:
            failure = json.loads(found.stderr.strip().splitlines()[-1])
        except (ValueError, IndexError):
            failure = {"kind": "?", "message": found.stderr.strip()[-200:]}
        failure = failure.get("error", failure)
        message = " ".join(str(failure.get(part) or "") for part in ("message", "advice_text"))
        is_right = found.returncode == 1 and failure.get("kind") == kind and all(word in message for word in words)
        self.row(what, failure.get("kind"), message.strip(), is_right and "\n" not in message)

    def follower(self, *arguments):
        own = {**os.environ, **NOWHERE}
        process = subprocess.Popen([self.pulse, "follow", *map(str, arguments), "--json"], stdout=subprocess.PIPE, text=True, env=own)
        events = []
        threading.Thread(target=lambda: [events.append(json.loads(line)) for line in process.stdout], daemon=True).start()
        return process, events


def wait(condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return False


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="release")
    options = parser.parse_args()
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    with tempfile.TemporaryDirectory(prefix="pulse-trouble-") as place:
        trouble = Trouble(target / options.profile / "pulse", Path(place))
        tell(trouble, Path(place))
    sys.exit(1 if trouble.wrong else 0)


def tell(trouble, place):
    run = place / "run"
    made = trouble.run("demo", "--megabytes", 8, "--steps", 3, "--keep", run, "--quiet")
    assert made.returncode == 0, made.stderr
    step = [run / f"step_{number}.safetensors" for number in range(4)]
    bucket = os.environ.get("PULSE_TEST_S3", "s3://pulse")
    feed = f"{bucket}/trouble-{os.getpid()}"
    print("| situation | kind | message | |\n|---|---|---|---|")
    publish = ["publish", step[0]]
    keys = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}
    trouble.fails("no credentials", [*publish, feed], "store", ["credentials"], **keys)
    trouble.fails("wrong credentials", [*publish, feed], "store", ["credentials"], AWS_SECRET_ACCESS_KEY="wrong")
    trouble.fails("no bucket", [*publish, "s3://no-such-bucket/run"], "store", ["bucket"])
    trouble.fails("no bucket, reading", ["follow", "s3://no-such-bucket/run", place / "x", "--once"], "no-feed", ["bucket"])
    denied = {"AWS_ENDPOINT": refusing("AccessDenied"), "AWS_ALLOW_HTTP": "true"}
    trouble.fails("no permission to write", [*publish, "s3://bucket/run"], "store", ["policy"], **denied)
    skewed = {"AWS_ENDPOINT": refusing("RequestTimeTooSkewed"), "AWS_ALLOW_HTTP": "true"}
    trouble.fails("a clock that is wrong by a day, says the store", [*publish, "s3://bucket/run"], "store", ["clock"], **skewed)
    rclone = os.environ.get("PULSE_TEST_RCLONE_ENDPOINT")
    if rclone:
        endpoint = {"AWS_ENDPOINT": rclone, "AWS_ALLOW_HTTP": "true"}
        endpoint["AWS_ACCESS_KEY_ID"] = os.environ["PULSE_TEST_RCLONE_KEY"]
        endpoint["AWS_SECRET_ACCESS_KEY"] = os.environ["PULSE_TEST_RCLONE_SECRET"]
        address = os.environ["PULSE_TEST_RCLONE"] + "/run"
        trouble.fails("a store that ignores conditions", [*publish, address], "conditions", ["conditional"], **endpoint)
    else:
        print("NOT RUN: a store that ignores conditions: PULSE_TEST_RCLONE_ENDPOINT is not set", file=sys.stderr)
    trouble.fails("no feed", ["follow", place / "nothing", place / "x", "--once"], "no-feed", ["check the address"])
    trouble.fails("a wrong address", ["follow", "ftp://host/run", place / "x", "--once"], "address", ["ftp"])
    deleted_and_back(trouble, place, step)
    store_down_and_up(trouble, place, step)
    full_disk(trouble, place, step)


def deleted_and_back(trouble, place, step):
    """A feed that is deleted while it is followed, and put back."""
    feed, away = place / "feed", place / "away"
    for number in range(2):
        trouble.run("publish", step[number], feed, "--step", number)
    process, events = trouble.follower(feed, place / "served")
    served = wait(lambda: any(event.get("version") == 1 and event["event"] == "switched" for event in events))
    feed.rename(away)
    before = (place / "served").read_bytes()
    time.sleep(3)
    stays = process.poll() is None and (place / "served").read_bytes() == before
    shutil.copytree(away, feed)
    trouble.run("publish", step[2], feed, "--step", 2)
    back = wait(lambda: any(event.get("version") == 2 and event["event"] == "switched" for event in events))
    process.terminate()
    status = process.wait(30)
    refused = [event for event in events if event["event"] == "refused"]
    kind = refused[0].get("kind") if refused else "waiting"
    what = "serves on, and follows when it is back" if stays and back else f"served {served}, stays {stays}, back {back}"
    trouble.row("a feed that is deleted under way", kind, what, served and stays and back and status == 0)


def store_down_and_up(trouble, place, step):
    """A store that is away for some seconds."""
    feed = place / "feed-http"
    for number in range(2):
        trouble.run("publish", step[number], feed, "--step", number)
    server, address = start_static(feed)
    process, events = trouble.follower(address, place / "served-http")
    served = wait(lambda: any(event.get("version") == 1 and event["event"] == "switched" for event in events))
    server.shutdown()
    server.server_close()
    trouble.run("publish", step[2], feed, "--step", 2)
    refused = wait(lambda: any(event["event"] == "refused" for event in events))
    server, _ = start_static(feed, int(address.rsplit(":", 1)[1]))
    back = wait(lambda: any(event.get("version") == 2 and event["event"] == "switched" for event in events))
    process.terminate()
    status = process.wait(30)
    server.shutdown()
    events = [event for event in events if event["event"] == "refused"]
    message = (events[0].get("message") or events[0].get("error") or "") if events else ""
    kind = events[0].get("kind") if events else "?"
    trouble.row("a store that is away and comes back", kind, message, served and refused and back and status == 0)


def start_static(directory, port=0):
    from functools import partial
    from http.server import SimpleHTTPRequestHandler

    class Quiet(SimpleHTTPRequestHandler):
        """A server without ranges, which readers may break off."""

        def log_message(self, *_):
            pass

        def copyfile(self, source, output):
            try:
                super().copyfile(source, output)
            except ConnectionError:
                pass

    ThreadingHTTPServer.allow_reuse_address = True
    server = ThreadingHTTPServer(("127.0.0.1", port), partial(Quiet, directory=str(directory)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}"


def full_disk(trouble, place, step):
    """A follower whose disk is full, and then is not."""
    disk = place / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=18m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode != 0:
        print(f"NOT RUN: a full disk: {mounted.stderr.decode().strip()}", file=sys.stderr)
        return
    try:
        feed = place / "feed-disk"
        trouble.run("publish", step[0], feed, "--step", 0)
        process, events = trouble.follower(feed, disk / "served", "--keep", "0")
        served = wait(lambda: any(event["event"] == "switched" for event in events))
        (disk / "ballast").write_bytes(b"x" * (6 << 20))
        before = (disk / "served").read_bytes()
        trouble.run("publish", step[1], feed, "--step", 1)
        refused = wait(lambda: any(event["event"] == "refused" for event in events))
        stays = (disk / "served").read_bytes() == before
        (disk / "ballast").unlink()
        back = wait(lambda: any(event.get("version") == 1 and event["event"] == "switched" for event in events), 90)
        process.terminate()
        status = process.wait(30)
        told = [event for event in events if event["event"] == "refused"]
        message = (told[0].get("message") or told[0].get("error") or "") if told else ""
        kind = told[0].get("kind") if told else "?"
        trouble.row("a full disk", kind, message, served and refused and stays and back and status == 0)
    finally:
        subprocess.run(["umount", disk], check=False)


if __name__ == "__main__":
    main()
