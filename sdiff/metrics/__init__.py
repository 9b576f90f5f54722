"""What a scene is measured by: distance to the logs, collisions, safety, fit to the map and to what was asked for."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdiff.scene import STEPS_PAST


def at_t0(values: NDArray[Any]) -> NDArray[Any]:
    """Column of t0 of an (N, T) field; (0,) where there is no agent, whatever T is."""
    return values[:, STEPS_PAST] if len(values) else np.zeros(0, values.dtype)
