"""Several asyncio connections at once: echo_client_asyncio.py PORT CANARY BYTES [show]"""
import asyncio
import hashlib
import os
import sys

port, canary, size = int(sys.argv[1]), sys.argv[2].encode(), int(sys.argv[3])
show = sys.argv[4:] == ["show"]
CONNECTIONS = 1 if show else 8


async def send(writer, digest):
    left = size
    while left > 0:
        block = (canary + os.urandom(min(left, 100000)))[:left]
        digest.update(block)
        writer.write(block)
        await writer.drain()
        left -= len(block)
    writer.write_eof()


async def talk():
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sent, got, total = hashlib.sha256(), hashlib.sha256(), 0
    sending = asyncio.create_task(send(writer, sent))
    while data := await reader.read(65536):
        if show:
            sys.stdout.buffer.write(data)
        got.update(data)
        total += len(data)
    await sending
    writer.close()
    await writer.wait_closed()
    if total != size or got.digest() != sent.digest():
        raise SystemExit(f"{total} of {size} bytes came back, or others")


async def main():
    await asyncio.gather(*(talk() for _ in range(CONNECTIONS)))
    print("intact")


try:
    asyncio.run(main())
except OSError as error:
    print(type(error).__name__, file=sys.stderr)
    sys.exit(2)
