"""Talks, moves into a user namespace of its own, talks on: unshare.py PORT

The kernel lets only a process with one thread do that.
"""
import ctypes
import os
import socket
import sys

CLONE_NEWUSER = 0x10000000
libc = ctypes.CDLL(None, use_errno=True)
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))


def echoed(data):
    connection.sendall(data)
    got = b""
    while len(got) < len(data):
        got += connection.recv(4096)
    return got == data


before = echoed(b"before")
moved = libc.unshare(CLONE_NEWUSER)
print(before, os.strerror(ctypes.get_errno()) if moved else "moved", echoed(b"after"))
