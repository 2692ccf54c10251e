"""An SMTP server that keeps each message in a file: smtp_server.py PORT FOLDER"""
import asyncore
import pathlib
import smtpd
import sys


class Server(smtpd.SMTPServer):
    count = 0

    def process_message(self, peer, mailfrom, rcpttos, data, **options):
        folder = pathlib.Path(sys.argv[2])
        (folder / f"new-{self.count}").write_bytes(data)
        (folder / f"new-{self.count}").rename(folder / f"message-{self.count}")
        self.count += 1


Server(("127.0.0.1", int(sys.argv[1])), None, data_size_limit=0)
asyncore.loop()
