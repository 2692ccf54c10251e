"""An FTP client, for vsftpd.

ftp_client.py talk PORT
    logs in and prints what the server says of its files, on the control connection
ftp_client.py passive|active PORT PASSIVE LISTEN ACTIVE FILE
    downloads FILE and uploads it again, named for the way. The data connections go where the case wants
    them: to PASSIVE whatever the server says; the server is told to connect to ACTIVE while this end
    listens on LISTEN
"""

import ftplib
import io
import socket
import sys


class Client(ftplib.FTP):
    passive = listen = active = 0

    def makepasv(self):
        host, _ = super().makepasv()
        return host, self.passive

    def makeport(self):
        listener = socket.create_server(("127.0.0.1", self.listen))
        self.sendport("127.0.0.1", self.active)
        return listener


def main(what, port, *words):
    client = Client()
    client.connect("127.0.0.1", int(port), timeout=60)
    client.login()
    if what == "talk":
        print(client.sendcmd("STAT /"))
    else:
        Client.passive, Client.listen, Client.active = map(int, words[:3])
        client.set_pasv(what == "passive")
        content = io.BytesIO()
        client.retrbinary(f"RETR {words[3]}", content.write)
        content.seek(0)
        client.storbinary(f"STOR /upload/{what}", content)
        names = client.nlst("/upload")
        assert names == [f"/upload/{what}"], names
    client.quit()


main(*sys.argv[1:])
