"""A proxy before an S3 server that, for a while, answers errors, dawdles and hangs up in the middle. Seeded."""

import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

FAULTS = ("500", "503", "slow", "half a request", "half an answer", "refused")
BUFFER = 1 << 16

ERROR = """HTTP/1.1 {status}\r
Content-Type: application/xml\r
Content-Length: {length}\r
Connection: close\r
\r
{body}"""
REASONS = {"500": ("500 Internal Server Error", "InternalError"), "503": ("503 Slow Down", "SlowDown")}


class FlakyProxy:
    """Forwards connections to `port`, one request each; `share` of them meet a fault until `good_after_s`.

    slow_s: how long a slow answer takes [s]. met: how often each fault was met.
    """

    def __init__(
        self, port: int, seed: int, share: float, good_after_s: float, slow_s: float, faults: tuple[str, ...]
    ) -> None:
        self.port, self.share, self.slow_s, self.faults = port, share, slow_s, faults
        self.random = random.Random(seed)
        self.good_at = time.monotonic() + good_after_s
        self.met: Counter[str] = Counter()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            fault = ""
            if time.monotonic() < self.good_at and self.random.random() < self.share:
                fault = self.random.choice(self.faults)
                self.met[fault] += 1
            threading.Thread(target=self._serve, args=(client, fault), daemon=True).start()

    def _serve(self, client: socket.socket, fault: str) -> None:
        with client:
            try:
                if fault != "refused":
                    self._forward(client, fault)
            except OSError:
                pass  # somebody hung up

    def _forward(self, client: socket.socket, fault: str) -> None:
        request = _message(client)
        if fault in REASONS:
            status, code = REASONS[fault]
            body = f"<Error><Code>{code}</Code><Message>made up</Message></Error>"
            client.sendall(ERROR.format(status=status, length=len(body), body=body).encode())
            return
        with socket.create_connection(("127.0.0.1", self.port)) as server:
            if fault == "half a request":
                server.sendall(request[: len(request) // 2])
                return
            # One request a connection, so that each meets its own fate.
            server.sendall(request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            answer = b"".join(iter(lambda: server.recv(BUFFER), b""))
        if fault == "slow":
            time.sleep(self.slow_s)
        client.sendall(answer[: len(answer) // 2] if fault == "half an answer" else answer)


def _message(source: socket.socket) -> bytes:
    """One HTTP request, read whole."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _some(source)
    head, _, body = data.partition(b"\r\n\r\n")
    fields = {k.strip().lower(): v.strip() for k, _, v in (line.partition(b":") for line in head.split(b"\r\n")[1:])}
    if fields.get(b"expect", b"").lower() == b"100-continue":
        source.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    if b"content-length" in fields:
        while len(body) < int(fields[b"content-length"]):
            body += _some(source)
    elif fields.get(b"transfer-encoding") == b"chunked":
        while not body.endswith(b"0\r\n\r\n") and b"\r\n0\r\nx-amz-checksum" not in body:
            body += _some(source)
    return head + b"\r\n\r\n" + body


def _some(source: socket.socket) -> bytes:
    data = source.recv(BUFFER)
    if not data:
        raise OSError("hung up")
    return data


@contextmanager
def flaky(
    port: int, seed: int, share: float, good_after_s: float, slow_s: float = 0.5, faults: tuple[str, ...] = FAULTS
) -> Iterator[FlakyProxy]:
    """A proxy that listens until the end of the block."""
    proxy = FlakyProxy(port, seed, share, good_after_s, slow_s, faults)
    try:
        yield proxy
    finally:
        proxy.listener.close()
