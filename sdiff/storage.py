"""Bytes in and out of any fsspec URI. Knows files, not driving."""

import errno
import hashlib
import io
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import fsspec

for protocol in ("s3", "s3a"):
    fsspec.register_implementation(protocol, "sdiff.s3.PatientS3", clobber=True)

_SECRET = re.compile(r"(?<=//)(?:(?<=s3://)|(?<=s3a://)|(?![^/@:\s]*:\d{1,5}/))[^/@:\s]*:(?!:)[^\s'\"]*@")
"""A name and a secret before the host. Secrets hold slashes, AWS's every second one; a port elsewhere is no secret."""


class StorageError(OSError):
    """A place cannot be read or written: says which one and what to do."""


@contextmanager
def _explained(uri: str, what: str) -> Iterator[None]:
    try:
        yield
    except StorageError:
        raise
    except Exception as error:  # every object store's client has errors of its own, and no base in common
        raise StorageError(f"cannot {what} {uri}: {error or type(error).__name__}; {_remedy(error, what)}") from error


def _remedy(error: Exception, what: str) -> str:
    match error:
        case PermissionError():
            return f"check your credentials for it, and that they may {what} there"
        case FileNotFoundError() if what == "write":
            return "make the bucket or the drive first"
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return "make room there and run the same command again; what is done is kept"
        case ConnectionError():
            return "what is done is kept"
    return f"check that it exists and that you may {what} there"


def without_secrets(text: str) -> str:
    """The text with `...` for the credentials of every URI in it."""
    return _SECRET.sub("...@", text)


def refuse_secrets(text: str) -> None:
    """Raises StorageError for a URI, or a text with one, that holds credentials."""
    if (shown := without_secrets(text)) != text:
        raise StorageError(
            f"{shown} holds credentials; a URI goes into logs and messages: take them out, and give "
            "them by environment or configuration, as docs/object-storage.md says"
        )


def filesystem(uri: str) -> tuple[Any, str]:
    """The fsspec filesystem of `uri` and the path within it. Raises StorageError for a URI that holds a secret."""
    refuse_secrets(uri)
    fs, path = fsspec.core.url_to_fs(uri)
    return fs, path.rstrip("/") or "/"


def snapshot(uri: str, folders: Iterable[str]) -> Any:
    """A filesystem that lists `folders` of `uri` once: who asks for each object's size again asks what is known."""
    with _explained(uri, "read"):
        filesystem(uri)
        fs, path = fsspec.core.url_to_fs(uri, use_listings_cache=True, skip_instance_cache=True)
        if not is_local(fs):
            for folder in folders:
                fs.find(join(path, folder))
        return fs


def is_local(fs: Any) -> bool:
    """Whether a filesystem is this machine's own."""
    return "file" in (fs.protocol if isinstance(fs.protocol, tuple | list) else (fs.protocol,))


def absolute(uri: str) -> str:
    """`uri` as a process in another folder reads it: processes of Ray do not work where the command was called."""
    fs, path = filesystem(uri)
    return os.path.abspath(path) if is_local(fs) else str(fs.unstrip_protocol(path))


def join(uri: str, *parts: str) -> str:
    """`uri` extended by `parts`."""
    return "/".join([uri.rstrip("/"), *parts])


def file_name(name: str) -> str:
    """The name without what would lead to another folder, or stand for something else there."""
    return re.sub(r"[^\w.+-]+", "_", name)


def table_uri(uri: str, table: str) -> str:
    """The folder of `table`, given that folder or its parent."""
    uri = uri.rstrip("/")
    return uri if uri.rsplit("/", 1)[-1] == table else join(uri, table)


def objects(uri: str, suffix: str = ".parquet") -> list[str]:
    """URIs of all objects under `uri` that end in `suffix`, sorted. One object yields itself; nothing there: []."""
    with _explained(uri, "read"):
        fs, path = filesystem(uri)
        if fs.exists(path) and not fs.isdir(path):
            return [uri]
        found = sorted(
            p for p in fs.find(path) if p.endswith(suffix) and not p.rsplit("/", 1)[-1].startswith((".", "_"))
        )
        return [fs.unstrip_protocol(p) for p in found]


def sizes(uri: str) -> dict[str, int]:
    """Name and bytes of every object under `uri`, names relative to it; asks for a listing alone."""
    with _explained(uri, "read"):
        fs, path = filesystem(uri)
        return {name.removeprefix(f"{path}/"): int(at["size"]) for name, at in fs.find(path, detail=True).items()}


def exists(uri: str) -> bool:
    """Whether an object is there."""
    with _explained(uri, "read"):
        fs, path = filesystem(uri)
        return bool(fs.exists(path))


def size(uri: str) -> int:
    """Bytes of the object."""
    with _explained(uri, "read"):
        fs, path = filesystem(uri)
        return int(fs.size(path))


def total_size(uri: str, suffix: str = ".parquet") -> int:
    """Bytes of all objects under `uri` that end in `suffix`, from one listing."""
    with _explained(uri, "read"):
        fs, path = filesystem(uri)
        return sum(int(about["size"]) for name, about in fs.find(path, detail=True).items() if name.endswith(suffix))


def read_bytes(uri: str, begin: int = 0, end: int | None = None) -> bytes:
    """The whole object, or its bytes from `begin` to before `end`."""
    with _explained(uri, "read"):
        fs, path = filesystem(uri)
        return bytes(fs.cat_file(path, start=begin or None, end=end))  # by name: s3fs has them at other places


class RangedFile(io.RawIOBase):
    """An object as a file, of which only what is asked for is read. Raises StorageError."""

    def __init__(self, uri: str) -> None:
        self.uri, self.bytes, self.at = uri, size(uri), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.bytes}[whence]
        return self.at

    def readinto(self, buffer: Any) -> int:
        n = max(0, min(len(buffer), self.bytes - self.at))
        if n:
            buffer[:n] = read_bytes(self.uri, self.at, self.at + n)
        self.at += n
        return n


def digest(uri: str, hash: Callable[[], Any]) -> bytes:
    """The hash of an object's bytes; computed once in a process for as long as the object is not changed."""
    with _explained(uri, "read"):
        fs, path = filesystem(uri)
        return _digest(uri, fs.ukey(path), hash)


@lru_cache(1024)
def _digest(uri: str, version: str, hash: Callable[[], Any]) -> bytes:
    with io.BufferedReader(RangedFile(uri), 8 << 20) as file:
        return hashlib.file_digest(file, hash).digest()


def write_bytes(uri: str, data: bytes) -> None:
    """Write the whole object or nothing: rename on a local disk, one PUT on an object store."""
    with _explained(uri, "write"):
        fs, path = filesystem(uri)
        if not is_local(fs):
            fs.pipe_file(path, data)
            return
        folder, name = os.path.split(path)
        os.makedirs(folder, exist_ok=True)
        part = os.path.join(folder, f".{name}.{uuid.uuid4().hex}.part")
        try:
            with open(part, "wb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            os.replace(part, path)
        finally:
            if os.path.exists(part):
                os.remove(part)
