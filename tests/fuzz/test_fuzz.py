"""A short run of every area with a fixed seed; the long one is `make fuzz`."""

from pathlib import Path

import pytest
from fuzz.areas import AREAS, run_area

from tinyllm_ray import redact

SHARES = {
    "rows": 0.1,
    "experiment_files": 0.2,
    "overrides": 0.4,
    "damaged_files": 0.4,
    "endpoint": 0.2,
    "models": 0.5,
    "secrets": 1.0,
    "secrets_of_a_real_run": 1.0,
}
ENGINE = {"secrets_of_a_real_run"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.engine] * (n in ENGINE)) for n in AREAS])
def test_nothing_ends_in_a_traceback_or_is_read_wrongly(name: str, tmp_path: Path) -> None:
    counts = run_area(name, seed=14, folder=tmp_path, share=SHARES[name])
    assert counts.tried > 0
    assert counts.faults() == 0, "\n".join(counts.examples)


def test_the_search_for_secrets_finds_those_that_nothing_takes_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redact, "_SHAPES", ())
    monkeypatch.setattr(redact, "is_secret_name", lambda name: False)
    assert run_area("secrets", seed=14, folder=tmp_path, share=1.0).secrets_found >= 12
