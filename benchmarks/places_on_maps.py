"""How many places bare maps have for the examples, and how long the search for all of them takes.

    python benchmarks/places_on_maps.py FOLDER [--every N] > benchmarks/places-on-maps-DATE-HARDWARE.json

FOLDER: maps, as `sdiff generate --map` takes them; --every: of so many one. `places.ego_speed_mps` of the examples asks
for a log and is left out.
"""

import argparse
import json
import platform
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from sdiff import window_tables
from sdiff.directives import job as job_files
from sdiff.directives.search import IndexedMap, Maps, NoPlace, find_on_maps, spots_on_map
from sdiff.maps import files
from sdiff.maps.lanes import LaneGraph, map_from_rows

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.yaml"))
ALL = 10**9


def main() -> None:
    """Search each map for every example; print one JSON object."""
    options = argparse.ArgumentParser()
    options.add_argument("folder")
    options.add_argument("--every", type=int, default=1)
    asked = options.parse_args()
    started = time.perf_counter()
    found, bad = files.read_all(asked.folder)
    read_s = time.perf_counter() - started
    chosen = sorted(found, key=lambda f: f.region)[:: asked.every]
    jobs = [job_files.read(str(path)) for path in EXAMPLES]
    jobs = [replace(j, places=replace(j.places, wanted=replace(j.places.wanted, ego_speed_mps=None))) for j in jobs]
    rows = [search(file, jobs) for file in chosen]
    largest = max(rows, key=lambda r: r["poses"])
    names = [j.name for j in jobs]
    print(
        json.dumps(
            {
                "maps_read": len(found),
                "maps_refused": len(bad),
                "seconds_to_read_all": round(read_s, 2),
                "maps_searched": len(rows),
                "lane_km": round(sum(r["lane_km"] for r in rows), 1),
                "poses": sum(r["poses"] for r in rows),
                "poses_with_room": sum(r["with_room"] for r in rows),
                "examples": {
                    name: {
                        "places": sum(r["places"][name] for r in rows),
                        "maps_with_a_place": sum(r["places"][name] > 0 for r in rows),
                        "median_per_map": float(np.median([r["places"][name] for r in rows])),
                        "seconds": round(sum(r["seconds"][name] for r in rows), 2),
                    }
                    for name in names
                },
                "largest": largest,
                "machine": f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}",
            },
            indent=1,
        )
    )


def search(file: files.MapFile, jobs: list[job_files.Job]) -> dict:
    """Places of every job on one map, and the seconds that the search takes with the map read anew."""
    vector_map = map_from_rows(window_tables.maps_table(file.map))
    graph = LaneGraph(vector_map)
    lanes = np.flatnonzero(graph.drivable & ~vector_map.in_junction)
    spots = spots_on_map(file, "", job_files.SPACING_M)
    places, seconds, room = {}, {}, 0
    for job in jobs:
        maps = Maps({vector_map.map_id: IndexedMap(vector_map)})
        started = time.perf_counter()
        try:
            result = find_on_maps(job, spots, maps, {d.name: ALL for d in job.directives})
            places[job.name] = max(len(s) for s in result.spots.values())
            room = next(iter(result.counts.values()))
        except NoPlace:
            places[job.name] = 0
        seconds[job.name] = round(time.perf_counter() - started, 3)
    return {
        "map": file.region,
        "lane_km": round(sum(graph.length_m(i) for i in lanes.tolist()) / 1000, 2),
        "poses": len(spots),
        "with_room": room,
        "places": places,
        "seconds": seconds,
    }


if __name__ == "__main__":
    main()
