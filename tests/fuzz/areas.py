"""The areas of the fuzz run with their full sizes, each by the name that outputs/fuzz.json gives it."""

from collections.abc import Callable
from pathlib import Path

from fuzz.counting import Counts
from fuzz.damaged_files import fuzz_damaged
from fuzz.endpoint import fuzz_endpoint
from fuzz.experiment_files import fuzz_files, fuzz_overrides
from fuzz.models import fuzz_models
from fuzz.real_run import fuzz_real_runs
from fuzz.rows import fuzz_rows
from fuzz.secrets import fuzz_secrets

KINDS = ("tracebacks", "good_refused", "bad_accepted", "wrong_readings", "unbounded", "secrets_found")
AREAS: dict[str, tuple[Callable[..., Counts], int]] = {
    "rows": (fuzz_rows, 10_000),
    "experiment_files": (fuzz_files, 1_000),
    "overrides": (fuzz_overrides, 500),
    "damaged_files": (fuzz_damaged, 100),
    "endpoint": (fuzz_endpoint, 70),
    "models": (fuzz_models, 40),
    "secrets": (fuzz_secrets, 20),
    "secrets_of_a_real_run": (fuzz_real_runs, 1),
}


def run_area(name: str, *, seed: int, folder: Path, share: float) -> Counts:
    """A share of an area's full size, at least one case."""
    fuzz, number = AREAS[name]
    return fuzz(max(1, round(number * share)), seed=seed, folder=folder)
