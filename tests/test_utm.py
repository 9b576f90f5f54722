"""Longitude and latitude to UTM, against PROJ 9 (pyproj's `Transformer.from_crs(4326, epsg, always_xy=True)`)."""

import numpy as np
import pytest

from sdiff.maps import utm


@pytest.mark.parametrize(
    ("lon_deg", "lat_deg", "epsg", "east_m", "north_m"),
    [
        (-79.95, 40.41, 32617, 589090.1439300935, 4473794.045508204),  # Pittsburgh
        (-115.17, 36.11, 32611, 664712.8241151184, 3997699.687481017),  # Las Vegas
        (103.79, 1.295, 32648, 365381.390398896, 143168.78343850048),  # Singapore
        (151.2, -33.86, 32756, 333491.22992739105, 6251909.2060468495),  # Sydney
    ],
)
def test_cities_lie_where_proj_puts_them(
    lon_deg: float, lat_deg: float, epsg: int, east_m: float, north_m: float
) -> None:
    np.testing.assert_allclose(
        utm.project(np.array([[lon_deg, lat_deg]]), epsg), [[east_m, north_m]], rtol=0, atol=1e-6
    )


def test_another_system_is_refused() -> None:
    with pytest.raises(ValueError, match="EPSG:4326 is no UTM zone"):
        utm.project(np.zeros((1, 2)), 4326)
