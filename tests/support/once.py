"""What takes long to make is made once for a run of the suite, although several worker processes share its tests."""

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def once_per_run(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Any]) -> tuple[Path, Any]:
    """A folder that all workers share and what `make(folder)` returned, as JSON holds it.

    The worker that asks first makes it, and those that ask meanwhile wait for it. Where making it fails, the next one
    that asks tries again in an empty folder.
    """
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with Path(shared, f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = Path(shared, f"{name}.json")
        if not made.is_file():
            tries = len(list(shared.glob(f"{name}-*")))
            folder = shared / f"{name}-{tries}"
            folder.mkdir()
            made.write_text(json.dumps([str(folder), make(folder)]))
        folder, result = json.loads(made.read_text())
    return Path(folder), result
