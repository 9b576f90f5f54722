"""The command line: answers at once, keeps stdout for its result, and ends with the exit status that it promises."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import typer

import schemas
from sdiff import cli, tables

COMMANDS = ("demo", "simulate", "ingest", "stats", "train", "generate", "evaluate", "query", "render", "export")


def sdiff(*args: str) -> subprocess.CompletedProcess[str]:
    """Run `sdiff` as a person does."""
    program = [sys.executable, "-c", "from sdiff.cli import main; main()"]
    return subprocess.run([*program, *args], capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def letters(tmp_path: Path) -> str:
    """A folder of tables with two rows of dead_letters."""
    rows = [{"source": s, "record": None, "stage": "read", "reason": "empty file"} for s in ("a.json", "b.json")]
    table = pa.Table.from_pylist(rows, schema=schemas.arrow_schema("dead_letters"))
    tables.write(table, "dead_letters", str(tmp_path), "one")
    return str(tmp_path)


def test_help_lists_the_commands_and_imports_nothing_heavy() -> None:
    show = (
        "import sys, sdiff.cli\ntry: sdiff.cli.app(['--help'])\nexcept SystemExit: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True)
    for command in COMMANDS:
        assert f"\n  {command} " in done.stdout
    loaded = set(done.stderr.split())
    assert "typer" in loaded
    assert loaded & {"torch", "apache_beam", "ray", "duckdb", "pyarrow", "numpy", "fsspec", "rich"} == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    done = sdiff(command, "--help")
    assert done.returncode == 0
    assert "--json" in done.stdout
    assert "--verbose" in done.stdout


def documented_calls() -> list[str]:
    """Every call of sdiff in the README, the docs and the examples."""
    root = Path(__file__).parent.parent
    pages = [root / "README.md", *sorted(root.glob("docs/*.md")), *sorted(root.glob("examples/*.yaml"))]
    text = "\n".join(page.read_text(encoding="utf-8").replace("\\\n", " ") for page in pages)
    return re.findall(r"^#?\s*(sdiff \w.*)$", text, re.M) + re.findall(r"`(sdiff \w[^`\n]* [^`\n]*)`", text)


def test_every_documented_call_names_a_command_and_options_that_exist() -> None:
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    calls = documented_calls()
    assert len(calls) > 12
    for call in calls:
        words = shlex.split(call.replace("[", " ").replace("]", " "))
        words = words[: words.index("--")] if "--" in words else words
        known = {option for parameter in commands[words[1]].params for option in parameter.opts}
        assert {word for word in words[2:] if word.startswith("--")} <= known, call


@pytest.mark.parametrize(
    "call",
    [
        ("fly",),
        ("train", "wheels", "--windows", "w", "--output", "o"),
        ("ingest", "--format", "sumo"),
        ("ingest", "--format", "sumo", "--input", "i", "--output", "o", "--runer=x"),
        ("simulate", "--output", "o", "--routes", "r.xml"),
        ("generate", "job.yaml", "--count", "0"),
        ("render", "--output", "o"),
    ],
    ids=" ".join,
)
def test_a_wrong_call_ends_with_2_and_says_what_is_wrong(call: tuple[str, ...], tmp_path: Path) -> None:
    done = sdiff(*call)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()


def test_an_unknown_format_is_answered_with_the_known_ones() -> None:
    done = sdiff("ingest", "--format", "dashcam", "--input", "i", "--output", "o")
    assert done.returncode == 2
    assert all(word in done.stderr for word in ("dashcam", "argoverse2_motion", "gpudrive", "sumo"))


def test_failed_work_ends_with_1_and_says_what_and_where(tmp_path: Path) -> None:
    done = sdiff("query", "SELECT 1", "--data", str(tmp_path / "nowhere"), "--json")
    assert done.returncode == 1
    assert done.stdout == ""
    assert str(tmp_path / "nowhere") in done.stderr
    assert "Traceback" not in done.stderr


def test_an_ingest_of_bad_logs_reports_what_became_of_them_and_ends_with_1(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    call = ("ingest", "--format", "gpudrive", "--input", str(tmp_path), "--output", str(tmp_path / "out"))
    done = sdiff(*call, "--json")
    assert done.returncode == 1
    said = json.loads(done.stdout)
    assert (said["bad_logs"], said["logs"], said["dead_letters"]) == (1, 0, 1)
    ((reason, count),) = said["dead_letters_by_reason"].items()
    assert count == 1 and "not a GPUDrive scenario" in reason and reason.removeprefix("read: ") in done.stderr
    assert "Traceback" not in done.stderr
    assert "dead_letters_by_reason" in sdiff(*call).stdout


def test_a_command_on_beam_says_its_own_things_alone(tmp_path: Path) -> None:
    done = sdiff("mine", "--windows", str(tmp_path / "none"), "--output", str(tmp_path / "out"))
    assert done.stderr == f"sdiff: no table windows at {tmp_path}/none/windows; run sdiff ingest first\n"
    code = "import logging, pipelines; logging.warning('a real one'); logging.warning('apitools not found, and')"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stderr == "WARNING:root:a real one\n"


def test_a_wrong_query_names_the_views(letters: str) -> None:
    done = sdiff("query", "SELECT * FROM windows", "--data", letters)
    assert done.returncode == 1
    assert "dead_letters" in done.stderr
    assert "Traceback" not in done.stderr


def test_verbose_shows_where_it_failed(tmp_path: Path) -> None:
    done = sdiff("query", "SELECT 1", "--data", str(tmp_path / "nowhere"), "--verbose")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_json_is_one_object_on_stdout(letters: str) -> None:
    done = sdiff("query", "SELECT source FROM dead_letters ORDER BY source", "--data", letters, "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout) == {"rows": [{"source": "a.json"}, {"source": "b.json"}]}


def test_a_table_for_people_holds_the_rows(letters: str) -> None:
    done = sdiff("query", "SELECT source FROM dead_letters ORDER BY source", "--data", letters)
    assert done.returncode == 0
    assert done.stdout.index("a.json") < done.stdout.index("b.json")


def run_report(work: str, as_json: bool) -> subprocess.CompletedProcess[str]:
    """Report the work of a function body, in a process of its own."""
    code = f"import os, sys\nfrom sdiff.cli import report\ndef work():\n {work}\n"
    call = f"sys.exit(report(work, as_json={as_json}, verbose=False))"
    return subprocess.run([sys.executable, "-c", code + call], capture_output=True, text=True, timeout=60, check=False)


def test_what_the_work_and_its_children_print_stays_out_of_the_result() -> None:
    done = run_report("print('noise'); os.system('echo more noise'); return {'n': 1}", as_json=True)
    assert json.loads(done.stdout) == {"n": 1}
    assert "noise" in done.stderr
    assert "more noise" in done.stderr


def test_a_result_of_numpy_values_is_json_and_not_a_number_is_null() -> None:
    work = "import numpy as np; return {'n': np.int64(3), 'x': np.float32('nan'), 'xs': np.arange(2), 3: {'a': 1.5}}"
    done = run_report(work, as_json=True)
    assert json.loads(done.stdout) == {"n": 3, "x": None, "xs": [0, 1], "3": {"a": 1.5}}


def test_rows_and_plain_values_are_shown_for_people() -> None:
    work = "return {'kinds': {'car': {'n': 4}, 'bus': {'n': None}}, 'steps': [{'name': 'read', 's': 0.123456}], 'n': 7}"
    shown = run_report(work, as_json=False).stdout
    for text in ("kinds", "car", "4", "bus", "steps", "read", "0.1235", "7"):
        assert text in shown


def test_what_looks_like_markup_is_shown_as_it_is() -> None:
    work = "return {'[/b]': [{'[red]': 'cut_in [/b]', 'at': ['a', 'b']}], 'output': ':car: [a, b]'}"
    done = run_report(work, as_json=False)
    assert done.returncode == 0, done.stderr
    for text in ("[/b]", "[red]", "cut_in [/b]", "['a', 'b']", ":car: [a, b]"):
        assert text in done.stdout


def test_a_text_is_printed_raw_and_unwrapped() -> None:
    line = "[/b] " + "x" * 500
    done = run_report(f"from sdiff.cli import Shown; return Shown({{}}, {line!r} + chr(10))", as_json=False)
    assert done.stdout == f"{line}\n"


def test_a_secret_in_a_uri_is_refused_and_never_printed(tmp_path: Path) -> None:
    secret = "wJalr/XUt+n=FEMI"
    uri = f"s3://AKIAEXAMPLE:{secret}@bucket/x"
    (tmp_path / "job.yaml").write_text(f"name: a\noutput: {uri}\ncount: 2\n")
    windows = str(tmp_path / "none")
    for call in (
        ("query", "SELECT 1", "--data", uri, "--verbose"),
        ("generate", str(tmp_path / "job.yaml"), "--windows", windows),
        ("jobs", "submit", "--", "job.yaml", "--output", uri),
    ):
        done = sdiff(*call)
        assert done.returncode == 1
        assert "s3://...@bucket/x holds credentials" in done.stderr
        assert secret not in done.stderr + done.stdout


def test_an_error_nobody_foresaw_names_its_type_and_the_way_to_more() -> None:
    done = run_report("return {}['wheel']", as_json=False)
    assert done.returncode == 1
    assert "unexpected KeyError: 'wheel'" in done.stderr
    assert "--verbose" in done.stderr
    assert "Traceback" not in done.stderr
