"""Pages of mined interactions, one per kind, the AV's counterpart marked."""

from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np

from sdiff import storage, tables
from sdiff.view import draw, sheet
from sdiff.view.pictures import Scene, load

SHOWN = ["window_id", "kind", "actor_id", "other_id", "t_s", "min_ttc_s", "min_pet_s", "max_drac_mps2", "region"]


def render_interactions(
    interactions: str, windows: str, *, output: str, per_kind: int = 24, animate: bool = False
) -> list[str]:
    """Draw a page per kind of interaction, `per_kind` of each, spread evenly over the table.

    interactions, windows: the table's folder or its parent. animate: also a WebP of each.
    Returns the URIs written. Raises TableError where there is no such table, ValueError where it holds no row.
    """
    by_kind: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in tables.read(interactions, "interactions", SHOWN).to_pylist():
        by_kind[row["kind"]].append(row)
    if not by_kind:
        raise ValueError(f"no row to draw in {storage.table_uri(interactions, 'interactions')}")
    for kind, rows in by_kind.items():
        at = np.linspace(0, len(rows) - 1, min(per_kind, len(rows))).round().astype(int)
        by_kind[kind] = [rows[i] for i in at]
    wanted = {row["window_id"] for rows in by_kind.values() for row in rows}
    scenes = {s.id: s for s in load("windows", None, windows, ids=sorted(wanted))}
    written = []
    for kind, rows in sorted(by_kind.items()):
        drawn = [_marked(scenes[row["window_id"]], row) for row in rows]
        pictures = [scene.picture(320) for scene in drawn]
        captions, header = [s.caption for s in drawn], f"{len(rows)} x {kind}"
        page = sheet.contact_sheet(pictures, captions, header=header, legend=sheet.INTERACTIONS)
        written.append(storage.join(output, f"{kind}.png"))
        storage.write_bytes(written[-1], draw.encode_png(page))
        for i, scene in enumerate(drawn if animate else []):
            written.append(storage.join(output, kind, f"{i:02d}.webp"))
            storage.write_bytes(written[-1], draw.encode_webp(scene.animation(400, scene.caption.split("\n")[0])))
    return written


def _marked(scene: Scene, row: dict[str, Any]) -> Scene:
    """The scene with its pair marked, captioned by what was measured."""
    pair = np.flatnonzero(np.isin(scene.agents.agent_id, [row["actor_id"], row["other_id"]]))
    measures = (("TTC", "min_ttc_s", "s"), ("PET", "min_pet_s", "s"), ("DRAC", "max_drac_mps2", "m/s2"))
    facts = [f"{name} {row[column]:.1f} {unit}" for name, column, unit in measures if row[column] is not None]
    caption = f"{row['region']} · {row['t_s']:+.1f} s\n{' · '.join(facts)}"
    return replace(scene, marked=frozenset(pair.tolist()), caption=caption)
