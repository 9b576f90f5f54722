"""Lane links that a source states by the names of its lanes, as indices."""

from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray


def successors(
    ids: Sequence[Hashable], entries: Iterable[Iterable[Hashable]], exits: Iterable[Iterable[Hashable]]
) -> NDArray[np.int32]:
    """Pairs (from, to) of lane indices, (S, 2), each once, given what leads into and out of each lane of `ids`.

    Lanes that are not in `ids` drop: maps are cut out of larger ones.
    """
    index = {name: i for i, name in enumerate(ids)}
    pairs = {(index.get(name, -1), i) for i, names in enumerate(entries) for name in names}
    pairs |= {(i, index.get(name, -1)) for i, names in enumerate(exits) for name in names}
    return np.array(sorted(p for p in pairs if min(p) >= 0), np.int32).reshape(-1, 2)


def neighbours(ids: Sequence[Hashable], beside: Iterable[Iterable[tuple[Hashable, float]]]) -> NDArray[np.int32]:
    """The lane that accompanies each lane of `ids` longest, (n,), -1 for none.

    beside: for each lane the names of those on one side, and along how many vertices each accompanies it, or another
    number that is greatest for the one next to it.
    """
    index = {name: i for i, name in enumerate(ids)}
    found = np.full(len(ids), -1, np.int32)
    for i, stretches in enumerate(beside):
        along: dict[int, float] = {}
        for name, vertices in stretches:
            if name in index:
                along[index[name]] = along.get(index[name], 0) + vertices
        if along:
            found[i] = max(along, key=lambda j: (along[j], -j))
    return found
