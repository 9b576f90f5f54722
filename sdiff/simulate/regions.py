"""The street networks that come with the simulator: real ones from the SUMO wheel, and generated towns."""

from dataclasses import dataclass
from pathlib import Path

from sdiff.simulate.tools import home, run


@dataclass(frozen=True)
class Region:
    """A street network and how busy it is.

    net: file under SUMO's home, or empty for a town that `netgenerate` makes with the options `generate`.
    vehicles_per_km, walkers_per_km: density on lanes for cars, on lanes for walkers. bikes: share of the vehicles.
    """

    name: str
    net: str = ""
    generate: tuple[str, ...] = ()
    vehicles_per_km: float = 30.0
    bikes: float = 0.12
    walkers_per_km: float = 20.0


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
        generate=("--spider", "--spider.arm-number=7", "--spider.circle-number=4", "--spider.space-radius=110", *_TOWN),
    ),
    Region("a10_koenigs_wusterhausen", net="tools/game/A10KW/osm.net.xml"),
    Region("braunschweig", net="tools/game/bs3d/bs.net.xml"),
)


def network(region: Region, seed: int, folder: Path) -> Path:
    """The region's network file in `folder`; a generated town differs by seed."""
    if region.net:
        return home() / region.net
    path = folder / "generated.net.xml"
    run("netgenerate", *region.generate, "--seed", str(seed), "--output-file", path.name, folder=folder)
    return path
