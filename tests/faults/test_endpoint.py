"""A server that answers every second request in another wrong way: the rows fail alone, and the next run makes them."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from support.hostile_endpoint import CAP_MIB, LATE, MODES, Mode, Parts, Request, completion, hostile, says
from support.small_experiment import run, write_experiment

from tinyllm_ray.data import store

pytestmark = [pytest.mark.engine, pytest.mark.faults]

WRONG = [mode for mode in MODES if mode.failure and mode.failure != LATE and not mode.retries]
ROWS = {"train": 160, "validation": 16, "test": 4}


def test_a_hostile_server_fails_single_rows_which_the_next_run_makes(
    shared_ray: dict[str, str], tmp_path: Path, record_fault: Callable
) -> None:
    healed = threading.Event()

    def answer(request: Request) -> Parts:
        wrong = request.number % 2 and not healed.is_set()
        mode = WRONG[request.number // 2 % len(WRONG)]
        return mode.answer(request) if wrong else says(completion("It is so. Thus, the answer is (a)."))(request)

    with hostile(Mode("every second request", answer)) as url:
        engine = {"type": "endpoint", "url": url, "concurrency": 8, "max_retries": 0, "max_answer_mib": CAP_MIB}
        teacher = {"name": "one", "model": "m", "engine": engine, "max_attempts": 1, "max_failed_fraction": 1.0}
        prompts = {"chat_template": "always", "in_context": {"examples": 0}}
        path = write_experiment(tmp_path, sizes=ROWS, teachers=[teacher], prompts=prompts)
        first = run("generate", path, "teachers.one.engine.timeout_s=3", env=shared_ray)["teachers"]["one"]
        failed = sum(first["failed"].values())
        assert failed >= len(WRONG)  # every way to be wrong was met
        assert first["generated"] == first["wanted"] - failed > 0
        healed.set()
        second = run("generate", path, env=shared_ray)["teachers"]["one"]
    assert (second["found"], second["generated"], second["failed"]) == (first["generated"], failed, {})
    (folder,) = {str(part.parents[1]) for part in tmp_path.glob("out/stores/**/*.parquet")}
    kept = {split: store.read(folder, split, ["key"])["key"].to_pylist() for split in ("train", "validation")}
    lost = second["wanted"] - sum(len(set(keys)) for keys in kept.values())
    twice = sum(store.count_twice(folder, split) for split in kept)
    assert (lost, twice) == (0, 0)
    record_fault("hostile endpoint", rows_lost=lost, rows_twice=twice, seconds=second["wall_s"])
