"""Damaged files cost themselves alone: a hundred mutations of each format; more in benchmarks/fuzz_readers.py."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import sources
from mutations import mutated

from sdiff import logs, raster, window_tables, windows
from sdiff.logs import quality
from sdiff.logs.driving_log import BadRecord, DrivingLog

MUTATIONS = 100


@pytest.mark.parametrize("format", logs.FORMATS)
def test_a_damaged_file_is_logs_or_bad_records(format: str, tmp_path: Path) -> None:
    source, reader = str(sources.write(format, tmp_path)), logs.reader(format)
    files = [Path(uri.removeprefix("file://")) for uri in logs.files(reader, source)]
    whole = [file.read_bytes() for file in files]
    counts = {DrivingLog: 0, BadRecord: 0}
    for seed in range(MUTATIONS):
        random = np.random.default_rng(seed)
        victim = int(random.integers(len(files)))
        files[victim].write_bytes(mutated(files[victim].name, whole[victim], random))
        letters: list[BadRecord] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of arithmetic with absurd numbers
            try:
                for item in reader.read(source):
                    counts[type(item)] += 1
                    if isinstance(item, DrivingLog):
                        item.validate()
                        window_tables.maps_table(item.map)
                        raster.MapIndex.of(item.map)
                        for _ in windows.cut(quality.mend(item), 2.0):
                            pass
                    else:
                        letters.append(item)
            except BadRecord as error:
                counts[BadRecord] += 1
                letters.append(error)
        assert all(bad.reason for bad in letters)
        window_tables.dead_letters_table([(source, bad.record, bad.stage, bad.reason) for bad in letters])
        files[victim].write_bytes(whole[victim])
    assert min(counts.values()) > MUTATIONS // 10, counts
