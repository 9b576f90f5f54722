"""The embedded source of driving logs: the traffic simulator SUMO on real and on generated street networks."""

from sdiff.simulate.runs import simulate

__all__ = ["simulate"]
