"""Calls on TCP sockets and what they return, one line each, the same in every run.

socket_calls.py PORT CLOSED-PORT: the process is client and server at once. Run with and without
inlay, the output must not differ.
"""
import array
import errno
import fcntl
import os
import select
import socket
import struct
import sys
import tempfile
import termios
import threading

PORT, CLOSED_PORT = int(sys.argv[1]), int(sys.argv[2])
ADDRESS = ("127.0.0.1", PORT)
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def listener():
    return socket.create_server(ADDRESS, backlog=16)


def pair():
    """Client and server end of a connection, made by one thread."""
    with listener() as listening:
        client = socket.create_connection(ADDRESS)
        server, _ = listening.accept()
    for end in (client, server):
        end.settimeout(None)
    return client, server


def error_of(call, *args):
    try:
        return call(*args)
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))


def readable(sock):
    select.select([sock], [], [])


def read_exactly(sock, count):
    data = b""
    while len(data) < count:
        part = sock.recv(count - len(data))
        if not part:
            break
        data += part
    return data


@check
def connect_to_own_listener_before_accept():
    client, server = pair()
    same = client.getsockname() == server.getpeername() and client.getpeername() == ADDRESS
    return same, server.getsockname() == ADDRESS


@check
def nonblocking_connect():
    with listener() as listening, socket.socket() as client:
        client.setblocking(False)
        first = error_of(client.connect, ADDRESS)
        select.select([], [client], [])
        pending = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        again = error_of(client.connect, ADDRESS)
        server, _ = listening.accept()
        server.close()
    return first, pending, again


@check
def connect_refused():
    with socket.socket() as client:
        return error_of(client.connect, ("127.0.0.1", CLOSED_PORT))


@check
def nonblocking_connect_refused():
    with socket.socket() as client:
        client.setblocking(False)
        first = error_of(client.connect, ("127.0.0.1", CLOSED_PORT))
        select.select([], [client], [])
        pending = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        again = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return first, errno.errorcode[pending], again


@check
def flags_of_an_accepted_socket():
    with listener() as listening:
        listening.setblocking(False)
        nothing = error_of(listening.accept)
        client = socket.create_connection(ADDRESS)
        readable(listening)
        descriptor, _ = listening._accept()
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_NONBLOCK
        os.close(descriptor)
        client.close()
    return nothing, flags


@check
def small_writes_arrive_in_order():
    client, server = pair()
    for number in range(100):
        client.send(b"%02d" % number)
    return read_exactly(server, 200) == b"".join(b"%02d" % number for number in range(100))


@check
def peek_leaves_the_data():
    client, server = pair()
    client.send(b"peeked")
    readable(server)
    return (server.recv(3, socket.MSG_PEEK), server.recv(100, socket.MSG_PEEK), server.recv(4),
            server.recv(100, socket.MSG_PEEK), server.recv(100))


@check
def fionread_is_exact():
    client, server = pair()
    empty = array.array("i", [-1])
    fcntl.ioctl(server, termios.FIONREAD, empty)
    client.send(b"x" * 1234)
    readable(server)
    waiting = array.array("i", [0])
    fcntl.ioctl(server, termios.FIONREAD, waiting)
    server.recv(34)
    left = array.array("i", [0])
    fcntl.ioctl(server, termios.FIONREAD, left)
    return empty[0], waiting[0], left[0]


@check
def dontwait_without_data():
    client, server = pair()
    nothing = error_of(server.recv, 10, socket.MSG_DONTWAIT)
    client.send(b"x")
    readable(server)
    return nothing, server.recv(10, socket.MSG_DONTWAIT), error_of(server.recv, 10,
                                                                   socket.MSG_DONTWAIT)


@check
def waitall_waits_for_all():
    client, server = pair()
    sender = threading.Thread(target=lambda: [client.sendall(b"y" * 1000) for _ in range(300)])
    sender.start()
    got = server.recv(300000, socket.MSG_WAITALL)
    sender.join()
    return len(got), set(got)


@check
def waitall_ends_with_the_stream():
    client, server = pair()
    client.send(b"short")
    client.close()
    return server.recv(100, socket.MSG_WAITALL), server.recv(100, socket.MSG_WAITALL)


@check
def half_close_keeps_the_other_half():
    client, server = pair()
    client.sendall(b"request")
    client.shutdown(socket.SHUT_WR)
    got = read_exactly(server, 100)
    server.sendall(b"reply")
    server.close()
    return got, read_exactly(client, 100), error_of(client.send, b"more")


@check
def write_to_a_closed_peer():
    client, server = pair()
    client.send(b"x")
    server.recv(1)  # the session is up: a close before that is tests/differential's matter
    server.close()
    readable(client)  # its FIN is here
    end = client.recv(10)
    first = error_of(client.send, b"into the void")
    poll = select.poll()
    poll.register(client, 0)
    poll.poll()  # until its RST is here
    return end, first, error_of(client.send, b"again")


@check
def close_with_unread_data_resets():
    client, server = pair()
    client.send(b"never read")
    readable(server)
    server.close()
    readable(client)
    return error_of(client.recv, 10), error_of(client.recv, 10), error_of(client.send, b"x")


@check
def linger_zero_resets():
    client, server = pair()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    readable(server)
    return error_of(server.recv, 10), server.recv(10)


@check
def sendfile_sends_the_file():
    client, server = pair()
    with tempfile.TemporaryFile() as file:
        content = bytes(range(256)) * 1000
        file.write(content)
        file.flush()
        sent = 0

        def send():
            nonlocal sent
            while part := os.sendfile(client.fileno(), file.fileno(), sent, 1 << 20):
                sent += part

        sender = threading.Thread(target=send)
        sender.start()
        got = read_exactly(server, len(content))
        sender.join()
    return sent, got == content


@check
def vectors():
    client, server = pair()
    sent = [os.writev(client.fileno(), [b"one", b"", b"two"]), client.sendmsg([b"three", b"four"])]
    readable(server)
    got = read_exactly(server, 6)
    parts = [bytearray(5), bytearray(10)]
    count, control, flags, _ = server.recvmsg_into(parts)
    client.send(b"abcdef")
    buffers = [bytearray(2), bytearray(3)]
    os.readv(server.fileno(), buffers)
    return sent, got, count, parts, control, flags, buffers, server.recv(10)


@check
def plain_read_and_write():
    client, server = pair()
    return os.write(client.fileno(), b"through write"), os.read(server.fileno(), 100)


@check
def nothing_sent_nothing_received():
    client, server = pair()
    return client.send(b""), error_of(server.recv, 10, socket.MSG_DONTWAIT), server.recv(0)


@check
def receive_timeout():
    client, server = pair()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 20000))
    return error_of(server.recv, 10), client.fileno() >= 0


@check
def options_read_back():
    client, _ = pair()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 7)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return (client.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT),
            client.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0,
            client.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR),
            client.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM,
            fcntl.fcntl(client, fcntl.F_GETFL) & os.O_NONBLOCK)


@check
def level_triggered_until_drained():
    client, server = pair()
    client.send(b"0123456789")
    with select.epoll() as epoll:
        epoll.register(server, select.EPOLLIN)
        seen = []
        for _ in range(3):
            events = epoll.poll()
            seen.append((len(events), events[0][1], server.recv(4)))
        return seen, epoll.poll(0)


@check
def edge_triggered_again_with_new_data():
    client, server = pair()
    server.setblocking(False)
    seen = []
    with select.epoll() as epoll:
        epoll.register(server, select.EPOLLIN | select.EPOLLET)
        for number in range(3):
            client.send(b"x" * (number + 1))
            got = b""
            while len(got) <= number:
                epoll.poll()
                while (data := error_of(server.recv, 100)) != "EAGAIN":
                    got += data
            seen.append(got)
    return seen


@check
def edge_triggered_partial_read_then_drain():
    client, server = pair()
    server.setblocking(False)
    client.sendall(b"z" * 50000)
    total = 0
    with select.epoll() as epoll:
        epoll.register(server, select.EPOLLIN | select.EPOLLET)
        while total < 50000:
            epoll.poll()
            while (data := error_of(server.recv, 777)) != "EAGAIN":
                total += len(data)
    return total


@check
def a_full_socket_is_eagain_and_writable_again():
    client, server = pair()
    client.setblocking(False)
    sent = 0
    while (count := error_of(client.send, b"f" * 65536)) != "EAGAIN":
        sent += count
    reader = threading.Thread(target=lambda: read_exactly(server, sent))
    reader.start()
    select.select([], [client], [])
    reader.join()
    client.setblocking(True)
    client.sendall(b"after")
    return read_exactly(server, 5)


@check
def a_duplicate_keeps_the_connection():
    client, server = pair()
    other = client.dup()
    client.send(b"one ")
    client.close()
    other.send(b"two")
    got = read_exactly(server, 7)
    os.dup2(other.fileno(), 200)
    other.close()
    os.write(200, b"three")
    got += read_exactly(server, 5)
    os.close(200)
    return got, server.recv(10)


@check
def a_child_writes_to_the_connection():
    client, server = pair()
    client.send(b"parent ")
    child = os.fork()
    if child == 0:
        client.send(b"child ")
        os._exit(0)
    os.waitpid(child, 0)
    client.send(b"parent")
    client.close()
    return read_exactly(server, 100)


@check
def a_number_used_again():
    client, server = pair()
    number = client.fileno()
    client.close()
    end = server.recv(10)
    server.close()
    reader, writer = os.pipe()
    os.write(writer, b"a pipe now")
    got = os.read(reader, 20)
    for descriptor in (reader, writer):
        os.close(descriptor)
    return number in (reader, writer), end, got


@check
def file_objects():
    client, server = pair()
    with client.makefile("rw", newline="\n") as out, server.makefile("rw", newline="\n") as back:
        out.write("line one\nline two\n")
        out.flush()
        first, second = back.readline(), back.readline()
        back.write("answer\n")
        back.flush()
        return first, second, out.readline()


@check
def other_sockets_are_left_alone():
    left, right = socket.socketpair()
    left.send(b"unix")
    with socket.socket(type=socket.SOCK_DGRAM) as first, \
            socket.socket(type=socket.SOCK_DGRAM) as second:
        first.bind(("127.0.0.1", 0))
        second.sendto(b"datagram", first.getsockname())
        return right.recv(10), first.recv(100), socket.socket().getsockname()


@check
def calls_on_what_is_not_connected():
    with socket.socket() as fresh:
        return (error_of(fresh.getpeername), error_of(fresh.send, b"x"),
                error_of(fresh.recv, 1), error_of(fresh.shutdown, socket.SHUT_RDWR),
                error_of(os.read, 999, 1))


for function in CHECKS:
    try:
        print(function.__name__, function())
    except Exception as error:  # a difference to show, not an end
        print(function.__name__, "raised", repr(error))
    sys.stdout.flush()
