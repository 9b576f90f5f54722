"""What becomes of an attempt: rejected, or accepted without the agents that break a rule and nobody asked for."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdiff.metrics import kinematics
from sdiff.metrics.collision import meetings
from sdiff.metrics.map_fit import leaves_road
from sdiff.metrics.matching import fulfilling
from sdiff.metrics.safety import min_ttc_s
from sdiff.scene import STEPS_PAST, Agents, AgentTokens
from sdiff.span import Span

EGO_WITHIN_M = 2.0
"""A scenario whose ego is farther from the origin at t0 is rejected [m]."""


@dataclass(frozen=True)
class Accept:
    """What may be in a scenario all the same. The names stand in job files, and rejections are counted by them."""

    collision: bool = False
    off_road: bool = False
    impossible_motion: bool = False
    unfulfilled: bool = False


NOTHING_AMISS = Accept()

Kept = Callable[[Agents, NDArray[np.generic]], NDArray[np.bool_]]
"""Which agents keep a rule, (N,), of agents and the drivable area."""

RULES: dict[str, Kept] = {
    "off_road": lambda agents, drivable: ~leaves_road(agents, drivable),
    "impossible_motion": lambda agents, drivable: kinematics.possible(agents),
    "collision": lambda agents, drivable: apart(agents),
}
"""What agents must not do, in the words of `Accept`; an agent that breaks one is not looked at for the next."""


class Verdict(NamedTuple):
    """rejected: the reason, None for an accepted attempt. agents: those that stay. left_out: how many did not, why."""

    rejected: str | None
    agents: Agents
    left_out: Counter[str]


def judge(
    agents: Agents, tokens: AgentTokens, drivable: NDArray[np.generic], accept: Accept, ttc_s: Span | None = None
) -> Verdict:
    """Judge the agents of an attempt, whose `token_index` is set.

    An agent that breaks a rule is left out; where it is the AV or one that was asked for, the attempt is rejected.
    drivable: (256, 256), not 0 = drivable. ttc_s: range of the smallest time to collision of the AV with those that
    were asked for.
    """
    left_out: Counter[str] = Counter()

    def rejected(reason: str) -> Verdict:
        return Verdict(reason, agents, left_out)

    if not _ego_at_origin(agents):
        return rejected("no_ego")
    for reason, kept in RULES.items():
        if getattr(accept, reason):
            continue
        stay = kept(agents, drivable)
        if not stay[asked_for(agents)].all():
            return rejected(reason)
        left_out += Counter({reason: int((~stay).sum())})
        agents = agents.take(stay)
    if not accept.unfulfilled and (fulfilling(tokens, agents) < 0).any():
        return rejected("unfulfilled")
    if ttc_s is not None and not ttc_s.contains(ttc_with_asked_s(agents)):
        return rejected("severity")
    return Verdict(None, agents, left_out)


def asked_for(agents: Agents) -> NDArray[np.bool_]:
    """The AV and the agents that tokens ask for, (N,)."""
    return agents.is_ego | (agents.token_index >= 0) if agents.token_index is not None else agents.is_ego


def ttc_with_asked_s(agents: Agents) -> float:
    """Smallest time to collision of the AV with an agent that was asked for [s]; inf where none closes in."""
    asked = asked_for(agents) & ~agents.is_ego
    return float(min_ttc_s(agents)[np.ix_(agents.is_ego, asked)].min(initial=np.inf))


def apart(agents: Agents) -> NDArray[np.bool_]:
    """Which agents stay, (N,), so that no two boxes meet at any pose; of two that do, the more probable one does.

    The ego and the agents that tokens ask for come first; of these the ego.
    """
    meets = meetings(agents)
    score = np.zeros(len(agents)) if agents.score is None else agents.score
    stay = np.zeros(len(agents), bool)
    for i in np.lexsort((-score, ~asked_for(agents), ~agents.is_ego)):
        stay[i] = not meets[i, stay].any()
    return stay


def _ego_at_origin(agents: Agents) -> bool:
    ego = np.flatnonzero(agents.is_ego)
    return len(ego) == 1 and bool(
        np.hypot(agents.x_m[ego[0], STEPS_PAST], agents.y_m[ego[0], STEPS_PAST]) <= EGO_WITHIN_M
    )
