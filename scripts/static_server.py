#!/usr/bin/env python3
"""Serves a directory to readers, as a web server or a CDN does: GET and HEAD, with ranges and preconditions.

    scripts/static_server.py DIRECTORY [--port PORT] [--no-ranges]

Python's own http.server knows neither ranges nor ETags. There are no listings, and what is no file is a 404.
With --no-ranges every answer is the whole body, as from servers that know none. Python's standard library only.
"""

import argparse
import email.utils
import os
import re
import stat
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ONE_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class StaticServer(ThreadingHTTPServer):
    """Listens from the moment that it is made; serve_forever answers."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, directory, port=0, ranges=True):
        super().__init__(("127.0.0.1", port), Handler)
        self.directory = Path(directory).resolve()
        self.ranges = ranges

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """Readers that hang up are no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        self.answer(body=True)

    def do_HEAD(self):
        self.answer(body=False)

    def answer(self, body):
        """The order of checks is that of RFC 9110: existence, preconditions, then the range."""
        file = self.open_target()
        if file is None:
            return self.empty(404)
        with file:
            status = os.fstat(file.fileno())
            etag = f'"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"'
            headers = {
                "ETag": etag,
                "Last-Modified": email.utils.formatdate(status.st_mtime, usegmt=True),
                "Content-Type": "application/octet-stream",
            }
            if self.server.ranges:
                headers["Accept-Ranges"] = "bytes"
            if not self.names(etag, "If-Match", absent=True):
                return self.empty(412, headers)
            if self.names(etag, "If-None-Match", absent=False):
                return self.empty(304, headers)
            start, end, code = self.range(status.st_size)
            if code == 416:
                return self.empty(416, headers | {"Content-Range": f"bytes */{status.st_size}"})
            if code == 206:
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{status.st_size}"
            self.head(code, headers, end - start)
            if body and end > start:
                self.wfile.flush()
                self.connection.sendfile(file, start, end - start)

    def open_target(self):
        """The file that the URL names, or None; links that lead out of the directory are followed nowhere."""
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        try:
            target = (self.server.directory / path.lstrip("/")).resolve()
            if not target.is_relative_to(self.server.directory):
                return None
            if not stat.S_ISREG(target.stat().st_mode):
                return None
            return open(target, "rb")
        except (OSError, ValueError):
            return None

    def names(self, etag, header, absent):
        """Whether the header lists this ETag."""
        value = self.headers.get(header)
        if value is None:
            return absent
        return value.strip() == "*" or etag in (part.strip() for part in value.split(","))

    def range(self, size):
        """First byte, end, and the status; ranges of a form that is not known are ignored, as they may be."""
        match = ONE_RANGE.fullmatch(self.headers.get("Range", ""))
        if not self.server.ranges or match is None or match.groups() == ("", ""):
            return 0, size, 200
        first, last = match.groups()
        if first == "":
            start, end = max(0, size - int(last)), size
        else:
            start, end = int(first), min(size, int(last) + 1 if last else size)
        return (start, end, 206) if start < end else (0, 0, 416)

    def empty(self, code, headers=None):
        # A 304 has no body, whatever its length would be.
        self.head(code, headers or {}, None if code == 304 else 0)

    def head(self, code, headers, length):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *_):
        """Tests ask thousands of times."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--no-ranges", action="store_true")
    options = parser.parse_args()
    server = StaticServer(options.directory, options.port, not options.no_ranges)
    print(server.url, flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
