"""A number that a person gave as such, or as a range to draw from."""

from typing import NamedTuple

import numpy as np


class Span(NamedTuple):
    """A range of values, ends included; one value where both ends are equal."""

    low: float
    high: float

    def draw(self, rng: np.random.Generator) -> float:
        """One value of the range, uniform."""
        return self.low if self.low == self.high else float(rng.uniform(self.low, self.high))

    def contains(self, value: float) -> bool:
        """Whether a value lies in the range."""
        return self.low <= value <= self.high
