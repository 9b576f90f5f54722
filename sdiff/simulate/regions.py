"""The street networks that come with the simulator: real ones from the SUMO wheel, and generated towns."""

import re
from dataclasses import dataclass
from pathlib import Path

from sdiff.simulate.tools import run


@dataclass(frozen=True)
class Region:
    """A street network and how busy it is.

    net: file under SUMO's home or URI, or empty for a town that `netgenerate` makes with the options `generate`.
    vehicles_per_km: at once, per km of lanes for cars. bikes: share of them.
    walkers_per_km: who set out every 90 s, per km of lanes for walkers. license: of the network.
    """

    name: str
    net: str = ""
    generate: tuple[str, ...] = ()
    vehicles_per_km: float = 20.0
    bikes: float = 0.15
    walkers_per_km: float = 6.0
    license: str = "EPL-2.0, street map ODbL-1.0"


_TOWN = (
    *("--sidewalks.guess", "--crossings.guess", "--bikelanes.guess", "--tls.guess", "--tls.guess.threshold=50"),
    *("--no-turnarounds", "--junctions.corner-detail=8", "--junctions.internal-link-detail=8"),
    *("--perturb-x=norm(0,6)", "--perturb-y=norm(0,6)"),
)
_GRID = (
    *("--grid", "--grid.number=4", "--grid.length=130", "--grid.attach-length=100", "--default.lanenumber=2"),
    *("--turn-lanes=1", "--turn-lanes.length=40", "--default-junction-type=traffic_light", "--default.speed=13.89"),
)
_RANDOM = (
    *("--rand", "--rand.grid", "--rand.iterations=40", "--rand.min-distance=90", "--rand.max-distance=220"),
    *("--random-lanenumber", "--default.lanenumber=2", "--default.speed=13.89"),
)
_SPIDER = (
    *("--spider", "--spider.arm-number=7", "--spider.circle-number=3", "--spider.space-radius=130"),
    *("--spider.omit-center", "--random-lanenumber", "--default.lanenumber=2", "--default.speed=13.89"),
)
_VILLAGE = (
    *("--rand", "--rand.iterations=30", "--rand.min-distance=70", "--rand.max-distance=150"),
    *("--default.lanenumber=1", "--default.speed=8.33", "--default-junction-type=right_before_left"),
)
_GENERATED = "generated, none needed"

REGIONS = (
    Region("ingolstadt", net="tools/game/fkk_in/ingolstadt.net.xml.gz", vehicles_per_km=26),
    Region("grid_town", generate=(*_GRID, *_TOWN), license=_GENERATED, vehicles_per_km=15),
    Region("braunschweig_ring", net="tools/game/fokr_bs_demo/fokr_bs.net.xml.gz", vehicles_per_km=26),
    Region("random_town", generate=(*_RANDOM, *_TOWN), license=_GENERATED, vehicles_per_km=17),
    Region("berlin", net="tools/game/DRT/osm.net.xml", vehicles_per_km=18, walkers_per_km=3),
    Region("spider_town", generate=(*_SPIDER, *_TOWN), license=_GENERATED, vehicles_per_km=16),
    Region("koenigs_wusterhausen", net="tools/game/A10KW/osm.net.xml", vehicles_per_km=24, bikes=0.05),
    Region("village", generate=(*_VILLAGE, *_TOWN), license=_GENERATED, vehicles_per_km=16),
    Region("braunschweig", net="tools/game/bs3d/bs.net.xml", vehicles_per_km=26),
)
"""Real and generated networks in turns, the lightest first."""


def generate(region: Region, seed: int, folder: Path) -> bytes:
    """The network of a generated town, another one for each seed."""
    run("netgenerate", *region.generate, "--seed", str(seed), "--output-file", "town.net.xml", folder=folder)
    text = (folder / "town.net.xml").read_bytes()
    return re.sub(rb"<!--.*?-->\s*", b"", text, count=1, flags=re.S)  # the head says when it was made
