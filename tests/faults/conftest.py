"""Each test of a fault hands in the figure that `make faults` prints."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.small_experiment import STARTED

Record = Callable[..., None]
# The longest come first, so that no worker ends alone.
LONGEST = ("lost_student_node", "killed_in_a_search", "away_for_60", "damaged", "killed_in_training", "head_restarted")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        found = [number for number, part in enumerate(LONGEST) if part in item.name]
        return found[0] if found else len(LONGEST)

    here = [item for item in items if Path(__file__).parent in item.path.parents]
    items[:] = [item for item in items if item not in here] + sorted(here, key=rank)


@pytest.fixture(autouse=True)
def nothing_runs_on() -> Iterator[None]:
    """A command that a failed test left behind would slow down the tests after it."""
    yield
    while STARTED:
        STARTED.pop().kill()


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
