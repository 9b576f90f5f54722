"""Longitude and latitude (WGS 84) to UTM, by Krüger's series: to a micrometre within a zone.

Source: L. Krüger 1912 as in C. F. F. Karney 2011, "Transverse Mercator with an accuracy of a few nanometers".
"""

import numpy as np
from numpy.typing import NDArray

RADIUS_M, FLATTENING = 6378137.0, 1 / 298.257223563
SCALE, FALSE_EAST_M, FALSE_NORTH_M = 0.9996, 500_000.0, 10_000_000.0

_N = FLATTENING / (2 - FLATTENING)
_RECTIFYING_M = RADIUS_M / (1 + _N) * (1 + _N**2 / 4 + _N**4 / 64)
_ALPHA = (
    _N / 2 - 2 * _N**2 / 3 + 5 * _N**3 / 16 + 41 * _N**4 / 180,
    13 * _N**2 / 48 - 3 * _N**3 / 5 + 557 * _N**4 / 1440,
    61 * _N**3 / 240 - 103 * _N**4 / 140,
    49561 * _N**4 / 161280,
)


def is_utm(epsg: int) -> bool:
    """Whether an EPSG code is a UTM zone on WGS 84."""
    return 32601 <= epsg <= 32660 or 32701 <= epsg <= 32760


def project(lon_lat_deg: NDArray[np.float64], epsg: int) -> NDArray[np.float64]:
    """East and north [m], (n, 2), in the UTM zone `epsg`, of longitude and latitude [deg], (n, 2).

    Raises ValueError for another EPSG code.
    """
    if not is_utm(epsg):
        raise ValueError(f"EPSG:{epsg} is no UTM zone, expected 32601 to 32660 or 32701 to 32760")
    zone, south = epsg % 100, epsg >= 32700
    lon, lat = np.radians(lon_lat_deg[:, 0] - (6 * zone - 183)), np.radians(lon_lat_deg[:, 1])
    e = 2 * np.sqrt(_N) / (1 + _N)
    with np.errstate(all="ignore"):  # a place that is none comes out as not finite
        t = np.sinh(np.arctanh(np.sin(lat)) - e * np.arctanh(e * np.sin(lat)))
        xi = np.arctan2(t, np.cos(lon))
        eta = np.arcsinh(np.sin(lon) / np.hypot(t, np.cos(lon)))
        east = eta + sum(a * np.cos(2 * j * xi) * np.sinh(2 * j * eta) for j, a in enumerate(_ALPHA, 1))
        north = xi + sum(a * np.sin(2 * j * xi) * np.cosh(2 * j * eta) for j, a in enumerate(_ALPHA, 1))
    return np.stack(
        [FALSE_EAST_M + SCALE * _RECTIFYING_M * east, SCALE * _RECTIFYING_M * north + FALSE_NORTH_M * south], -1
    )
