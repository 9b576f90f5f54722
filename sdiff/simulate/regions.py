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
    vehicles_per_km: float = 16.0
    bikes: float = 0.15
    walkers_per_km: float = 5.0
    license: str = "EPL-2.0, street map ODbL-1.0"


_TOWN = (
    "--sidewalks.guess",
    "--crossings.guess",
    "--bikelanes.guess",
    "--tls.guess",
    "--no-turnarounds",
    "--junctions.corner-detail=8",
    "--junctions.internal-link-detail=8",
    "--default.speed=13.89",
)

REGIONS = (
    Region("ingolstadt", net="tools/game/fkk_in/ingolstadt.net.xml.gz"),
    Region(
        "grid_town",
        license="generated, none needed",
        generate=(
            "--grid",
            "--grid.number=5",
            "--grid.length=130",
            "--grid.attach-length=100",
            "--default.lanenumber=2",
            "--default-junction-type=traffic_light",
            *_TOWN,
        ),
    ),
    Region("braunschweig_forschungskreuzung", net="tools/game/fokr_bs_demo/fokr_bs.net.xml.gz"),
    Region(
        "random_town",
        license="generated, none needed",
        generate=(
            "--rand",
            "--rand.iterations=60",
            "--rand.min-distance=90",
            "--rand.max-distance=220",
            "--rand.grid",
            "--random-lanenumber",
            "--default.lanenumber=2",
            "--random-type",
            *_TOWN,
        ),
    ),
    Region("berlin", net="tools/game/DRT/osm.net.xml"),
    Region(
        "spider_town",
        license="generated, none needed",
        generate=("--spider", "--spider.arm-number=7", "--spider.circle-number=4", "--spider.space-radius=110", *_TOWN),
    ),
    Region("a10_koenigs_wusterhausen", net="tools/game/A10KW/osm.net.xml"),
    Region("braunschweig", net="tools/game/bs3d/bs.net.xml"),
)


def generate(region: Region, seed: int, folder: Path) -> bytes:
    """The network of a generated town, another one for each seed."""
    run("netgenerate", *region.generate, "--seed", str(seed), "--output-file", "town.net.xml", folder=folder)
    text = (folder / "town.net.xml").read_bytes()
    return re.sub(rb"<!--.*?-->\s*", b"", text, count=1, flags=re.S)  # the head says when it was made
