"""An asyncio client, all requests at once: http_get_asyncio.py PORT PATH... prints the SHA-256 of
each body, or the bodies themselves after 'show'."""
import asyncio
import hashlib
import sys

show = sys.argv[2] == "show"


async def get(path):
    reader, writer = await asyncio.open_connection("127.0.0.1", int(sys.argv[1]))
    writer.write(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    body = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert head.split()[1] == b"200", head
    return body.decode() if show else hashlib.sha256(body).hexdigest()


async def main():
    for body in await asyncio.gather(*map(get, sys.argv[3:] if show else sys.argv[2:])):
        print(body)


asyncio.run(main())
