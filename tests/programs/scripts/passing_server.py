"""An echo server whose parent accepts and hands each connection to a worker: passing_server.py PORT HOW

multiprocessing: pickled to a pool's process (multiprocessing.reduction, SCM_RIGHTS). message: over a
socket pair of its own with socket.send_fds. prefork: nothing is passed, the workers accept themselves.
"""
import multiprocessing
import os
import signal
import socket
import sys

WORKERS = 3


def echo(connection):
    with connection:
        try:
            while data := connection.recv(65536):
                connection.sendall(data)
        except OSError as error:
            print(type(error).__name__, file=sys.stderr)


def take_from_queue(queue):
    while True:
        echo(queue.get())


def take_from_messages(channel):
    while True:
        _, numbers, _, _ = socket.recv_fds(channel, 1, 1)
        if not numbers:
            return
        echo(socket.socket(fileno=numbers[0]))


def accept_myself(listener):
    while True:
        connection, _ = listener.accept()
        echo(connection)


def main():
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=64)
    how = sys.argv[2]
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if how == "multiprocessing":
        # Started afresh, not forked: what they know of the connection came with the message.
        context = multiprocessing.get_context("spawn")
        queue = context.Queue()
        for _ in range(WORKERS):
            context.Process(target=take_from_queue, args=(queue,), daemon=True).start()
        while True:
            queue.put(listener.accept()[0])
    if how == "message":
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for _ in range(WORKERS):
            if os.fork() == 0:
                ours.close()
                listener.close()
                take_from_messages(theirs)
                os._exit(0)
        while True:
            connection, _ = listener.accept()
            socket.send_fds(ours, [b"c"], [connection.fileno()])
            connection.close()
    for _ in range(WORKERS - 1):
        if os.fork() == 0:
            break
    accept_myself(listener)


if __name__ == "__main__":
    main()
