"""An echo server in one thread with select() and blocking sockets: select_server.py PORT

It reads whatever select() calls readable, so a socket that is readable without data stalls everyone.
"""
import select
import socket
import sys

listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", int(sys.argv[1])))
listener.listen(16)
clients = []
while True:
    for ready in select.select([listener, *clients], [], [])[0]:
        if ready is listener:
            clients.append(listener.accept()[0])
        elif data := ready.recv(4096):
            ready.sendall(data)
        else:
            clients.remove(ready)
            ready.close()
