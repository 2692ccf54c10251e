"""The recording tap itself: what the other cases believe must be so."""

import socket
import ssl
import struct
import threading

from harness.process import until
from harness.registry import case
from harness.tap import RecordParser, Stream


def through(ctx):
    """A connection through a tap: client, server and the recording."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        tap = ctx.tap(listening.getsockname()[1])
        client = socket.create_connection(("127.0.0.1", tap.port), timeout=60)
        server, _ = listening.accept()
    server.settimeout(60)
    return client, server, tap.connections[0]


def control(name):
    return case(f"tap/{name}", plain=True, always_plain=True)


def read_all(sock):
    parts = []
    while part := sock.recv(65536):
        parts.append(part)
    return b"".join(parts)


@control("finds-a-canary-across-chunks")
def canary_across_chunks(_):
    canary = b"CANARY-0123456789"
    for size in (1, 2, 5, 16, 17, 18, 1000):
        for before in (0, 1, 50):
            data = b"x" * before + canary + b"y" * 50
            stream = Stream("test", canary)
            for at in range(0, len(data), size):
                stream.feed(data[at:at + size])
            assert stream.canary_at == before, (size, before, stream.canary_at)
    stream = Stream("test", canary)
    for byte in canary[:-1] + b"?" + canary[1:]:
        stream.feed(bytes([byte]))
    assert stream.canary_at is None


@control("knows-tls-records")
def knows_records(_):
    record = bytes.fromhex("1603010005") + b"hello" + bytes.fromhex("1703030002") + b"ab"
    table = [
        (record, None, False),
        (record[:-1], None, True),
        (record[:3], None, True),
        (b"GET / HTTP/1.1\r\n", "not a TLS record", False),
        (record + b"*1\r\n$4\r\n", "not a TLS record", False),
        (bytes.fromhex("1703034101"), "not a TLS record", False),  # 16640 + 1 bytes
        (bytes.fromhex("1703034100"), None, True),
        (bytes.fromhex("1703030000"), "not a TLS record", False),
        (bytes.fromhex("1703000001aa"), "not a TLS record", False),
    ]
    for data, error, inside in table:
        for size in (1, 3, 100):
            parser = RecordParser()
            for at in range(0, len(data), size):
                parser.feed(data[at:at + size])
            if error:
                assert parser.error and parser.error.startswith(error), data
            else:
                assert parser.error is None and parser.inside_record == inside, data


@control("passes-on-what-it-reads")
def passes_on(ctx):
    client, server, recording = through(ctx)
    data = bytes(range(256)) * 100000
    sender = threading.Thread(target=lambda: (client.sendall(data), client.shutdown(1)))
    sender.start()
    assert read_all(server) == data
    sender.join()
    server.sendall(b"the other half is still open")
    server.close()
    assert read_all(client) == b"the other half is still open"
    assert recording.streams[0].total == len(data)
    until(lambda: [stream.ended for stream in recording.streams] == ["fin", "fin"], "both ends")


@control("passes-on-resets")
def passes_on_resets(ctx):
    for first in (0, 1):
        ends = through(ctx)
        ends[first].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        ends[first].close()
        try:
            ends[1 - first].recv(10)
        except ConnectionResetError:
            continue
        raise AssertionError("the reset did not arrive")


@control("resets-when-nobody-listens")
def nobody_listens(ctx):
    tap = ctx.tap(ctx.port())
    try:
        # The reset may be here before connect() has looked.
        with socket.create_connection(("127.0.0.1", tap.port), timeout=60) as client:
            client.recv(10)
    except ConnectionResetError:
        return
    raise AssertionError("the refusal did not arrive")


@control("takes-real-tls-for-tls")
def real_tls(ctx):
    """TLS 1.3 by Python's libssl: all records, no canary; its certificate is openssl's."""
    ctx.checked(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                 "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=localhost", "-keyout",
                 ctx.folder / "key.pem", "-out", ctx.folder / "cert.pem"])
    client, server, recording = through(ctx)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(ctx.folder / "cert.pem", ctx.folder / "key.pem")
    asking = ssl.create_default_context(cafile=ctx.folder / "cert.pem")

    def serve():
        with serving.wrap_socket(server, server_side=True) as connection:
            while data := connection.recv(65536):
                connection.sendall(data)

    thread = threading.Thread(target=serve)
    thread.start()
    with asking.wrap_socket(client, server_hostname="localhost") as connection:
        for _ in range(100):
            connection.sendall(ctx.canary * 100)
            left = len(ctx.canary) * 100
            while left:
                left -= len(connection.recv(left))
    thread.join()
    for stream in recording.streams:
        assert stream.total > 100 * 100 * len(ctx.canary)
        assert stream.canary_at is None and stream.records.error is None
