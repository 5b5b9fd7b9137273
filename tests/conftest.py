"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests are small; threads only wait for one another
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """The published rationales; a test that needs them is skipped where they are not present."""
    folder = Path(os.environ.get("TINYLLM_REFERENCE_DATA", ROOT.parent / "shared" / "reference_data"))
    if not folder.is_dir():
        pytest.skip("the reference data is not on this machine (set TINYLLM_REFERENCE_DATA to its folder)")
    return folder
