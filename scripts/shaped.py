#!/usr/bin/env python3
"""A slow, distant network before servers on loopback: a TCP proxy with a rate and a round trip.

    scripts/shaped.py [OPTION]... VARIABLE... -- COMMAND...    runs the command with the URLs in these variables led
                                                               through the proxy, and exits as it does
    scripts/shaped.py [OPTION]... URL                          prints the URL that leads there, until SIGTERM or SIGINT

    --mbit N          megabits a second in each direction, shared by all connections (100)
    --rtt-ms N        round trip (100)
    --no-slow-start   see below
    --report FILE     for the line at the end, in place of standard error

Each piece of data arrives half a round trip after it has passed the link, and a connection costs a whole round trip
before its first byte. As of TCP on a real path, the first bytes go slowly: a sender has ten segments on their way at
most, twice as many after each round trip, and ten again after a second of silence. Nothing is lost or reordered.

At the end it says in one line of JSON: seconds, connections, bytes to the servers ("up"), bytes from them ("down").
Python's standard library only.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
import urllib.parse

# What a connection gives to the link at a time: connections take turns after 5 ms at 100 Mbit/s. With less, a machine
# that is busy otherwise, and wakes a process every 3 ms, would not reach the rate.
PIECE = 64 * 1024
# The link takes this much more than it has passed: the timers of a system are too coarse to meet each piece.
QUEUE_SECONDS = 0.02
LATE_SECONDS = 0.5
# What kernels may hold of a connection before the link: little, as a sender has to feel the link; yet several of the
# packets of loopback, without which it stalls.
KERNEL_BUFFER = 1024 * 1024
FIRST_WINDOW = 10 * 1460
IDLE_SECONDS = 1.0


class Link:
    """One direction: a rate that all connections share, then a delay."""

    def __init__(self, rate, delay):
        self.rate, self.delay = rate, delay
        self.free = 0.0  # when all that was sent so far has passed
        self.late = 0.0  # by how much the last sender was woken too late, while more was there to be sent
        self.bytes = 0

    async def send(self, count):
        """When these bytes arrive. Returns once there is room for more."""
        now = time.monotonic()
        # A busy machine wakes senders late. The link was not idle meanwhile.
        self.free = max(self.free, now - min(self.late, LATE_SECONDS)) + count / self.rate
        self.late = 0.0
        self.bytes += count
        arrival, room = self.free + self.delay, self.free - QUEUE_SECONDS
        if room > now:
            await asyncio.sleep(room - now)
            self.late = time.monotonic() - room
        return arrival


class Window:
    """What one sender may have on its way: at most twice what the path holds, and less in TCP's slow start."""

    def __init__(self, link, slow_start):
        self.largest = max(FIRST_WINDOW, 4 * link.rate * link.delay)
        self.first = FIRST_WINDOW if slow_start else self.largest
        self.size = self.first
        self.on_its_way = 0
        self.last = time.monotonic()
        self.acknowledged = asyncio.Event()

    async def room(self):
        """How much may go, once that is something."""
        if self.on_its_way == 0 and time.monotonic() - self.last > IDLE_SECONDS:
            self.size = self.first
        while self.on_its_way >= self.size:
            self.acknowledged.clear()
            await self.acknowledged.wait()
        return int(self.size - self.on_its_way)

    def acknowledge(self, count):
        self.last = time.monotonic()
        self.on_its_way -= count
        self.size = min(self.size + count, self.largest)
        self.acknowledged.set()


class Proxy:
    """Both directions of one link, before one server or several."""

    def __init__(self, mbit, rtt_ms, slow_start):
        self.up, self.down = (Link(mbit * 1e6 / 8, rtt_ms / 2000) for _ in range(2))
        self.slow_start = slow_start
        self.connections = 0
        self.running = set()  # the event loop itself keeps no task alive
        self.begin = time.monotonic()

    async def lead_to(self, url):
        """A URL that leads to this one by way of the link."""
        parts = urllib.parse.urlsplit(url)
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BUFFER)
        port = listener.getsockname()[1]

        async def accept(*client):
            self.running.add(asyncio.current_task())
            try:
                await self.connect(client, parts.hostname, parts.port or 80)
            except asyncio.CancelledError:
                pass  # connections still open at the end are cut
            finally:
                self.running.discard(asyncio.current_task())

        await asyncio.start_server(accept, sock=listener, limit=PIECE)
        return parts._replace(netloc=f"127.0.0.1:{port}").geturl()

    async def connect(self, client, host, port):
        self.connections += 1
        # The handshake, of which loopback's own client knows nothing.
        await asyncio.sleep(self.up.delay + self.down.delay)
        writers = [client[1]]
        try:
            upstream = socket.socket()
            upstream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BUFFER)
            upstream.setblocking(False)
            await asyncio.get_running_loop().sock_connect(upstream, (host, port))
            server = await asyncio.open_connection(sock=upstream, limit=PIECE)
            writers.append(server[1])
            for writer in writers:
                # Otherwise the kernel would hold small pieces back, for longer than the link does.
                writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.TaskGroup() as directions:
                directions.create_task(self.carry(client[0], server[1], self.up))
                directions.create_task(self.carry(server[0], client[1], self.down))
        except (OSError, ExceptionGroup):
            # One side broke the connection, so that the other sees it broken too.
            for writer in writers:
                writer.transport.abort()
        finally:
            for writer in writers:
                writer.close()

    async def carry(self, reader, writer, link):
        """One direction of a connection, to its end."""
        window = Window(link, self.slow_start)
        # Data, its time of arrival; the windows bound it.
        travelling = asyncio.Queue()

        async def deliver():
            loop = asyncio.get_running_loop()
            while True:
                data, arrival = await travelling.get()
                wait = arrival - time.monotonic()
                if wait > 0:
                    await asyncio.sleep(wait)
                if not data:
                    with contextlib.suppress(OSError):
                        writer.write_eof()
                    return
                writer.write(data)
                await writer.drain()
                loop.call_later(link.delay, window.acknowledge, len(data))

        async def send():
            while data := await reader.read(PIECE):
                while data:
                    room = await window.room()
                    part, data = data[:room], data[room:]
                    window.on_its_way += len(part)
                    travelling.put_nowait((part, await link.send(len(part))))
            travelling.put_nowait((b"", await link.send(0)))

        async with asyncio.TaskGroup() as ends:
            ends.create_task(deliver())
            ends.create_task(send())

    def report(self):
        return {
            "seconds": round(time.monotonic() - self.begin, 3),
            "connections": self.connections,
            "up": self.up.bytes,
            "down": self.down.bytes,
        }


def usual_priority():
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)


async def serve(options, command):
    """Runs until the command or a signal ends it; the exit status."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # Others' work on this machine is not to be felt as a slower network, where that is allowed.
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -10)
    proxy = Proxy(options.mbit, options.rtt_ms, not options.no_slow_start)
    if not command:
        print(await proxy.lead_to(options.names[0]), flush=True)
        await stop.wait()
        code = 0
    else:
        environment = dict(os.environ)
        for name in options.names:
            environment[name] = await proxy.lead_to(environment[name])
        process = await asyncio.create_subprocess_exec(*command, env=environment, preexec_fn=usual_priority)
        ended = asyncio.create_task(process.wait())
        await asyncio.wait([ended, asyncio.create_task(stop.wait())], return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            process.terminate()
        code = await ended
    line = json.dumps(proxy.report())
    if options.report:
        with open(options.report, "w") as file:
            print(line, file=file)
    else:
        print(line, file=sys.stderr)
    return code if code >= 0 else 128 - code


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--mbit", type=float, default=100)
    parser.add_argument("--rtt-ms", type=float, default=100)
    parser.add_argument("--no-slow-start", action="store_true")
    parser.add_argument("--report")
    arguments, command = sys.argv[1:], []
    if "--" in arguments:
        cut = arguments.index("--")
        arguments, command = arguments[:cut], arguments[cut + 1 :]
    options = parser.parse_args(arguments)
    for name in options.names if command else []:
        if name not in os.environ:
            parser.error(f"{name} is not set")
    if not command and len(options.names) != 1:
        parser.error("without a command it takes one URL")
    sys.exit(asyncio.run(serve(options, command)))


if __name__ == "__main__":
    main()
