"""Tokens that promise a severity: draws of a directive whose time to collision is as wanted."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sdiff import STEP_S
from sdiff.directives.directive import (
    Agent,
    Directive,
    DoesNotFit,
    End,
    LoggedAgents,
    Logs,
    OnLane,
    joined,
    overlapping,
    resolve,
    size_m,
    written_tokens,
)
from sdiff.directives.judging import NOTHING_AMISS, RULES, Accept
from sdiff.geometry import wrap_angle
from sdiff.maps.places import Place
from sdiff.metrics.safety import min_ttc_s
from sdiff.scene import STEPS_FUTURE, STEPS_PAST, Agents, AgentTokens, SceneToken
from sdiff.span import Span
from sdiff.tokens import END_S

DRAWS = 50
"""Draws of a directive's ranges until one fits the place."""
CROSSED, ROUNDS = 8, 8
"""Where a severity is wanted: of so many draws each AV is tried with each draw's others, so many times."""
INWARD = 0.2
"""What is promised lies this share of the wanted range inside its ends: scenes miss what is asked by a little."""


def steered(
    directive: Directive,
    place: Place,
    logs: Logs,
    rng: np.random.Generator,
    drivable: NDArray[np.generic],
    accept: Accept = NOTHING_AMISS,
) -> tuple[AgentTokens, SceneToken]:
    """As `resolve`, with ranges drawn until they fit the place, break no rule, and promise the severity that is wanted.

    That is a time to collision inside the wanted range, by what the tokens say; every combination of values that has it
    is as likely as the directive makes it. The AV then follows its lane where its end is not given. drivable, accept:
    as for `judge`, some of whose rules hold for what the tokens say, too. Raises DoesNotFit where no draw will do.
    """
    wanted = directive.severity.ttc_s
    margin = 0.0 if wanted is None else INWARD * (wanted.high - wanted.low)
    inside = None if wanted is None else Span(wanted.low + margin, wanted.high - margin)
    if inside is not None and isinstance(directive.ego, Agent) and directive.ego.end in (None, "free"):
        directive = replace(directive, ego=replace(directive.ego, end=End(pose=OnLane(("ego",)))))
    misfit = DoesNotFit("severity_out_of_reach")
    for _ in range(DRAWS if inside is None else ROUNDS):
        try:
            if inside is None:
                candidates: Iterable[AgentTokens] = [written_tokens(directive, place, rng)]
            else:
                candidates = _promising(directive, place, rng, inside)
        except DoesNotFit as error:
            misfit = error
            continue
        for written in candidates:
            try:
                tokens, scene = resolve(directive, place, logs, rng, written)
                if inside is None or inside.contains(promised_ttc_s(tokens)):
                    if not any(isinstance(a, LoggedAgents) for a in directive.agents):  # what was logged was driven
                        _keeps_rules(tokens, drivable, accept)
                    return tokens, scene
            except DoesNotFit as error:
                misfit = error
    raise misfit


def _promising(directive: Directive, place: Place, rng: np.random.Generator, inside: Span) -> Iterable[AgentTokens]:
    """Written tokens of an AV of one draw and others of another, in random order, that promise a time to collision.

    All draws where the directive does not write the AV out. Raises DoesNotFit where not one draw fits the place.
    """
    draws: list[AgentTokens] = []
    for _ in range(CROSSED):
        try:
            draws.append(written_tokens(directive, place, rng))
        except DoesNotFit as error:
            misfit = error
    if not draws:
        raise misfit
    if not isinstance(directive.ego, Agent):
        return draws
    rows = np.arange(len(draws[0]))
    egos, others = [d.take(rows[:1]) for d in draws], [d.take(rows[1:]) for d in draws]
    ttc_s = _promised_ttc_s(joined(egos + others))[: len(egos), len(egos) :]
    least_s = ttc_s.reshape(len(egos), len(others), len(rows) - 1).min(-1, initial=np.inf)
    met = rng.permutation(np.argwhere((inside.low <= least_s) & (least_s <= inside.high)))
    mixed = (joined([egos[i], others[j]]) for i, j in met)
    return (tokens for tokens in mixed if not overlapping(tokens))


def keeps_to_the_road(both_ends: list[AgentTokens], drivable: Callable[[], NDArray[np.generic]]) -> bool:
    """Whether agents that fit a place stay on the road until their ends, at both ends of every range.

    A bus does not that could only cut the corner. both_ends: as from `fits`. drivable: gives the area as for `judge`;
    called where it is needed.
    """
    every = [tokens.take(_told_both_ends(tokens)) for tokens in both_ends]
    return all(_keeps("off_road", tokens, drivable()) for tokens in every if len(tokens))


def _keeps_rules(tokens: AgentTokens, drivable: NDArray[np.generic], accept: Accept) -> None:
    """Raise DoesNotFit where agents that both ends are said of would leave the road or meet if they did as told."""
    tokens = tokens.take(_told_both_ends(tokens))
    for reason in ("off_road", "collision"):
        if not getattr(accept, reason) and not _keeps(reason, tokens, drivable):
            raise DoesNotFit(f"asks_for_{reason}")


def _keeps(rule: str, tokens: AgentTokens, drivable: NDArray[np.generic]) -> bool:
    return bool(RULES[rule](promised(tokens), drivable).all())


def _told_both_ends(tokens: AgentTokens) -> NDArray[np.bool_]:
    return np.isfinite(_told(tokens) + tokens.end_x_m + tokens.end_y_m)


def _told(tokens: AgentTokens) -> NDArray[np.floating]:
    """Finite where pose and speed at t0 are said."""
    return tokens.x_m + tokens.y_m + tokens.heading_rad + tokens.speed_mps


def promised_ttc_s(tokens: AgentTokens) -> float:
    """Smallest time to collision of the first token's agent with another's, as the tokens say they move [s].

    From t0 to +2 s; inf where none closes in. Tokens without pose and speed say nothing of it.
    """
    return float(_promised_ttc_s(tokens)[:1].min(initial=np.inf))


def _promised_ttc_s(tokens: AgentTokens) -> NDArray[np.float64]:
    """The same of each pair of tokens' agents, (K, K) [s]."""
    told = np.flatnonzero(np.isfinite(_told(tokens)))
    ttc_s = np.full((len(tokens), len(tokens)), np.inf)
    ttc_s[np.ix_(told, told)] = min_ttc_s(promised(tokens.take(told)))
    return ttc_s


def promised(tokens: AgentTokens) -> Agents:
    """The motion that tokens with a pose and a speed describe, valid from t0 on.

    A cubic between both ends' positions and velocities; straight on at its speed where no end is given.
    """
    start = np.stack([tokens.x_m, tokens.y_m], -1).astype(np.float64)
    end_speed = np.where(np.isnan(tokens.end_speed_mps), tokens.speed_mps, tokens.end_speed_mps)
    way = (tokens.speed_mps + end_speed)[:, None] / 2 * END_S * _unit(tokens.heading_rad)
    end = np.stack([tokens.end_x_m, tokens.end_y_m], -1)
    end = np.where(np.isnan(end), start + way, end)
    end_heading = np.where(np.isnan(tokens.end_heading_rad), tokens.heading_rad, tokens.end_heading_rad)
    v0, v1 = tokens.speed_mps[:, None] * _unit(tokens.heading_rad), end_speed[:, None] * _unit(end_heading)
    u = (np.arange(STEPS_FUTURE + 1) * STEP_S / END_S)[:, None, None]
    xy = (
        (2 * u**3 - 3 * u**2 + 1) * start
        + (u**3 - 2 * u**2 + u) * END_S * v0
        + (3 * u**2 - 2 * u**3) * end
        + (u**3 - u**2) * END_S * v1
    )
    velocity = 6 * (u**2 - u) / END_S * (start - end) + (3 * u**2 - 4 * u + 1) * v0 + (3 * u**2 - 2 * u) * v1
    turn = wrap_angle(end_heading - tokens.heading_rad)
    heading = wrap_angle(tokens.heading_rad + u[..., 0] * turn)
    n = len(tokens)
    length, width = size_m(tokens)
    seen = np.arange(STEPS_PAST + 1 + STEPS_FUTURE) >= STEPS_PAST
    return Agents(
        agent_id=np.array([f"token_{i}" for i in range(n)], np.str_),
        kind=np.maximum(tokens.kind, 0),
        length_m=length.astype(np.float32),
        width_m=width.astype(np.float32),
        is_ego=np.arange(n) == 0,
        x_m=_after_t0(xy[..., 0]),
        y_m=_after_t0(xy[..., 1]),
        heading_rad=_after_t0(heading),
        vx_mps=_after_t0(velocity[..., 0]),
        vy_mps=_after_t0(velocity[..., 1]),
        valid=np.broadcast_to(seen, (n, len(seen))),
    )


def _unit(heading_rad: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.stack([np.cos(heading_rad), np.sin(heading_rad)], -1)


def _after_t0(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """(21, N) from t0 on to (N, 41), 0 before."""
    found = np.zeros((values.shape[1], STEPS_PAST + len(values)), np.float32)
    found[:, STEPS_PAST:] = values.T
    return found
