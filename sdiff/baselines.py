"""What a generator has to beat."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sdiff.scene import Agents


@dataclass(frozen=True)
class PastedLogs:
    """The agents of a random training window, pasted into another place as they are in their own window's frame.

    Real agents that fit each other but not the map: the lower end of the scale for everything that looks at the map.
    scenes: agents of the training windows. log_ids: the log each is from.
    """

    scenes: Sequence[Agents]
    log_ids: Sequence[str]

    def sample(self, log_id: str, rng: np.random.Generator) -> Agents | None:
        """The agents of one window of a log other than `log_id`; None where there is no other log."""
        others = [i for i, other in enumerate(self.log_ids) if other != log_id]
        return self.scenes[int(rng.choice(others))] if others else None
