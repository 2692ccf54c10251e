#!/usr/bin/env python3
"""A tap for tools/quickstart: relays one TCP connection on loopback and writes down what crossed.

    quickstart_tap.py PORT TARGET-PORT FILE   relay one connection; FILE.client and FILE.server get
                                              what each side sent
    quickstart_tap.py --show FILE WORD...     print excerpts; exit 1 if they are not TLS or hold WORD
"""

import socket
import sys
import threading

# TLSPlaintext.type (RFC 8446 §5.1). In TLS 1.3 everything encrypted calls itself application data.
RECORD_TYPES = {20: "change cipher spec", 21: "alert", 22: "handshake", 23: "encrypted"}


def copy(source, target, path):
    with open(path, "wb") as record:
        while data := source.recv(65536):
            record.write(data)
            target.sendall(data)
    try:
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the other side has gone already


def relay(port, target_port, path):
    listener = socket.create_server(("127.0.0.1", port))
    listener.settimeout(20)
    print("listening", flush=True)
    client, _ = listener.accept()
    client.settimeout(20)
    server = socket.create_connection(("127.0.0.1", target_port), timeout=20)
    back = threading.Thread(target=copy, args=(server, client, path + ".server"))
    back.start()
    copy(client, server, path + ".client")
    back.join()


def records(data):
    """(type, length) of each TLS record; None at the first thing that is none."""
    at = 0
    while at < len(data):
        head = data[at : at + 5]
        length = int.from_bytes(head[3:5], "big")
        if len(head) < 5 or head[0] not in RECORD_TYPES or head[1] != 3 or length > 16384 + 256:
            yield None
            return
        yield RECORD_TYPES[head[0]], length
        at += 5 + length


def excerpt(data, size=48):
    for at in range(0, min(size, len(data)), 16):
        row = data[at : at + 16]
        text = "".join(chr(b) if 32 <= b < 127 else "." for b in row)
        print(f"  {at:04x}  {row.hex(' '):<47}  {text}")


def show(path, words):
    good = True
    for side in ("client", "server"):
        with open(f"{path}.{side}", "rb") as file:
            data = file.read()
        found = list(records(data))
        print(f"from the {side}, {len(data)} bytes, of which the last {min(48, len(data))}:")
        excerpt(data[-48:])
        print("  records: " + ", ".join(f"{r[0]} {r[1]}" if r else "NOT TLS" for r in found))
        good = good and bool(found) and None not in found
        for word in words:
            if word.encode() in data:
                print(f"  IN THE CLEAR: {word}")
                good = False
    if good:
        print("every byte is in a TLS record; not in the clear: " + ", ".join(map(repr, words)))
    return 0 if good else 1


def main():
    if sys.argv[1:2] == ["--show"] and len(sys.argv) > 2:
        return show(sys.argv[2], sys.argv[3:])
    if len(sys.argv) != 4:
        print(__doc__, file=sys.stderr)
        return 2
    relay(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
    return 0


sys.exit(main())
