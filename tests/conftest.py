"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real driving data, named by SDIFF_REAL_DATA; the test is skipped where it is unset."""
    folder = os.environ.get("SDIFF_REAL_DATA")
    if not folder:
        pytest.skip("SDIFF_REAL_DATA is unset: no real driving data")
    return Path(folder)
