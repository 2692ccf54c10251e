"""A blocking client: http_get.py PORT PATH... prints the SHA-256 of each body, or the bodies
themselves after 'show'."""
import hashlib
import http.client
import sys

show = sys.argv[2] == "show"
for path in sys.argv[3:] if show else sys.argv[2:]:
    connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    assert response.status == 200, response.status
    print(body.decode() if show else hashlib.sha256(body).hexdigest())
    connection.close()
