#!/usr/bin/env python3
"""A wire with a round trip: delay.py PORT MS: passes connections on to a loopback port, each byte MS/2 late each way. A connection
begins as one of TCP does: a handshake of MS, then ten segments a round trip, twice as many in each that follows, up to 3 MiB.
Prints the port it listens on."""
import asyncio
import collections
import sys

PORT, MS = int(sys.argv[1]), float(sys.argv[2])
SEGMENT, MOST = 1448, 3 << 20


class Way:
    """One direction of a connection."""

    def __init__(self, reader, writer, extra):
        self.reader, self.writer, self.extra = reader, writer, extra
        self.window = 10 * SEGMENT
        self.flying = collections.deque()  # when each piece is acknowledged, and its size
        self.in_flight = 0
        self.queue = asyncio.Queue(maxsize=64)

    async def room(self):
        """How much may be sent now; waits until that is something."""
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            while self.flying and self.flying[0][0] <= now:
                size = self.flying.popleft()[1]
                self.in_flight -= size
                self.window = min(MOST, self.window + size)
            if self.in_flight < self.window:
                return self.window - self.in_flight
            await asyncio.sleep(max(0, self.flying[0][0] - now))

    async def receive(self):
        loop = asyncio.get_running_loop()
        extra = self.extra
        try:
            while True:
                room = await self.room()
                data = await self.reader.read(min(room, 1 << 18))
                now = loop.time() + extra
                extra = 0
                self.in_flight += len(data)
                self.flying.append((now + MS / 1000, len(data)))
                await self.queue.put((now + MS / 2000, data))
                if not data:
                    return
        except OSError:
            await self.queue.put((0, b""))

    async def send(self):
        loop = asyncio.get_running_loop()
        while True:
            when, data = await self.queue.get()
            if when > loop.time():
                await asyncio.sleep(when - loop.time())
            if not data:
                if self.writer.can_write_eof():
                    self.writer.write_eof()
                return
            self.writer.write(data)
            await self.writer.drain()


async def connection(reader, writer):
    far_writer = None
    try:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", PORT, limit=1 << 22)
        ways = Way(reader, far_writer, MS / 1000), Way(far_reader, writer, 0)
        await asyncio.gather(*[part for way in ways for part in (way.receive(), way.send())])
    except OSError:
        pass
    if far_writer:
        far_writer.close()
    writer.close()


async def main():
    server = await asyncio.start_server(connection, "127.0.0.1", 0, limit=1 << 22)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
