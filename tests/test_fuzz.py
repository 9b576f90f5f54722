"""Damaged files cost themselves alone: a few hundred mutations; benchmarks/fuzz_readers.py does thousands."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import test_scenarionet
import test_waymo_motion
from mutations import mutated

from sdiff import logs
from sdiff.logs.driving_log import BadRecord, DrivingLog

MUTATIONS = 300


@pytest.mark.parametrize("format", ["scenarionet", "waymo_motion"])
def test_a_damaged_file_is_logs_or_bad_records(format: str, tmp_path: Path) -> None:
    if format == "scenarionet":
        source = Path(test_scenarionet.write(tmp_path, test_scenarionet.scenario()))
    else:
        scenarios = [test_waymo_motion.scenario(id=b"a"), test_waymo_motion.scenario(id=b"b")]
        source = Path(test_waymo_motion.write(tmp_path, *scenarios, name="a.tfrecord"))
    whole, reader = source.read_bytes(), logs.reader(format)
    counts = {DrivingLog: 0, BadRecord: 0}
    for seed in range(MUTATIONS):
        source.write_bytes(mutated(source.name, whole, np.random.default_rng(seed)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of arithmetic with absurd numbers
            try:
                for item in reader.read(str(source)):
                    counts[type(item)] += 1
                    if isinstance(item, DrivingLog):
                        item.validate()
            except BadRecord as error:
                assert error.reason
                counts[BadRecord] += 1
    assert min(counts.values()) > MUTATIONS // 10, counts
