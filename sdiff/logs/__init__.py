"""Driving logs: one file per source format, each with `read(uri) -> Iterator[DrivingLog]`."""
