"""An echo server whose connections are served by programs of their own (multiprocessing, start method
spawn), to which they are passed: python3 spawning_server.py PORT"""

import multiprocessing
import socket
import sys

WORKERS = 2


def work(connections):
    while (conn := connections.recv()) is not None:
        with conn:
            try:
                while data := conn.recv(65536):
                    conn.sendall(data)
            except ConnectionError as error:
                print(type(error).__name__, file=sys.stderr)


def main():
    spawn = multiprocessing.get_context("spawn")
    workers = []
    for _ in range(WORKERS):
        theirs, mine = spawn.Pipe(duplex=False)
        spawn.Process(target=work, args=(theirs,), daemon=True).start()
        workers.append(mine)
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
    turn = 0
    while True:
        conn, _ = listener.accept()
        workers[turn % WORKERS].send(conn)  # a duplicate, which multiprocessing keeps until it is fetched
        conn.close()
        turn += 1


if __name__ == "__main__":
    main()
