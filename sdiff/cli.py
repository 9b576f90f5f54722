"""The command line. A command imports what it needs when it runs, so that `sdiff --help` answers at once."""

import functools
import inspect
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TextIO

import typer

from sdiff import __version__

if TYPE_CHECKING:
    from rich.console import RenderableType

Result = Mapping[str, Any]


class Shown(NamedTuple):
    """A result that knows better than `show` how people want to see it. failure: why the exit status is 1, if it is."""

    result: Result
    table: "RenderableType | None" = None  # a str is printed as it is
    failure: str = ""


Work = Callable[..., Result | Shown]

app = typer.Typer(
    name="sdiff",
    help="Directed driving scenarios: from driving logs to generated, queryable traffic.",
    epilog="A URI is a folder, or any other place that fsspec reaches, such as s3://bucket/data.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def command(work: Work, group: typer.Typer = app, name: str | None = None) -> Work:
    """Make `work` a command: adds --json and --verbose, prints what it returns, ends with its exit status."""

    @functools.wraps(work)
    def run(*, json: bool, verbose: bool, **options: Any) -> None:
        raise typer.Exit(report(functools.partial(work, **options), as_json=json, verbose=verbose))

    flags = (
        ("json", "Print one JSON object on stdout; logs go to stderr."),
        ("verbose", "Log more, and show the traceback of an error."),
    )
    signature = inspect.signature(work)
    extra = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=False,
            annotation=Annotated[bool, typer.Option(f"--{name}", help=text)],
        )
        for name, text in flags
    ]
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *extra])  # type: ignore[attr-defined]
    group.command(name)(run)
    return work


def report(work: Work, *, as_json: bool, verbose: bool) -> int:
    """Do the work and print its result on stdout; everything else that is printed meanwhile goes to stderr.

    Returns the exit status: 0 done; 1 the work failed, with the reason on stderr.
    """
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(message)s", stream=sys.stderr)
    for ours in ("sdiff", "pipelines"):
        logging.getLogger(ours).setLevel(logging.DEBUG if verbose else logging.INFO)
    with _stdout_to_stderr() as stdout:
        try:
            result = work()
        except typer.BadParameter:
            raise
        except Exception as error:
            from sdiff.storage import without_secrets

            if verbose:
                print(without_secrets(traceback.format_exc()), file=sys.stderr)
            print(without_secrets(f"sdiff: {_message(error)}"), file=sys.stderr)
            return 1
        plain, table, failure = result if isinstance(result, Shown) else (result, None, "")
        if as_json:
            import orjson

            options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE
            stdout.write(orjson.dumps(plain, default=str, option=options).decode())
        elif isinstance(table, str):
            stdout.write(table)
        else:
            from rich.console import Console

            # What people name may look like markup: "[a, b]" would vanish, and "[/b]" end the command.
            Console(file=stdout, markup=False, emoji=False).print(_tables(plain) if table is None else table)
        if failure:
            print(f"sdiff: {failure}", file=sys.stderr)
    return 1 if failure else 0


def say(line: str) -> None:
    """A line of progress."""
    logging.getLogger("sdiff").info(line)


def _tables(result: Result) -> "RenderableType":
    """A result for people: a table for each value that holds rows, then the plain values together."""
    from rich.console import Group
    from rich.table import Column, Table

    plain = Table("", "", show_header=False, box=None)
    tables = []
    for name, value in result.items():
        rows = _rows(value)
        if rows is None:
            plain.add_row(str(name), _cell(value))
            continue
        columns = list(dict.fromkeys(key for row in rows for key in row))
        table = Table(*(Column(c, overflow="fold") for c in columns), title=str(name), title_justify="left")
        for row in rows:
            table.add_row(*(_cell(row.get(c)) for c in columns))
        tables.append(table)
    return Group(*tables, plain)


def _rows(value: Any) -> list[Mapping[str, Any]] | None:
    """The rows of a value that is a table: a list of mappings, or a mapping of mappings; None for any other."""
    if isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value):
        return value
    if isinstance(value, Mapping) and value and all(isinstance(v, Mapping) for v in value.values()):
        return [{"": key, **row} for key, row in value.items()]
    return None


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _message(error: BaseException) -> str:
    """What an error says to a person; an error that the work does not know names its type."""
    while isinstance(cause := getattr(error, "cause", None), BaseException):  # Ray wraps what a task raised
        error = cause
    known = isinstance(error, OSError | ValueError) or type(error).__module__.split(".")[0] in ("duckdb", "_duckdb")
    text = str(error) or type(error).__name__
    return text if known else f"unexpected {type(error).__name__}: {text}; run again with --verbose to see where"


@contextmanager
def _stdout_to_stderr() -> Iterator[TextIO]:
    """Sends all that this process and its children print on stdout to stderr; yields the real stdout."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(os.dup(kept), "w", encoding="utf-8") as stdout:
            yield stdout
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


Output = Annotated[str, typer.Option(metavar="URI", help="Parent of the tables that are written.")]
Windows = Annotated[str, typer.Option(metavar="URI", help="Table windows, or its parent.")]
Scenarios = Annotated[str, typer.Option(metavar="URI", help="Table scenarios, or its parent.")]
Seed = Annotated[int, typer.Option(min=0, help="Equal seeds give equal results.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes that work side by side.")]


@command
def demo(output: Annotated[str, typer.Option(metavar="DIR", help="Folder for all that the demo makes.")]) -> Shown:
    """The whole pipeline on simulated traffic, start to end."""
    from rich.console import Group

    from pipelines import demo, evaluate

    result = demo.run(output, say)
    rest = {name: value for name, value in result.items() if name != "evaluation"}
    return Shown(result, Group(evaluate.table(result["evaluation"]), _tables(rest)))


@command
def simulate(
    output: Annotated[str, typer.Option(metavar="URI", help="One folder of SUMO files is written here per region.")],
    minutes: Annotated[float, typer.Option(min=0.5, help="Simulated time per region.")] = 10,
    seed: Seed = 0,
    regions: Annotated[int, typer.Option(min=1, help="How many of the built-in street networks.")] = 4,
    net: Annotated[str | None, typer.Option(metavar="FILE", help="Your own SUMO network instead.")] = None,
    routes: Annotated[
        str | None, typer.Option(metavar="FILE", help="Your own routes for --net; it begins with the first.")
    ] = None,
    workers: Workers = 1,
) -> Result:
    """Make raw driving logs with the SUMO traffic simulator."""
    if routes and not net:
        raise typer.BadParameter("--routes needs the --net it belongs to")
    from sdiff.simulate import simulate

    return simulate(
        output, minutes=minutes, seed=seed, regions=regions, net=net, routes=routes, report=say, workers=workers
    )


@command
def ingest(
    format: Annotated[str, typer.Option(metavar="FORMAT", help="Format of the logs, or auto.")],
    input: Annotated[str, typer.Option(metavar="URI", help="Folder of logs, or one log.")],
    output: Output,
    stride_s: Annotated[float, typer.Option(min=0.1, help="Time between windows.")] = 0.5,
    stand_ins: Annotated[int, typer.Option(min=0, help="Moving vehicles that stand in for the AV, per t0.")] = 3,
    val_share: Annotated[float, typer.Option(min=0, max=1, help="Share of the logs that goes to split val.")] = 0.1,
    workers: Workers = 1,
    max_bad_share: Annotated[float, typer.Option(min=0, max=1, help="Fail where more of the logs are bad.")] = 0.05,
    runner_options: Annotated[
        list[str] | None, typer.Argument(metavar="[-- RUNNER OPTIONS]", help="Beam pipeline options, after --.")
    ] = None,
) -> Shown:
    """Cut raw driving logs into windows.

    Writes the tables windows, agent_tokens, maps and dead_letters, and the data card of all that they hold then.
    Exit status 1 where too many logs are bad, after all good ones are done and the report is printed.
    """
    from sdiff.logs import ANY, FORMATS

    if format not in FORMATS | ANY:
        raise typer.BadParameter(f"unknown format {format!r}; the known ones are {', '.join(sorted(FORMATS | ANY))}")
    from pipelines import ingest
    from sdiff import data_card, stats

    failure = ""
    try:
        report = ingest.run(
            format,
            input,
            output,
            stride_s=stride_s,
            stand_ins=stand_ins,
            val_share=val_share,
            workers=workers,
            max_bad_share=max_bad_share,
            beam_args=tuple(runner_options or ()),
        )
    except ingest.IngestFailed as error:  # what is there is whole, and its card says why the rest is missing
        report, failure = error.report, str(error)
    result = {**report, "card": data_card.write(output, stats.read(output))}
    return Shown(result, _tables(result), failure)


@command
def stats(
    data: Annotated[str, typer.Option(metavar="URI", help="Parent of the tables.")],
    output: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder for charts and data card; that of --data renews its card.")
    ] = None,
) -> Shown:
    """Count what tables of windows hold.

    Agents, kinds, speeds, sizes, regions, tracks, maps, licences; what could not be used, and why.
    """
    from sdiff import stats

    counted = stats.read(data)
    result = stats.as_result(counted)
    if output is not None:
        from sdiff import data_card, storage
        from sdiff.view import draw, stats_page

        result = {**result, "card": data_card.write(output, counted), "charts": storage.join(output, "stats.png")}
        storage.write_bytes(result["charts"], draw.encode_png(stats_page.page(counted)))
    return Shown(result, _tables({k: stats.as_text(v) if isinstance(v, list) else v for k, v in result.items()}))


@command
def mine(
    windows: Windows,
    output: Output,
    workers: Workers = 1,
    runner_options: Annotated[
        list[str] | None, typer.Argument(metavar="[-- RUNNER OPTIONS]", help="Beam pipeline options, after --.")
    ] = None,
) -> Result:
    """Find interactions in windows, measure how severe they are, and write each as a directive.

    Writes the tables interactions and directives.
    """
    from pipelines import mine

    return mine.run(windows, output, workers=workers, beam_args=tuple(runner_options or ()))


@command
def train(
    stage: Annotated[Literal["autoencoder", "denoiser"], typer.Argument(help="Which of the two networks.")],
    windows: Windows,
    output: Annotated[str, typer.Option(metavar="URI", help="Checkpoints, loss curves and pictures are written here.")],
    config: Annotated[
        str | None,
        typer.Option(metavar="RECIPE", help="small, base, paper, or a YAML file."),
    ] = None,
    autoencoder: Annotated[
        str | None,
        typer.Option(metavar="URI", help="Checkpoint that the denoiser builds on; OUTPUT/model unless given."),
    ] = None,
    region: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Train on this region's windows alone; may be repeated.")
    ] = None,
    minutes: Annotated[float | None, typer.Option(min=0.1, help="Stop after that long.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps in all, instead of the recipe's.")] = None,
    workers: Workers = 1,
    gpu: Annotated[bool, typer.Option("--gpu", help="One GPU per worker.")] = False,
    seed: Seed = 0,
) -> Result:
    """Train one stage of the model.

    Run again to go on from the last checkpoint.
    """
    from pipelines import train

    return train.run(
        stage,
        windows,
        output,
        config,
        autoencoder=autoencoder,
        regions=region or (),
        minutes=minutes,
        steps=steps,
        workers=workers,
        use_gpu=gpu,
        seed=seed,
        report=say,
    )


@command
def generate(
    job: Annotated[str | None, typer.Argument(metavar="JOB.yaml", help="What to generate; see examples/.")] = None,
    windows: Annotated[str | None, typer.Option(metavar="URI", help="Table that lends the places.")] = None,
    map: Annotated[
        str | None,
        typer.Option(
            metavar="URI", help="Bare maps that lend them instead: Argoverse 2, SUMO, OpenDRIVE; or a folder."
        ),
    ] = None,
    where: Annotated[
        str | None, typer.Option(metavar="SQL", help="Which of its windows, such as region = 'x'.")
    ] = None,
    trained_maps: Annotated[
        bool, typer.Option("--trained-maps", help="Places on maps that the model was trained on, too.")
    ] = False,
    count: Annotated[int | None, typer.Option(min=1, help="How many scenarios.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Equal seeds give equal bytes.")] = None,
    model: Annotated[str | None, typer.Option(metavar="URI", help="Checkpoint; the shipped one unless given.")] = None,
    output: Annotated[str | None, typer.Option(metavar="URI", help="Parent of table scenarios.")] = None,
    actors: Annotated[int | None, typer.Option(min=1, help="Processes with the model; one per GPU or core.")] = None,
    device: Annotated[Literal["cuda", "cpu"] | None, typer.Option(help="What is there, unless given.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Plan, try one batch, say what the job will take; write nothing.")
    ] = False,
    price: Annotated[float | None, typer.Option(min=0, help="Of one actor per hour, for --dry-run.")] = None,
    scenario: Annotated[
        str | None, typer.Option(metavar="ID", help="Make this one of OUTPUT again from its row, and compare.")
    ] = None,
) -> Result | Shown:
    """Generate scenarios in bulk, as a job file directs.

    Run again to go on with a job that was stopped. Options override the job file.
    """
    if (job is None) == (scenario is None):
        raise typer.BadParameter("expected either a job file, or --scenario with --output and --windows")
    if map is not None and (windows is not None or where is not None):
        raise typer.BadParameter("--map lends places without logs: it goes neither with --windows nor with --where")
    if scenario is not None:
        if output is None:
            raise typer.BadParameter("--scenario needs --output, where its tables are")
        from sdiff import generation

        again = generation.again(scenario, output, windows, model=model, device=device)
        reason = f"{scenario} comes out otherwise: {again['differing']}; is all as sdiff.made_with of its object says?"
        return Shown(again, None, "" if again["same"] else reason)
    assert job is not None
    from pipelines import generate

    made = generate.run(
        job,
        windows=windows,
        map=map,
        where=where,
        trained_maps=trained_maps or None,
        count=count,
        seed=seed,
        model=model,
        output=output,
        actors=actors,
        device=device,
        dry_run=dry_run,
        price_per_hour=price,
        report=say,
    )
    nothing = not dry_run and not any(row["made"] for row in made["directives"].values())
    return Shown(made, None, "no attempt was accepted; the column rejected says why" if nothing else "")


@command
def evaluate(
    scenarios: Scenarios,
    windows: Windows,
    output: Annotated[str | None, typer.Option(metavar="URI", help="evaluation.json is written here.")] = None,
    seed: Seed = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Measure that many scenarios, drawn at random.")] = None,
) -> Shown:
    """Measure generated scenarios beside the logs' own windows."""
    from pipelines import evaluate

    result = evaluate.run(scenarios, windows, output, seed=seed, limit=limit)
    return Shown(result, evaluate.table(result))


@command
def query(
    sql: Annotated[str, typer.Argument(metavar='"SQL"', help="A query in DuckDB's SQL; every table is a view.")],
    data: Annotated[str, typer.Option(metavar="URI", help="Parent of the tables.")],
) -> Shown:
    """Ask the tables in SQL."""
    from sdiff import query

    rows = query.run(sql, data)
    return Shown({"rows": rows.to_pylist()}, query.format_table(rows))


@command
def verify(uri: Annotated[str, typer.Argument(metavar="URI", help="Parent of the tables.")]) -> Shown:
    """Check that tables are whole: all that was planned is there, nothing else is, and every object can be read.

    Exit status 1 where anything is wrong, with what to do.
    """
    from sdiff import verify

    result = verify.as_result(verify.verify(uri))
    n = len(result["problems"])
    failure = f"{n} problem{'s' if n > 1 else ''} at {uri}" if n else ""
    return Shown(result, _tables(result if n else {"tables": result["tables"]}), failure)


@command
def render(
    output: Annotated[str, typer.Option(metavar="DIR", help="Folder for the pictures.")],
    scenarios: Annotated[str | None, typer.Option(metavar="URI", help="Table scenarios, or its parent.")] = None,
    windows: Annotated[
        str | None,
        typer.Option(metavar="URI", help="Table windows; with --scenarios each is drawn above its scenario."),
    ] = None,
    interactions: Annotated[
        str | None, typer.Option(metavar="URI", help="Table interactions of --windows: a page per kind.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many (of a kind), spread evenly over the table.")] = 24,
    id: Annotated[list[str] | None, typer.Option(metavar="ID", help="Draw this row; may be repeated.")] = None,
    animate: Annotated[Literal["webp", "gif"] | None, typer.Option(help="Animate each as well.")] = None,
) -> Result:
    """Draw scenarios, windows or interactions.

    Writes a picture of each, animations if asked, and a contact sheet of all.
    """
    if scenarios is None and windows is None:
        raise typer.BadParameter("nothing to draw: give --scenarios, --windows or both")
    from sdiff import view

    if interactions is not None:
        if windows is None or scenarios is not None or id is not None or animate == "gif":
            raise typer.BadParameter("--interactions goes with --windows, --limit and --animate webp alone")
        pages = view.render_interactions(
            interactions, windows, output=output, per_kind=limit, animate=animate is not None
        )
        return {"output": output, "files": len(pages)}
    written = view.render(scenarios, windows, output=output, limit=limit, ids=id, animate=(animate,) if animate else ())
    return {"output": output, "files": len(written), "contact_sheet": written[-1]}


@command
def export(
    scenarios: Scenarios,
    to: Annotated[str, typer.Option(metavar="FORMAT", help="Format of the files: scenarionet.")],
    output: Annotated[str, typer.Option(metavar="URI", help="Folder for the files.")],
    windows: Annotated[
        str | None,
        typer.Option(metavar="URI", help="Table that lent the places, with its maps; signals come from it."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="How many, spread evenly over the table.")] = None,
    where: Annotated[
        str | None, typer.Option(metavar="SQL", help="Which scenarios, such as ego_min_ttc_s < 1.5.")
    ] = None,
) -> Result:
    """Write scenarios as files for a simulator."""
    from sdiff import export

    if to not in export.FORMATS:
        raise typer.BadParameter(f"unknown format {to!r}; the known ones are {', '.join(sorted(export.FORMATS))}")
    return export.export(scenarios, windows, to=to, output=output, limit=limit, where=where, report=say)


jobs = typer.Typer(help="Generate jobs on a Ray cluster, through Ray's Jobs API.", no_args_is_help=True)
app.add_typer(jobs, name="jobs")

Address = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Ray's job server, such as http://head:8265; on this machine unless given."),
]
JobName = Annotated[str, typer.Argument(metavar="JOB", help="Its name, as list shows it.")]


@functools.partial(command, group=jobs, name="submit")
def jobs_submit(
    arguments: Annotated[list[str], typer.Argument(metavar="-- ARGUMENTS", help="Those of sdiff generate.")],
    address: Address = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the job; Ray gives one otherwise.")] = None,
) -> Result:
    """Start sdiff generate on the cluster.

    Returns at once. What a job file and a URI name must be there for the cluster.
    """
    from pipelines import jobs

    return jobs.submit(arguments, address, name)


@functools.partial(command, group=jobs, name="list")
def jobs_list(address: Address = None) -> Result:
    """The jobs of the cluster, the latest first."""
    from pipelines import jobs

    return {"jobs": jobs.listed(address)}


@functools.partial(command, group=jobs, name="status")
def jobs_status(job: JobName, address: Address = None) -> Result:
    """How far a job is: its state and its last line, with rate and time left."""
    from pipelines import jobs

    return jobs.status(job, address)


@functools.partial(command, group=jobs, name="logs")
def jobs_logs(job: JobName, address: Address = None) -> Shown:
    """What a job said so far."""
    from pipelines import jobs

    text = jobs.logs(job, address)
    return Shown({"job": job, "logs": text}, text)


@functools.partial(command, group=jobs, name="cancel")
def jobs_cancel(job: JobName, address: Address = None) -> Result:
    """Stop a job.

    What it made stays: the same job submitted again goes on there.
    """
    from pipelines import jobs

    return jobs.cancel(job, address)


@app.callback(invoke_without_command=True)
def about(version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """Entry point of `sdiff`."""
    app()
