"""Every stage on a real S3 server: signatures, permissions, and what a person is told."""

import asyncio
import functools
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import s3fs
from botocore.exceptions import EndpointConnectionError
from crossroads import TokensDriveOn, load_stand_in, write_windows
from flaky import FAULTS, flaky
from object_store import ObjectStore
from synthetic import driving_log, gpudrive_json

from pipelines import evaluate, generate, ingest
from sdiff import query, storage, tables, verify, view
from sdiff.s3 import PatientS3

JOB = "name: test\ncount: 9\nscenarios_per_unit: 4\nbatch: 4\nseed: 5\n"


@pytest.fixture(scope="module")
def ray_of_our_own(s3: ObjectStore) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # where the actors find the stand-in
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=f"/tmp/ray-sdiff-{os.getpid()}")
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def bucket(s3: ObjectStore) -> str:
    return s3.make_bucket("stages")


@pytest.fixture(scope="module")
def ingested(bucket: str) -> str:
    """Two logs, read from S3 and cut into windows there."""
    for seed in range(2):
        document = json.dumps(gpudrive_json(driving_log(f"log{seed}", seed=seed)))
        storage.write_bytes(f"{bucket}/raw/log{seed}.json", document.encode())
    ingest.run("gpudrive", f"{bucket}/raw", f"{bucket}/ingested")
    return f"{bucket}/ingested"


@pytest.fixture(scope="module")
def windows(bucket: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Windows at a crossing, copied to S3."""
    folder = tmp_path_factory.mktemp("windows")
    write_windows(folder)
    for file in folder.rglob("*.parquet"):
        storage.write_bytes(f"{bucket}/crossing/{file.relative_to(folder)}", file.read_bytes())
    return f"{bucket}/crossing"


def make(windows: str, output: str, load_model: Any = load_stand_in) -> dict[str, object]:
    storage.write_bytes(f"{output}/job.yaml", JOB.encode())
    return generate.run(
        f"{output}/job.yaml", windows=windows, output=output, actors=1, device="cpu", load_model=load_model
    )


@pytest.fixture(scope="module")
def made(ray_of_our_own: None, windows: str, bucket: str) -> str:
    make(windows, f"{bucket}/made")
    return f"{bucket}/made"


def test_ingest_from_and_to_s3_gives_the_bytes_that_it_gives_on_disk(
    s3: ObjectStore, ingested: str, bucket: str, tmp_path: Path
) -> None:
    for name, data in s3.contents(f"{bucket}/raw").items():
        (tmp_path / "raw").mkdir(exist_ok=True)
        (tmp_path / "raw" / name).write_bytes(data)
    ingest.run("gpudrive", str(tmp_path / "raw"), str(tmp_path / "out"))
    on_disk = {str(p.relative_to(tmp_path / "out")): p.read_bytes() for p in (tmp_path / "out").rglob("*.*")}
    assert s3.contents(ingested) == on_disk
    assert ingest.run("gpudrive", f"{bucket}/raw", ingested)["slices_done_before"] == 2


def test_generate_from_and_to_s3_gives_the_bytes_that_it_gives_on_disk(
    s3: ObjectStore, made: str, tmp_path: Path
) -> None:
    windows = write_windows(tmp_path / "crossing")
    make(windows, str(tmp_path / "out"))
    on_disk = {str(p.relative_to(tmp_path / "out")): p.read_bytes() for p in (tmp_path / "out").rglob("*.parquet")}
    there = s3.contents(made)
    del there["job.yaml"]
    assert len(on_disk) == 4
    assert there == on_disk


def test_a_job_on_s3_makes_only_what_is_missing(s3: ObjectStore, windows: str, made: str) -> None:
    before = s3.contents(made)
    lost = sorted(name for name in before if name.startswith("scenarios/"))[1]
    fs, path = storage.filesystem(f"{made}/{lost}")
    fs.rm_file(path)
    stats = make(windows, made)
    assert (stats["units_done_before"], stats["units_made"]) == (2, 1)
    assert s3.contents(made) == before


def test_scenarios_on_s3_are_queried_measured_and_drawn(windows: str, made: str, tmp_path: Path) -> None:
    rows = query.run("SELECT count(*) AS n, sum(n_agents) AS agents FROM scenarios", made).to_pylist()
    table = tables.read(made, "scenarios", ["n_agents"])
    assert rows == [{"n": 9, "agents": sum(table["n_agents"].to_pylist())}]
    evaluate.run(made, windows, f"{made}/evaluated")
    assert storage.exists(f"{made}/evaluated/evaluation.json")
    written = view.render(made, windows, output=f"{made}/pictures", limit=2, ids=None, animate=())
    assert storage.read_bytes(f"{made}/pictures/{written[-1].rsplit('/', 1)[-1]}")[1:4] == b"PNG"


def test_a_checkpoint_comes_back_from_s3(bucket: str) -> None:
    from sdiff.model import checkpoint

    weights, facts = checkpoint.read(checkpoint.shipped())
    checkpoint.save(f"{bucket}/model", weights, facts)
    assert checkpoint.load(f"{bucket}/model").model_id == checkpoint.load().model_id
    checkpoint.write_state(f"{bucket}/state", 7, weights)
    assert checkpoint.read_state(f"{bucket}/state")[0] == 7


def test_a_listing_shows_what_another_process_has_just_written(s3: ObjectStore, bucket: str) -> None:
    assert storage.objects(f"{bucket}/listed") == []
    storage.write_bytes(f"{bucket}/listed/a.parquet", b"1")
    assert len(storage.objects(f"{bucket}/listed")) == 1
    other = "import sys; from sdiff import storage; storage.write_bytes(sys.argv[1], b'2')"
    subprocess.run([sys.executable, "-c", other, f"{bucket}/listed/b.parquet"], check=True)
    assert len(storage.objects(f"{bucket}/listed")) == 2


def sdiff(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    code = "from sdiff.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_wrong_secret_is_refused_and_not_shown(s3: ObjectStore, made: str) -> None:
    done = sdiff("query", "SELECT 1", "--data", made, AWS_SECRET_ACCESS_KEY="wr0ng-but-secret")
    assert done.returncode == 1
    assert f"cannot read {made}" in done.stderr and "check your credentials" in done.stderr
    assert "wr0ng" not in done.stderr + done.stdout
    assert s3.secret not in done.stderr + done.stdout


@pytest.mark.parametrize("command", ["ingest", "generate", "evaluate"])
def test_without_permission_nothing_is_written(
    s3: ObjectStore, bucket: str, windows: str, ingested: str, made: str, command: str, tmp_path: Path
) -> None:
    guest = s3.environment(guest=True)
    closed, free = f"{bucket}/closed", str(Path(__file__).parent.parent / "examples" / "free.yaml")
    arguments = {
        "ingest": f"--format gpudrive --input {bucket}/raw --output {closed}",
        "generate": f"{free} --windows {windows} --output {closed} --device cpu --count 1",
        "evaluate": f"--scenarios {made} --windows {windows} --output {closed}",
    }[command].split()
    done = sdiff(command, *arguments, **guest)
    assert done.returncode == 1
    assert bucket in done.stderr and "check your credentials" in done.stderr
    assert "Traceback" not in done.stderr
    assert s3.contents(closed) == {}


def test_without_credentials_the_message_says_so(made: str) -> None:
    done = sdiff("query", "SELECT 1", "--data", made, AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="", HOME="/nowhere")
    assert done.returncode == 1
    assert f"cannot read {made}: no credentials for S3" in done.stderr


def test_a_server_that_is_not_there_is_named(made: str) -> None:
    nobody = "http://127.0.0.1:9"
    done = sdiff("query", "SELECT 1", "--data", made, AWS_ENDPOINT_URL_S3=nobody, FSSPEC_S3_PATIENCE_S="2")
    assert done.returncode == 1
    assert f"cannot read {made}: S3 did not answer" in done.stderr and nobody in done.stderr
    assert "AWS_ENDPOINT_URL_S3" in done.stderr


def test_an_object_or_bucket_that_is_not_there_is_named(bucket: str) -> None:
    for uri in (f"{bucket}/none.json", "s3://no-such-bucket/none.json"):
        with pytest.raises(storage.StorageError, match=f"cannot read {uri}"):
            storage.read_bytes(uri)


def test_a_uri_with_a_secret_in_it_is_refused_without_repeating_it(windows: str, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(JOB + "output: s3://ID:hush@stages/out\n")
    with pytest.raises(storage.StorageError, match=r"s3://\.\.\.@stages/out holds credentials") as error:
        generate.run(str(tmp_path / "job.yaml"), windows=windows, load_model=load_stand_in)
    assert "hush" not in str(error.value)


def test_the_secret_is_in_no_object_and_no_log(s3: ObjectStore, ingested: str, made: str, bucket: str) -> None:
    done = sdiff("query", "SELECT count(*) FROM scenarios", "--data", made, "--verbose")
    assert done.returncode == 0
    assert s3.secret not in done.stdout + done.stderr
    objects = s3.contents(bucket)
    assert len(objects) > 10
    for hidden in (s3.secret, s3.key_id):
        assert [name for name, data in objects.items() if hidden.encode() in data] == []
    logs = Path(f"/tmp/ray-sdiff-{os.getpid()}").resolve().rglob("*.log")
    assert [f.name for f in logs if s3.secret in f.read_text(errors="replace")] == []


def test_any_part_of_an_object_is_read(s3: ObjectStore, bucket: str) -> None:
    storage.write_bytes(f"{bucket}/letters", b"abcdef")
    spans: list[tuple[int, int | None]] = [(0, None), (0, 2), (2, 4), (4, None)]
    assert [storage.read_bytes(f"{bucket}/letters", *span) for span in spans] == [b"abcdef", b"ab", b"cd", b"ef"]
    with storage.RangedFile(f"{bucket}/letters") as file:
        assert (file.read(2), file.seek(-1, 2), file.read(9), file.read()) == (b"ab", 5, b"f", b"")


def test_parquet_of_a_large_unit_is_one_put(s3: ObjectStore, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    call = PatientS3._call_s3

    async def listening(self: PatientS3, method: str, *args: object, **options: object) -> object:
        asked.append(method)
        return await call(self, method, *args, **options)

    monkeypatch.setattr(PatientS3, "_call_s3", listening)
    data = np.random.default_rng(0).bytes(120 * 2**20)
    storage.write_bytes(f"{bucket}/large", data)
    assert asked == ["put_object"]
    assert storage.size(f"{bucket}/large") == len(data)


def test_a_query_asks_for_each_object_once(made: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Counter[str] = Counter()
    call = PatientS3._call_s3

    async def listening(self: PatientS3, method: str, *args: object, **options: object) -> object:
        asked[method] += 1
        return await call(self, method, *args, **options)

    monkeypatch.setattr(PatientS3, "_call_s3", listening)
    query.run("SELECT count(*) FROM scenarios", made)
    n = len(storage.objects(f"{made}/scenarios")) + len(storage.objects(f"{made}/jobs"))
    assert asked["get_object"] <= 2 * n


def test_a_store_that_fails_for_a_while_costs_time_and_nothing_else(
    s3: ObjectStore, ingested: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with flaky(s3.ports["s3"], seed=1, share=0.4, good_after_s=60) as proxy, monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        PatientS3.clear_instance_cache()
        ingest.run("gpudrive", f"{bucket}/raw", f"{bucket}/hindered")
        rows = query.run("SELECT count(*) AS n FROM windows", f"{bucket}/hindered").to_pylist()
        problems = [p for report in verify.verify(f"{bucket}/hindered") for p in report.problems]
        met = set(proxy.met)
    PatientS3.clear_instance_cache()
    assert met == set(FAULTS), "all of them happened"
    assert s3.contents(f"{bucket}/hindered") == s3.contents(ingested)
    assert rows == [{"n": tables.read(ingested, "windows", ["window_id"]).num_rows}]
    assert problems == []


def load_behind(url: str, uri: str | None, device: str) -> TokensDriveOn:
    """The stand-in, and S3 at `url` from now on: the workers of a Ray that runs have the environment of its start."""
    os.environ["AWS_ENDPOINT_URL_S3"] = url
    PatientS3.clear_instance_cache()
    return load_stand_in(uri, device)


def test_a_store_that_fails_for_a_while_costs_generate_time_and_nothing_else(
    s3: ObjectStore, windows: str, made: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = f"{bucket}/generated"
    with flaky(s3.ports["s3"], seed=3, share=0.4, good_after_s=60) as proxy, monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        PatientS3.clear_instance_cache()
        stats = make(windows, output, functools.partial(load_behind, proxy.url))
        faults = proxy.met.total()
    PatientS3.clear_instance_cache()
    assert stats["units_made"] == 3
    assert faults > 10
    there, undisturbed = s3.contents(output), s3.contents(made)
    assert there == {name: undisturbed[name] for name in there}
    assert {name for name in undisturbed if name.startswith(("scenarios/", "jobs/"))} <= set(there)


def test_an_outage_ends_with_any_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    away = EndpointConnectionError(endpoint_url="http://store")
    answers: list[Any] = [away, FileNotFoundError("no such object"), away, "here"]

    async def answer(self: object, method: str, *args: object, **options: object) -> object:
        if isinstance(found := answers.pop(0), Exception):
            raise found
        return found

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", answer)
    fs = PatientS3(skip_instance_cache=True, asynchronous=True, patience_s=0.5)

    async def ask() -> Any:
        with pytest.raises(FileNotFoundError):
            await fs._call_s3("head_object")
        await asyncio.sleep(0.6)  # nothing is asked for longer than an outage may last
        return await fs._call_s3("get_object")

    assert asyncio.run(ask()) == "here"


def test_a_store_that_stays_away_ends_the_job_in_time_and_the_same_call_goes_on(
    s3: ObjectStore, ingested: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = f"{bucket}/away"
    with (
        flaky(s3.ports["s3"], seed=2, share=1.0, good_after_s=1e9, faults=("503",)) as proxy,
        monkeypatch.context() as patch,
    ):
        patch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        PatientS3.clear_instance_cache()
        fs = PatientS3(patience_s=2, skip_instance_cache=True)
        started = time.monotonic()
        with pytest.raises(ConnectionError, match=r"S3 did not answer for \d+ s .* run the same command again"):
            fs.pipe_file(f"{output}/x", b"x")
        assert time.monotonic() - started < 30
    PatientS3.clear_instance_cache()
    assert s3.contents(output) == {}
    ingest.run("gpudrive", f"{bucket}/raw", output)
    assert s3.contents(output) == s3.contents(ingested)
