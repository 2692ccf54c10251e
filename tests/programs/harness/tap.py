"""The recording tap: a TCP relay between client and server that changes no byte and watches all.

It passes on half-closes and resets, looks for the canary in both directions, and checks that each
direction is a sequence of TLS records. Only the head of each stream is kept, so that a gigabyte
costs no memory. One thread, one epoll set.
"""

import errno
import os
import select
import socket
import struct
import threading

CHUNK = 256 * 1024
KEPT = 64 * 1024  # bytes of each stream kept for the report
MAX_RECORD = 16384 + 256  # RFC 8446 §5.2: TLSCiphertext.length
RECORD_TYPES = {20: "change_cipher_spec", 21: "alert", 22: "handshake", 23: "application_data"}
ALERT, HANDSHAKE, APPLICATION_DATA = 21, 22, 23


class RecordParser:
    """Follows the record headers of one direction (RFC 8446 §5.1)."""

    def __init__(self):
        self.counts = {}
        self.error = None
        self._header = bytearray()
        self._left = 0  # bytes of the current record still to come

    @property
    def inside_record(self):
        return self._left > 0 or len(self._header) > 0

    def feed(self, data):
        position = 0
        while position < len(data) and self.error is None:
            if self._left:
                step = min(self._left, len(data) - position)
                self._left -= step
                position += step
                continue
            step = min(5 - len(self._header), len(data) - position)
            self._header += data[position:position + step]
            position += step
            if len(self._header) == 5:
                kind, version, length = struct.unpack("!BHH", self._header)
                if kind not in RECORD_TYPES or version not in (0x0301, 0x0303) or \
                        not 0 < length <= MAX_RECORD:
                    self.error = f"not a TLS record header: {self._header.hex()}"
                self.counts[kind] = self.counts.get(kind, 0) + 1
                self._left = length
                self._header.clear()


class Stream:
    """One direction of one connection."""

    def __init__(self, label, canary):
        self.label = label
        self.total = 0
        self.head = bytearray()
        self.records = RecordParser()
        self.canary_at = None  # offset of the canary, if it was seen
        self.ended = None  # "fin" or "rst"
        self._canary = canary
        self._seam = b""  # the end of the last chunk: the canary may lie across two

    def feed(self, data):
        if self.canary_at is None:
            found = (self._seam + data[:len(self._canary)]).find(self._canary)
            if found >= 0:
                self.canary_at = self.total - len(self._seam) + found
            else:
                found = data.find(self._canary)
                if found >= 0:
                    self.canary_at = self.total + found
            self._seam = (self._seam + data[-len(self._canary):])[-len(self._canary) + 1:]
        if len(self.head) < KEPT:
            self.head += data[:KEPT - len(self.head)]
        self.records.feed(data)
        self.total += len(data)

    def report(self):
        kinds = ", ".join(f"{count} {RECORD_TYPES.get(kind, kind)}"
                          for kind, count in self.records.counts.items())
        lines = [f"    {self.label}: {self.total} bytes, ended by {self.ended}; records: "
                 f"{self.records.error or kinds or 'none'}"]
        shown = bytes(self.head[:256])
        if self.canary_at is not None:
            lines.append(f"      the canary is at offset {self.canary_at}")
        for at in range(0, len(shown), 16):
            row = shown[at:at + 16]
            text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
            lines.append(f"      {at:04x}  {row.hex(' '):<47}  {text}")
        return "\n".join(lines)


class Connection:
    def __init__(self, client, server, number, canary):
        self.sockets = (client, server)
        self.streams = (Stream(f"connection {number}, client to server", canary),
                        Stream(f"connection {number}, server to client", canary))
        self.pending = [b"", b""]  # read from side i, not yet written to the other
        self.eof = [False, False]
        self.connected = False


class Tap:
    def __init__(self, target_port, canary, host="127.0.0.1"):
        self.connections = []
        self._target = (host, target_port)
        self._canary = canary
        self._listener = socket.create_server((host, 0), backlog=1024)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._wake_read, self._wake_write = os.pipe()
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)
        self._epoll.register(self._wake_read, select.EPOLLIN)
        self._by_fd = {}  # fd -> (connection, side)
        self._dropped = []  # sockets to close after this round of events, with reset or without
        self.failure = None
        self._thread = threading.Thread(target=self._run, name="tap", daemon=True)
        self._thread.start()

    def stop(self):
        os.write(self._wake_write, b"x")
        self._thread.join()
        for connection, _ in list(self._by_fd.values()):
            self._drop(connection, reset=True)
        self._close_dropped()
        for closable in (self._listener, self._epoll):
            closable.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    @property
    def streams(self):
        return [stream for connection in list(self.connections) for stream in connection.streams]

    def report(self):
        lines = [f"  tap on port {self.port} to {self._target[1]}: "
                 f"{len(self.connections)} connections"]
        shown = self.connections[:4]
        shown += [c for c in self.connections[4:]
                  if any(s.canary_at is not None or s.records.error or s.ended == "rst"
                         for s in c.streams)][:4]
        lines += [stream.report() for c in shown for stream in c.streams]
        return "\n".join(lines)

    # --- the relay, on its own thread ---

    def _run(self):
        try:
            while True:
                for fd, events in self._epoll.poll():
                    if fd == self._wake_read:
                        return
                    if fd == self._listener.fileno():
                        self._accept()
                    elif fd in self._by_fd:
                        self._serve(*self._by_fd[fd], events)
                self._close_dropped()
        except Exception as error:  # shown by the case that owns the tap
            self.failure = error
            raise

    def _accept(self):
        try:
            client, _ = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.ECONNABORTED):
                return
            raise
        server = socket.socket()
        for sock in (client, server):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(client, server, len(self.connections), self._canary)
        self.connections.append(connection)
        for side, sock in enumerate(connection.sockets):
            self._by_fd[sock.fileno()] = (connection, side)
        status = server.connect_ex(self._target)
        self._epoll.register(client, 0)
        self._epoll.register(server, select.EPOLLOUT)
        if status not in (0, errno.EINPROGRESS):
            self._drop(connection, reset=True)

    def _serve(self, connection, side, events):
        sock = connection.sockets[side]
        if not connection.connected and side == 1:
            if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                return self._drop(connection, reset=True)
            connection.connected = True
        if events & select.EPOLLERR and not events & select.EPOLLIN:
            connection.streams[side].ended = "rst"
            return self._drop(connection, reset=True)
        if events & select.EPOLLOUT and not self._flush(connection, 1 - side):
            return None
        if events & select.EPOLLIN and not self._read(connection, side):
            return None
        if all(connection.eof) and not any(connection.pending):
            return self._drop(connection, reset=False)
        return self._update(connection)

    def _read(self, connection, side):
        if connection.eof[side] or connection.pending[side]:
            return True
        try:
            data = connection.sockets[side].recv(CHUNK)
        except BlockingIOError:
            return True
        except OSError:
            connection.streams[side].ended = "rst"
            self._drop(connection, reset=True)
            return False
        if data:
            connection.streams[side].feed(data)
            connection.pending[side] = data
        else:
            connection.streams[side].ended = "fin"
            connection.eof[side] = True
        return self._flush(connection, side)

    def _flush(self, connection, side):
        """Writes what came from `side` to the other side; False when the connection is gone."""
        other = connection.sockets[1 - side]
        try:
            if connection.pending[side]:
                sent = other.send(connection.pending[side])
                connection.pending[side] = connection.pending[side][sent:]
            if connection.eof[side] and not connection.pending[side]:
                other.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno == errno.ENOTCONN and connection.eof[side]:
                return True  # shut down already, and the other side has closed
            connection.streams[1 - side].ended = "rst"
            self._drop(connection, reset=True)
            return False
        return True

    def _update(self, connection):
        for side, sock in enumerate(connection.sockets):
            wanted = 0
            if connection.connected:
                if not connection.eof[side] and not connection.pending[side]:
                    wanted |= select.EPOLLIN
                if connection.pending[1 - side]:
                    wanted |= select.EPOLLOUT
            elif side == 1:
                wanted = select.EPOLLOUT
            self._epoll.modify(sock, wanted)

    def _drop(self, connection, reset):
        for sock in connection.sockets:
            if self._by_fd.pop(sock.fileno(), None) is None:
                continue
            self._dropped.append((sock, reset))

    def _close_dropped(self):
        # Not before: a number that is free would go to the next connection, and with it the events
        # of this round that were the old one's.
        for sock, reset in self._dropped:
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
        self._dropped.clear()
