"""An echo server that hands each connection to another process: forking_server.py PORT fork|exec

fork: a forked child reads and writes it. exec: cat does, with the connection as its standard input
and output, as inetd would start it.
"""
import socketserver
import subprocess
import sys


class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        if sys.argv[2] == "exec":
            subprocess.run(["cat"], stdin=self.request, stdout=self.request, check=False)
            return
        while data := self.request.recv(65536):
            self.request.sendall(data)


class Server(socketserver.ForkingTCPServer):
    allow_reuse_address = True
    request_queue_size = 64

    def handle_error(self, request, client_address):
        print(type(sys.exc_info()[1]).__name__, file=sys.stderr)


Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
