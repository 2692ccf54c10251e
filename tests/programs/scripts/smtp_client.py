"""Sends files as messages over one connection: smtp_client.py PORT FILE..."""
import pathlib
import smtplib
import sys

with smtplib.SMTP("127.0.0.1", int(sys.argv[1]), local_hostname="localhost") as connection:
    for file in sys.argv[2:]:
        connection.sendmail("a@localhost", ["b@localhost"], pathlib.Path(file).read_bytes())
print("sent")
