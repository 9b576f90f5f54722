"""A page that says what tables of windows hold, where that came from, what licences forbid, where its limits are."""

from collections.abc import Iterator, Sequence
from typing import Any

import sdiff
from sdiff import stats, storage
from sdiff.stats import Stats

NAME = "DATA_CARD.md"
"""The card's file, beside the tables."""
MOST_ROWS = 30
"""A table of the card is no longer: of more regions or reasons the rest are summed up in a line."""

TERMS = {
    "CC BY-NC-SA": "No commercial use. Name the source; what is derived from it goes under the same licence.",
    "Waymo Open": "Non-commercial research and teaching alone; no use in the operation of vehicles. It binds what is "
    "derived, trained models included: read its text before you pass anything on.",
    "EPL-2.0, street map ODbL": "Name OpenStreetMap's contributors. A database derived from the map, once public, "
    "goes under ODbL-1.0 as well.",
    "generated": "Nothing is forbidden: network and traffic are generated.",
    "unknown": "The source does not say: find out before you use or publish what is derived from it.",
}
"""What a licence asks for, by how its name starts."""

LIMITS = {
    "argoverse2_motion": "Box sizes are the usual ones of the class, and the AV's own: the source has none. No "
    "signals, no speed limits. Maps end near the agent that was to be forecast: vehicles that stand in for the AV may "
    "drive beyond.",
    "argoverse2_sensor": "Velocities come from positions, over 0.2 s. No signals, no speed limits. Centerlines lie "
    "midway between a lane's boundaries.",
    "commonroad": "No recording vehicle: every window is around a stand-in. Signals are the cycles that the document "
    "states, not recorded ones: traffic may not keep to them. The drivable area is the union of the lanelets. "
    "Obstacles with an occupancy set have no track and are dead letters.",
    "gpudrive": "Cars, trucks and buses are not told apart, nor is the city. Links, neighbours, junctions and the "
    "drivable area are computed from geometry; signals only where the file has them.",
    "nuplan": "Cars, trucks and buses are not told apart, and bicycles take in motorcycles. The AV's velocity comes "
    "from its positions. Maps are cut 200 m around the AV's path.",
    "scenarionet": "Kinds are told apart only where the data set it was converted from does; links are computed where "
    "lanes name no others. nuScenes is annotated at 2 Hz, poses between are the conversion's; its maps come without "
    "speed limits, crosswalks and signals. Argoverse comes without sizes and limits; what was simulated follows "
    "MetaDrive's models.",
    "sumo": "Simulated, not recorded: drivers and walkers follow SUMO's models and collide where these do. Velocities "
    "come from positions, sizes from vehicle types; the drivable area is computed from lanes and junctions.",
    "waymo_motion": "Cars, trucks and buses are not told apart, nor is the city. The drivable area, junctions and stop "
    "lines are computed; signals are those that the AV saw.",
}
"""What windows of a data set cannot show, beside what the tables themselves say."""


def write(uri: str, counted: Stats) -> str:
    """Write the card of the tables that were counted into the folder `uri`, whole or not at all; returns its URI."""
    target = storage.join(uri, NAME)
    storage.write_bytes(target, text(counted).encode())
    return target


def text(counted: Stats) -> str:
    """The card, Markdown; equal tables make equal cards."""
    return "\n".join([*_head(counted), *_licences(counted), *_made(counted), *_counts(counted), *_limits(counted)])


def _head(of: Stats) -> Iterator[str]:
    yield from ("# Data card", "")
    yield (
        "Windows of driving logs: 100 m x 100 m around one vehicle, from 2 s before to 2 s after t0 at 10 Hz, with "
        "map, agents and signals. Tables of Parquet objects; their fields: docs/tables.md of sdiff."
    )
    yield from (
        "",
        f"{of.windows:,} windows of {of.logs:,} logs, with {sum(s.agents for s in of.sources):,} agents.",
        "",
    )
    yield from _section("Sources", stats.datasets(of))


def _licences(of: Stats) -> Iterator[str]:
    if not of.sources:
        return
    yield from ("## What the licences ask for", "")
    for license in sorted({s.license for s in of.sources}):
        rows = [row for row in stats.licenses(of) if row["license"] == license]
        whose = ", ".join(f"{row['windows']:,} windows of {row['dataset']}" for row in rows)
        terms = next((t for start, t in TERMS.items() if license.startswith(start)), TERMS["unknown"])
        yield f"- **{license}** ({whose}): {terms}"
    yield from ("", "What is generated at a place of a log is derived from that log.", "")


def _made(of: Stats) -> Iterator[str]:
    yield from ("## How it was made", "")
    yield from (f"By `sdiff ingest`; this card by sdiff {sdiff.__version__}.", "")
    for name, value in sorted(of.options.items()):
        values = ", ".join(f"{k} {v}" for k, v in sorted(value.items())) if isinstance(value, dict) else value
        yield f"- {name.replace('_', ' ')}: {values}"
    done = of.ingested
    yield f"- finished: {done['sources']:,} sources in {done['slices']:,} slices, {done['logs']:,} logs read"
    if of.windows:
        size = f"{of.size_bytes / 1e6:,.1f} MB, {of.size_bytes / of.windows:,.0f} bytes a window"
        yield f"- objects of windows: {size}"
    yield ""


def _counts(of: Stats) -> Iterator[str]:
    yield from _section("Regions and splits", stats.regions(of), "Windows. A log is wholly in one split.")
    yield from _section("Agents per window", stats.agents_per_window(of), "Quantiles, the ego included.")
    about = f"At t0; standing: slower than {stats.STANDS_MPS} m/s."
    yield from _section("Kinds of agents", stats.kinds(of), about)
    yield from _section("Speeds", stats.speeds(of), "Quantiles in m/s at t0, of the agents that move.")
    yield from _section("Sizes", stats.sizes(of), "Quantiles in metres.")
    about = f"Steps of {stats.STEPS} at which an agent is observed; with gaps: it is lost and found again in between."
    yield from _section("Tracks within windows", stats.tracks(of), about)
    about = (
        "Size known: the source's, not a usual one; repaired: the track was mended anywhere in the log; on the road: "
    )
    about += "the centre is on the drivable area at t0. Agents of windows that say so, those of schema version 3."
    yield from _section("Quality", stats.quality(of), about)
    about = "Tracks of all logs that were read, by what was wrong: docs/formats.md of sdiff says how each is mended."
    yield from _section("Repairs", stats.repairs(of), about)
    about = (
        "Kilometres of lanes by type; with limit: lanes with a speed limit; computed: lanes with links from geometry."
    )
    yield from _section("Maps", stats.maps(of), about)
    yield from _section(
        "Map features", stats.map_features(of), "Computed: the source has none, its geometry is derived."
    )
    about = (
        "What could not be used, with an example; numbers are left out of reasons. All of them: table `dead_letters`."
    )
    yield from _section("Dead letters", stats.dead_letters(of), about)


def _limits(of: Stats) -> Iterator[str]:
    if not of.sources:
        return
    yield from ("## Known limits", "")
    for dataset in sorted({s.dataset for s in of.sources}):
        yield f"- **{dataset}**: {LIMITS.get(dataset, 'none known')}"
    yield ""


def _section(title: str, rows: Sequence[dict[str, Any]], about: str = "") -> Iterator[str]:
    if not rows:
        return
    yield from (f"## {title}", "")
    if about:
        yield from (about, "")
    yield f"| {' | '.join(rows[0])} |"
    yield "|" + "---|" * len(rows[0])
    for row in stats.as_text(rows[:MOST_ROWS]):
        yield f"| {' | '.join(cell.replace('|', '/') for cell in row.values())} |"
    if len(rows) > MOST_ROWS:
        yield from ("", f"and {len(rows) - MOST_ROWS:,} more.")
    yield ""
