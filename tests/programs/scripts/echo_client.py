"""A blocking client: sends from one thread, half-closes, reads in another.

echo_client.py PORT CANARY BYTES   prints 'intact' when the same bytes came back.
"""
import hashlib
import os
import socket
import sys
import threading

port, canary, size = int(sys.argv[1]), sys.argv[2].encode(), int(sys.argv[3])
sent, got, total = hashlib.sha256(), hashlib.sha256(), 0
connection = socket.create_connection(("127.0.0.1", port))


def send():
    try:
        left = size
        while left > 0:
            block = (canary + os.urandom(min(left, 100000)))[:left]
            sent.update(block)
            connection.sendall(block)
            left -= len(block)
        connection.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the reader meets it as well


sender = threading.Thread(target=send)
sender.start()
try:
    while data := connection.recv(65536):
        if sys.argv[4:] == ["show"]:
            sys.stdout.buffer.write(data)
        got.update(data)
        total += len(data)
except OSError as error:
    print(f"{type(error).__name__} after {total} bytes", file=sys.stderr)
    sys.exit(2)
sender.join()
if total != size or got.digest() != sent.digest():
    print(f"{total} of {size} bytes came back, or others", file=sys.stderr)
    sys.exit(1)
print("intact")
