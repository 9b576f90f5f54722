"""Storage: an object is there whole or not at all, wherever it lies."""

import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from sdiff import storage


@pytest.fixture(params=["disk", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder on disk and one on an object store."""
    if request.param == "disk":
        return str(tmp_path)
    fsspec.filesystem("memory").rm("/", recursive=True) if fsspec.filesystem("memory").find("/") else None
    return "memory://bucket/data"


def test_bytes_come_back(place: str) -> None:
    uri = storage.join(place, "windows", "a.parquet")
    assert not storage.exists(uri)
    storage.write_bytes(uri, b"first")
    storage.write_bytes(uri, b"second")
    assert storage.exists(uri)
    assert storage.read_bytes(uri) == b"second"


def test_objects_are_found_sorted_at_any_depth(place: str) -> None:
    for name in ("b.parquet", "a.parquet", "deep/c.parquet", "notes.txt", "_hidden.parquet", ".hidden.parquet"):
        storage.write_bytes(storage.join(place, name), b"")
    found = storage.objects(place)
    assert [uri.rsplit("/", 1)[-1] for uri in found] == ["a.parquet", "b.parquet", "c.parquet"]
    assert [storage.read_bytes(uri) for uri in found] == [b""] * 3


def test_one_object_yields_itself(place: str) -> None:
    uri = storage.join(place, "log.json")
    storage.write_bytes(uri, b"{}")
    assert storage.objects(uri) == [uri]


def test_nothing_there_is_no_objects(place: str) -> None:
    assert storage.objects(storage.join(place, "windows")) == []


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:9000/bucket/x@y",
        "hdfs://name-node:8020/user@corp/x",
        "s3://bucket/log:12@noon",
        "zip://a.zip::s3://bucket/x@y",
        "cannot read s3://bucket/x: no such key; write to me@here.org",
    ],
)
def test_ports_colons_and_at_signs_are_no_secrets(text: str) -> None:
    assert storage.without_secrets(text) == text


@pytest.mark.parametrize(
    "uri",
    [
        "s3://NAME:plain@host/x",
        "s3://NAME:wJalr/XUt+n=FEMI@host/x",
        "s3a://NAME:12/34@host/x",
        "simplecache::s3://NAME:a/b@host/x",
        "ftp://NAME:p@ss@host/x",
    ],
)
def test_a_secret_is_hidden_wherever_it_stands(uri: str) -> None:
    shown = storage.without_secrets(f"cannot read {uri}; nor s3://bucket/y")
    assert shown == f"cannot read {uri.split('NAME')[0]}...@host/x; nor s3://bucket/y"
    with pytest.raises(storage.StorageError, match=r"\.\.\.@host/x holds credentials"):
        storage.filesystem(uri)


def test_a_table_is_named_by_its_folder_or_its_parent() -> None:
    assert storage.table_uri("s3://bucket/data", "windows") == "s3://bucket/data/windows"
    assert storage.table_uri("s3://bucket/data/windows/", "windows") == "s3://bucket/data/windows"
    assert storage.table_uri("s3://bucket/old_windows", "windows") == "s3://bucket/old_windows/windows"


KILLED_WRITER = """
import os, signal, sys
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
from sdiff import storage
storage.write_bytes(sys.argv[1], b"x" * 1_000_000)
"""


def test_a_killed_writer_leaves_nothing_to_see(tmp_path: Path) -> None:
    target = tmp_path / "windows" / "a.parquet"
    done = subprocess.run([sys.executable, "-c", KILLED_WRITER, str(target)], check=False)
    assert done.returncode == -9
    assert not target.exists()
    assert storage.objects(str(tmp_path)) == []
    storage.write_bytes(str(target), b"again")
    assert storage.objects(str(tmp_path)) == [f"file://{target}"]


def test_a_killed_writer_leaves_the_old_object_whole(tmp_path: Path) -> None:
    target = tmp_path / "a.parquet"
    storage.write_bytes(str(target), b"old")
    subprocess.run([sys.executable, "-c", KILLED_WRITER, str(target)], check=False)
    assert storage.read_bytes(str(target)) == b"old"


def test_a_failed_write_cleans_up_after_itself(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").mkdir()
    with pytest.raises(storage.StorageError, match=r"a\.parquet"):
        storage.write_bytes(str(tmp_path / "a.parquet"), b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["a.parquet"]


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    uri = str(tmp_path / "file" / "windows" / "a.parquet")
    with pytest.raises(storage.StorageError) as error:
        storage.write_bytes(uri, b"x")
    assert f"cannot write {uri}" in str(error.value)


def test_a_missing_object_is_named(place: str) -> None:
    uri = storage.join(place, "nowhere.json")
    with pytest.raises(storage.StorageError) as error:
        storage.read_bytes(uri)
    assert f"cannot read {uri}" in str(error.value)


def test_a_kind_of_place_that_nobody_knows_is_named() -> None:
    with pytest.raises(storage.StorageError, match=r"cannot read nowhere://bucket/key: .*nowhere"):
        storage.read_bytes("nowhere://bucket/key")
