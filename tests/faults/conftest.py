"""Each test of a fault hands in the figure that `make faults` prints."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

Record = Callable[..., None]


@pytest.fixture
def record_fault(request: pytest.FixtureRequest) -> Record:
    """record_fault(fault, seconds=..., rows_lost=0, rows_twice=0, metrics_lost=0), once what must hold was checked."""

    def record(fault: str, *, seconds: float, rows_lost: int = 0, rows_twice: int = 0, metrics_lost: int = 0) -> None:
        row = {"fault": fault, "rows_lost": rows_lost, "rows_twice": rows_twice, "metrics_lost": metrics_lost}
        row |= {"recovered": True, "seconds": round(seconds, 1), "test": request.node.name}
        if "TINYLLM_FAULTS" in os.environ:
            with Path(os.environ["TINYLLM_FAULTS"]).open("a") as file:
                file.write(json.dumps(row) + "\n")

    return record
