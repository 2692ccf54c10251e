"""Writes until it may not any more, and never reads: writer.py PORT"""
import socket
import sys

with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as connection:
    try:
        while True:
            connection.sendall(b"nobody answers\n")
    except OSError as error:
        print(type(error).__name__)
