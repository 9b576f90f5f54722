"""A real S3 server: SeaweedFS, with credentials made up on the spot."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sdiff.s3 import PatientS3

WEED = Path(sys.executable).parent / "weed"
GRPC = 10_000
"""The server's second port of a service is its first plus this."""
HELLO_S = 60


class ObjectStore:
    """A SeaweedFS server on free ports of this machine, its data in `folder`; checks signatures."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key_id, self.secret = secrets.token_hex(10).upper(), secrets.token_urlsafe(30)
        self.guest_id, self.guest_secret = secrets.token_hex(10).upper(), secrets.token_urlsafe(30)
        (folder / "data").mkdir(parents=True)
        admin = _identity("admin", self.key_id, self.secret, ["Admin", "Read", "Write", "List", "Tagging"])
        guest = _identity("guest", self.guest_id, self.guest_secret, ["Read:open", "List:open"])
        (folder / "s3.json").write_text(json.dumps({"identities": [admin, guest]}))
        self.ports = dict(zip(("s3", "master", "volume", "filer"), free_ports(4), strict=True))
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['s3']}"

    def environment(self, guest: bool = False) -> dict[str, str]:
        """What a process needs to reach it."""
        return {
            "AWS_ACCESS_KEY_ID": self.guest_id if guest else self.key_id,
            "AWS_SECRET_ACCESS_KEY": self.guest_secret if guest else self.secret,
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> None:
        """Start, or start again on the same data, and wait until it answers."""
        ports = [f"-{name}.port={port}" for name, port in self.ports.items()]
        options = [
            *(f"-dir={self.folder / 'data'}", f"-s3.config={self.folder / 's3.json'}"),
            *("-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.max=200", "-master.volumeSizeLimitMB=64"),
        ]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                [WEED, "server", "-s3", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *options, *ports],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + HELLO_S
        while not self._takes_an_object():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"weed does not answer: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.2)

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def make_bucket(self, name: str) -> str:
        """URI of a new bucket."""
        self._fs().mkdir(name)
        return f"s3://{name}"

    def contents(self, uri: str) -> dict[str, bytes]:
        """Every object under `uri`, hidden ones too."""
        fs, path = self._fs(), uri.removeprefix("s3://")
        return {name.removeprefix(path).lstrip("/"): fs.cat_file(name) for name in fs.find(path)}

    def _takes_an_object(self) -> bool:
        try:
            fs = self._fs(patience_s=0)
            if not fs.exists("hello"):
                fs.mkdir("hello")
            fs.pipe_file("hello/hello", b"hello")
        except (TimeoutError, OSError):
            return False
        return True

    def _fs(self, **options: float) -> PatientS3:
        return PatientS3(
            key=self.key_id, secret=self.secret, endpoint_url=self.url, skip_instance_cache=True, **options
        )


@contextmanager
def running(folder: Path) -> Iterator[ObjectStore]:
    """A server, killed at the end."""
    store = ObjectStore(folder)
    store.start()
    try:
        yield store
    finally:
        store.kill()


def free_ports(n: int) -> list[int]:
    """Ports nobody listens on, and whose GRPC neighbours are free as well."""
    found: list[int] = []
    while len(found) < n:
        port = secrets.randbelow(25_000) + 20_000
        if port not in found and all(map(_free, (port, port + GRPC))):
            found.append(port)
    return found


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _identity(name: str, key_id: str, secret: str, actions: list[str]) -> dict[str, object]:
    return {"name": name, "credentials": [{"accessKey": key_id, "secretKey": secret}], "actions": actions}
