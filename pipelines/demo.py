"""The whole pipeline on simulated traffic: simulate, ingest, train, generate, evaluate, query, draw.

Training runs for a minute per stage, to show that it does; what is generated comes from the shipped checkpoint, on
streets that it was not trained on.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sdiff
from pipelines import evaluate, generate, ingest, train
from sdiff import data_card, query, stats, storage, view
from sdiff.simulate import simulate

PACKAGE = Path(sdiff.__file__).parent
PLACES = (PACKAGE / "examples", PACKAGE.parent / "examples")
"""Where job files lie: in the package that is installed, beside it in the repository."""
EXAMPLES = next((folder for folder in PLACES if folder.is_dir()), PLACES[0])
JOBS = {"free": 24, "bus_turns_right": 12, "cut_in": 12, "stopped_car": 12, "pedestrian": 12}
"""Job files of the demo, and how many scenarios of each."""

SEED = 1000
"""Of the simulated traffic, and of the towns that are generated for it: the shipped checkpoint has not seen these."""
REGIONS = 4
MINUTES = 1.0
WORKERS = 2
TRAIN_MINUTES = 1.0

SQL = """
SELECT directive, count(*) AS scenarios, round(avg(n_agents), 1) AS agents,
       round(avg(token_match_rate), 2) AS match_rate, round(avg(has_collision::INT), 2) AS collisions,
       round(min(ego_min_ttc_s), 1) AS least_ttc_s
FROM scenarios GROUP BY directive ORDER BY directive
"""


def run(output: str, report: Callable[[str], None]) -> dict[str, Any]:
    """Run every stage into `output`; report is told what happens. Returns where everything lies and the main figures.

    Run again after a stop, a stage does what is missing.
    """
    began = time.monotonic()
    raw, tables, training, pictures = (storage.join(output, n) for n in ("raw", "tables", "training", "pictures"))

    def say(stage: str, what: str) -> None:
        report(f"\n[{time.monotonic() - began:4.0f} s] {stage}: {what}")

    say("simulate", f"{REGIONS} street networks, {MINUTES:g} min of traffic each, to {raw}")
    simulate(raw, minutes=MINUTES, seed=SEED, regions=REGIONS, workers=WORKERS, report=report)

    say("ingest", f"windows of 100 m x 100 m around moving vehicles, to {tables}")
    windows = ingest.run("sumo", raw, tables, workers=WORKERS)
    report(f"{windows['windows']} windows of {windows['logs']} logs, {windows['bytes_per_window'] / 1000:.1f} KB each")
    report(f"what they hold: {data_card.write(tables, stats.read(tables))}")

    with _ray():
        for stage in train.STAGES:
            say("train", f"the {stage}, for {TRAIN_MINUTES:g} min to show that it learns, to {training}")
            trained = train.run(stage, tables, training, minutes=TRAIN_MINUTES, report=report)
            report(f"{trained['step']} steps, loss {trained['loss']:.3f}; curve at {training}/{stage}/loss.png")
        for name, count in JOBS.items():
            say("generate", f"{count} scenarios of examples/{name}.yaml with the shipped checkpoint")
            job = str(EXAMPLES / f"{name}.yaml")
            generate.run(job, windows=tables, count=count, output=tables, report=report)

    say("evaluate", "scenarios beside the logs at the same places")
    figures = evaluate.run(tables, tables, output)

    say("query", " ".join(SQL.split()))
    answer = query.run(SQL, tables).to_pylist()

    say("render", f"pictures and a contact sheet, to {pictures}")
    view.render(tables, output=pictures, limit=sum(JOBS.values()), column_count=6)
    return {
        "scenarios": answer,
        "evaluation": figures,
        "raw logs": raw,
        "tables": tables,
        "training": training,
        "figures": figures["output"],
        "pictures": pictures,
        "contact sheet": storage.join(pictures, "contact_sheet.png"),
        "try": f'sdiff query "SELECT * FROM agents LIMIT 10" --data {tables}',
        "seconds": round(time.monotonic() - began),
    }


@contextmanager
def _ray() -> Iterator[None]:
    """One quiet Ray on this machine for all stages, with a core to spare for what feeds them."""
    import ray

    cores = (os.cpu_count() or 1) + 1
    ray.init("local", num_cpus=cores, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()
