"""Each test of a fault hands in the figure that `make faults` prints."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.small_experiment import Running

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


@pytest.fixture
def wait_until() -> Callable[..., float]:
    """wait_until(condition, running=command) -> seconds it took; fails with what the command said where that ends."""

    def wait(condition: Callable[[], object], *, running: Running, timeout_s: float = 200) -> float:
        began = time.monotonic()
        while not condition():
            assert running.process.poll() is None, running.said()
            assert time.monotonic() - began < timeout_s, f"it did not come about in {timeout_s} s: {running.said()}"
            time.sleep(0.05)
        return time.monotonic() - began

    return wait
