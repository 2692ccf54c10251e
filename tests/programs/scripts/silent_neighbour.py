"""Connects twenty times and says nothing, then talks on a further connection, then on the first:
silent_neighbour.py PORT
"""
import socket
import sys


def echoed(connection, data):
    connection.sendall(data)
    got = b""
    while len(got) < len(data):
        got += connection.recv(4096)
    return got == data


silent = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(20)]
talker = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
print(echoed(talker, b"first"), echoed(silent[0], b"second"))
