"""Goes through a table of RFC 6455 frames with an echoing app: python client.py PORT KEY. Fails at the first that differs."""

import socket
import sys

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

PORT, KEY = int(sys.argv[1]), sys.argv[2]
SIZES = [0, 1, 125, 126, 127, 65535, 65536, 1 << 20]


def opened():
    return connect(
        "ws://web.rigbox.localhost:7080/ws",
        sock=socket.create_connection(("127.0.0.1", PORT)),
        additional_headers={"X-Rigbox-Key": KEY},
        max_size=None,
    )


with opened() as client:
    for size in SIZES:
        for message in ["\u00e4" * size, bytes(size)]:
            client.send(message)
            assert client.recv(timeout=10) == message, size
    # A message in fragments, some of them empty, with a ping between them.
    client.send(part for part in ["one", "", "two", "x" * 70000])
    assert client.recv(timeout=10) == "onetwo" + "x" * 70000
    client.send(part for part in [b"\0", b"", b"\xff" * 200])
    assert client.recv(timeout=10) == b"\0" + b"\xff" * 200
    for payload in [b"", b"p" * 125]:
        assert client.ping(payload).wait(10), "pong"
    for number in range(1000):
        client.send(str(number))
    for number in range(1000):
        assert client.recv(timeout=10) == str(number)

for code, reason in [(1000, ""), (1001, "going"), (3000, "\u00e4" * 61), (4999, "x" * 123)]:
    with opened() as client:
        client.close(code, reason)
        try:
            client.recv(timeout=10)
            raise AssertionError("a message after the close")
        except ConnectionClosed as closed:
            assert closed.rcvd is not None and closed.rcvd.code == code, closed
print("ok")
