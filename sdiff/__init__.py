"""Directed driving scenarios, at scale."""

__version__ = "0.2.0"

KINDS = ("car", "truck", "bus", "motorcyclist", "cyclist", "pedestrian", "vehicle", "other")
"""Kinds of agents, in the order of their codes. `vehicle` = the source does not say which kind of vehicle."""

VEHICLE_KINDS = ("car", "truck", "bus", "motorcyclist", "vehicle")
"""Kinds that belong on the carriageway."""

VRU_KINDS = ("motorcyclist", "cyclist", "pedestrian")
"""Vulnerable road users."""

WINDOW_M = 100.0
"""Side of the square window [m]."""

STEP_S = 0.1
"""Time between two poses of a track [s]."""
