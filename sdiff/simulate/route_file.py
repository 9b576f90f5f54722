"""Traffic of one's own: when it sets out, and the vehicle types that it names, has and lacks."""

import io
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass

import numpy as np

CLASSES = (
    *("passenger", "private", "taxi", "hov", "evehicle", "vip", "authority", "emergency", "army", "ignoring"),
    *("truck", "trailer", "delivery", "bus", "coach", "motorcycle", "moped", "scooter", "bicycle", "pedestrian"),
    *("tram", "rail", "rail_urban", "rail_electric", "subway", "custom1", "custom2"),
)
"""SUMO's vehicle classes. Route files of others often name one of these as a type, and leave its definition out."""
_SETS_OUT = {"vehicle": "depart", "trip": "depart", "person": "depart", "flow": "begin", "personFlow": "begin"}


@dataclass(frozen=True)
class RouteFile:
    """What a route file says. first_s, last_s: when the first and the last one sets out [s]; NaN where nobody does.

    types: the definitions of vehicle types in it, as XML. lacking: those that it leaves out, made here.
    """

    first_s: float
    last_s: float
    types: str
    lacking: str


def read(data: bytes) -> RouteFile:
    """What the bytes of a route file say; what cannot be parsed is left to SUMO, which says why."""
    times: list[float] = []
    named, defined = set(), set()
    try:
        for _, el in ET.iterparse(io.BytesIO(data)):
            a = el.attrib
            if el.tag in _SETS_OUT:
                named.add(a.get("type", ""))
                times.append(_seconds(a.get(_SETS_OUT[el.tag], "")))
                times += [_seconds(a.get("end", "inf"))] if "begin" in a else []
            elif el.tag in ("vType", "vTypeDistribution"):
                defined.add(a.get("id", ""))
            el.clear()
    except ET.ParseError:
        pass
    known = [t for t in times if not np.isnan(t)]
    types = re.findall(r"<vType\b[^>]*?/>|<vType\b[^>]*?>.*?</vType>", data.decode("utf-8", "replace"), flags=re.S)
    lacking = [f'<vType id="{name}" vClass="{name}"/>' for name in CLASSES if name in named - defined]
    return RouteFile(
        first_s=min(known, default=np.nan),
        last_s=max(known, default=np.nan),
        types="\n".join(types),
        lacking="\n".join(lacking),
    )


def _seconds(text: str) -> float:
    """A time of SUMO, as seconds or as [days:]hours:minutes:seconds; NaN for what is none, such as "triggered"."""
    try:
        parts = [float(part) for part in text.split(":")]
    except ValueError:
        return np.nan
    return float(np.dot(parts[::-1], (1, 60, 3600, 86400)[: len(parts)])) if len(parts) <= 4 else np.nan
