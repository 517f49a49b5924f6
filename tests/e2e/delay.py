#!/usr/bin/env python3
"""A wire with a round trip: delay.py PORT MS: passes connections on to a loopback port, each byte MS/2 late each way, the first
one MS more, as a handshake would cost. Prints the port it listens on."""
import asyncio
import sys

PORT, MS = int(sys.argv[1]), float(sys.argv[2])


async def pump(reader, writer, extra):
    loop = asyncio.get_running_loop()
    queue = asyncio.Queue(maxsize=4096)

    async def send():
        while True:
            when, data = await queue.get()
            await asyncio.sleep(max(0, when - loop.time()))
            if not data:
                if writer.can_write_eof():
                    writer.write_eof()
                return
            writer.write(data)
            await writer.drain()

    sender = asyncio.create_task(send())
    try:
        while True:
            data = await reader.read(1 << 18)
            await queue.put((loop.time() + MS / 2000 + extra, data))
            extra = 0
            if not data:
                break
        await sender
    except OSError:
        sender.cancel()


async def connection(reader, writer):
    try:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", PORT, limit=1 << 22)
        await asyncio.gather(pump(reader, far_writer, MS / 1000), pump(far_reader, writer, 0))
        far_writer.close()
    except OSError:
        pass
    writer.close()


async def main():
    server = await asyncio.start_server(connection, "127.0.0.1", 0, limit=1 << 22)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
