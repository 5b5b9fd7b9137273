"""A short run of every area with a fixed seed; the long one is `make fuzz`."""

from pathlib import Path

import pytest
from fuzz.areas import AREAS, run_area

SHARES = {"rows": 0.1, "experiment_files": 0.2, "overrides": 0.4, "damaged_files": 0.4, "models": 0.5, "secrets": 1.0}


@pytest.mark.parametrize("name", AREAS)
def test_nothing_ends_in_a_traceback_or_is_read_wrongly(name: str, tmp_path: Path) -> None:
    counts = run_area(name, seed=14, folder=tmp_path, share=SHARES[name])
    assert counts.tried > 0
    assert counts.faults() == 0, "\n".join(counts.examples)
