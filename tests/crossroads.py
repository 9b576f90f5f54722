"""A made-up map of two roads that cross, a windows table on it, and a model that drives tokens straight on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from synthetic import driving_log

from sdiff import KINDS, STEP_S, raster, tables, window_tables
from sdiff.logs.driving_log import FEATURE_KINDS, LANE_TYPES, VectorMap
from sdiff.scene import STEPS_FUTURE, STEPS_PAST, Agents, AgentTokens, Sample, SceneToken
from sdiff.span import Span
from sdiff.window_tables import Cut
from sdiff.windows import cut

LANE_WIDTH_M = 3.5
JUNCTION_X_M = 10.0
TURN_RIGHT_RADIUS_M = 10.0


def _arc(x: float, y: float, radius: float, begin: float, end: float) -> list[tuple[float, float]]:
    angle = np.linspace(begin, end, 17)
    return list(zip(x + radius * np.cos(angle), y + radius * np.sin(angle), strict=True))


LANES: dict[str, tuple[list[tuple[float, float]], list[str], bool]] = {
    "in_right": ([(-100, -1.75), (10, -1.75)], ["through_right", "turn_right"], False),
    "in_left": ([(-100, 1.75), (10, 1.75)], ["through_left", "turn_left"], False),
    "through_right": ([(10, -1.75), (34, -1.75)], ["out_right"], True),
    "through_left": ([(10, 1.75), (34, 1.75)], ["out_left"], True),
    "out_right": ([(34, -1.75), (100, -1.75)], [], False),
    "out_left": ([(34, 1.75), (100, 1.75)], [], False),
    "turn_right": (_arc(10, -11.75, TURN_RIGHT_RADIUS_M, np.pi / 2, 0), ["out_south"], True),
    "turn_left": (_arc(10, 15.75, 14, -np.pi / 2, 0), ["out_north"], True),
    "out_south": ([(20, -11.75), (20, -100)], [], False),
    "out_north": ([(24, 15.75), (24, 100)], [], False),
    "from_south": ([(24, -100), (24, -11.75)], ["across"], False),
    "across": ([(24, -11.75), (24, 15.75)], ["out_north"], True),
    "oncoming": ([(100, 5.25), (34, 5.25)], ["through_back"], False),
    "through_back": ([(34, 5.25), (10, 5.25)], ["out_back"], True),
    "out_back": ([(10, 5.25), (-100, 5.25)], [], False),
}
"""Centre lines, successors, whether in the junction: two lanes east, one west, one north, a road out to the south."""

LEFT_OF = {"in_right": "in_left", "through_right": "through_left", "out_right": "out_left"}

AREAS = {
    "road": ("drivable_area", [(-100, -3.5), (100, -3.5), (100, 7), (-100, 7)]),
    "side_road": ("drivable_area", [(18, -100), (26, -100), (26, 100), (18, 100)]),
    "zebra": ("crosswalk", [(4, -3.5), (7, -3.5), (7, 7), (4, 7)]),
}


def crossroads() -> VectorMap:
    """The map, metres, x to the east."""
    names = [*LANES, *AREAS]
    points = [*(lane[0] for lane in LANES.values()), *(area[1] for area in AREAS.values())]
    is_lane = np.array([n in LANES for n in names])
    right_of = {left: right for right, left in LEFT_OF.items()}
    return VectorMap(
        map_id="crossroads",
        feature_id=np.array(names),
        kind=np.array([FEATURE_KINDS.index("lane_centerline" if n in LANES else AREAS[n][0]) for n in names], np.int8),
        start=np.concatenate([[0], np.cumsum([len(p) for p in points])]).astype(np.int64),
        xy_m=np.concatenate([np.array(p, np.float64) for p in points]),
        left=np.array([names.index(LEFT_OF[n]) if n in LEFT_OF else -1 for n in names], np.int32),
        right=np.array([names.index(right_of[n]) if n in right_of else -1 for n in names], np.int32),
        successors=np.array([(names.index(a), names.index(b)) for a in LANES for b in LANES[a][1]], np.int32),
        speed_limit_mps=np.where(is_lane, 13.9, np.nan).astype(np.float32),
        width_m=np.where(is_lane, LANE_WIDTH_M, np.nan).astype(np.float32),
        lane_type=np.where(is_lane, LANE_TYPES.index("vehicle"), -1).astype(np.int8),
        in_junction=np.array([n in LANES and LANES[n][2] for n in names]),
        derived=np.zeros(len(names), bool),
    )


def write_windows(folder: Path, logs: int = 2) -> str:
    """Tables windows and maps of a few logs whose AV drives east towards the junction."""
    uri = str(folder)
    for i in range(logs):
        log = replace(driving_log(log_id=f"log{i}", seed=i), map=crossroads())
        index = raster.MapIndex.of(log.map)
        cuts = [Cut(w, log, "train" if i else "val") for w in cut(log, 1.0, 0)]
        map_bev = np.stack([raster.map_bev(index, log.lights, c.window.step, c.window.map_SE2_window) for c in cuts])
        agent_bev = np.stack([raster.agent_bev(c.window.agents) for c in cuts])
        tables.write(window_tables.windows_table(cuts, map_bev, agent_bev), "windows", uri, f"log{i}")
        tables.write(window_tables.maps_table(log.map), "maps", uri, "crossroads")
    return uri


class TokensDriveOn:
    """Stands in for a model: an agent per token that says where it is, straight from there to where it ends.

    The noise key decides the last centimetres of the boxes.
    """

    model_id = "tokens-drive-on"
    trained_maps: frozenset[str] = frozenset()

    def sample(
        self,
        map_bev: NDArray[np.uint8],
        tokens: list[AgentTokens],
        scene: list[SceneToken],
        noise_keys: list[tuple[int, str, int]],
        sampler: str = "dpmpp2m",
        steps: int = 20,
        min_score: float = 0.5,
        rules: bool = True,
        collisions: bool = False,
        ttc_s: Span | None = None,
    ) -> list[Sample]:
        """One per row."""
        assert len(map_bev) == len(tokens) == len(scene) == len(noise_keys)
        scenes = [self._scene(t, k) for t, k in zip(tokens, noise_keys, strict=True)]
        return [Sample(scene, scene) for scene in scenes]

    def _scene(self, tokens: AgentTokens, noise_key: tuple[int, str, int]) -> Agents:
        tokens = tokens.take(np.isfinite(tokens.x_m))
        n = len(tokens)
        noise = np.random.default_rng(list(repr(noise_key).encode()))
        steps = STEPS_PAST + 1 + STEPS_FUTURE
        time = (np.arange(steps) - STEPS_PAST) * STEP_S

        def known(name: str, otherwise: NDArray[np.float32] | float) -> NDArray[np.float32]:
            values = getattr(tokens, name)
            return np.where(np.isfinite(values), values, otherwise).astype(np.float32)

        heading, speed = known("heading_rad", 0.0), known("speed_mps", 0.0)
        vx = (known("end_x_m", tokens.x_m + 2 * speed * np.cos(heading)) - tokens.x_m) / 2
        vy = (known("end_y_m", tokens.y_m + 2 * speed * np.sin(heading)) - tokens.y_m) / 2
        return Agents(
            agent_id=np.array([f"g{i}" for i in range(n)], np.str_),
            kind=np.where(tokens.kind < 0, KINDS.index("car"), tokens.kind).astype(np.int8),
            length_m=known("length_m", 4.5) + noise.uniform(0, 0.1, n).astype(np.float32),
            width_m=known("width_m", 1.9),
            is_ego=np.arange(n) == 0,
            x_m=(tokens.x_m[:, None] + vx[:, None] * time).astype(np.float32),
            y_m=(tokens.y_m[:, None] + vy[:, None] * time).astype(np.float32),
            heading_rad=np.repeat(heading[:, None], steps, 1),
            vx_mps=np.repeat(vx[:, None], steps, 1),
            vy_mps=np.repeat(vy[:, None], steps, 1),
            valid=np.ones((n, steps), bool),
            score=np.ones(n, np.float32),
            token_index=np.full(n, -1, np.int32),
        )


def load_stand_in(uri: str | None, device: str) -> TokensDriveOn:
    """What `pipelines.generate.run` takes in place of a checkpoint."""
    return TokensDriveOn()
