"""Teachers whose driver or engine is killed with SIGKILL in the middle: nothing lost, nothing twice."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
from support.small_experiment import Running, kill_driver, processes_of, wait_until
from support.tiny_teachers import experiment, question_files, save_llama

from tinyllm_ray import storage
from tinyllm_ray.data import store
from tinyllm_ray.schema import Experiment
from tinyllm_ray.teachers.pipeline import TeacherReport, generate, rationale_store

pytestmark = [pytest.mark.engine, pytest.mark.faults]

ROWS, BATCH = 160, 8


def spec_of(model: str) -> Experiment:
    return experiment({"name": "decoder", "model": model, "batch_size": BATCH, "sampling": {"max_tokens": 48}})


def run_here(folder: str, model: str) -> dict[str, TeacherReport]:
    """What both drivers do; the first is killed in the middle of it."""
    ray.init("local", num_cpus=4, resources={"teacher_pool": 1, "student_pool": 2}, include_dashboard=False)
    try:
        files = question_files(Path(folder) / "questions", train=ROWS)
        return generate(spec_of(model), output_dir=f"{folder}/out", questions=files)
    finally:
        ray.shutdown()


def parts(folder: str) -> list[str]:
    return storage.list_files(folder, ".parquet")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_llama(tmp_path_factory.mktemp("llama"))


def test_a_driver_killed_in_the_middle_loses_no_row_and_makes_none_twice(
    llama: str, tmp_path: Path, record_fault: Callable
) -> None:
    folder = rationale_store(spec_of(llama), "decoder", output_dir=str(tmp_path / "out"))
    here = Path(__file__)
    code = (
        f"import sys; sys.path[:0] = [{str(here.parent)!r}, {str(here.parents[1])!r}]; "
        f"import test_teachers; test_teachers.run_here({str(tmp_path)!r}, {llama!r})"
    )
    log = tmp_path / "driver.log"
    with log.open("w") as said:
        driver = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=said, stderr=said)
    try:
        wait_until(lambda: len(parts(folder)) >= 3, running=Running(driver, log))
    finally:
        kill_driver(driver)
    stored = {row["key"] for row in store.read(folder, "train", ["key"]).to_pylist()}
    assert len(stored) == BATCH * len(parts(folder)) < ROWS

    began = time.monotonic()
    report = run_here(str(tmp_path), llama)["decoder"]
    seconds = time.monotonic() - began
    assert (report.wanted, report.found, report.generated) == (ROWS, len(stored), ROWS - len(stored))
    rows = store.read(folder, "train").to_pylist()
    assert {row["question_id"] for row in rows} == {f"q{i}" for i in range(ROWS)}
    assert store.count_twice(folder, "train") == 0
    assert stored < {row["key"] for row in rows}
    record_fault("driver killed in generation", seconds=seconds)


def test_a_run_goes_on_when_its_engine_is_killed(llama: str, tmp_path: Path, record_fault: Callable) -> None:
    folder = rationale_store(spec_of(llama), "decoder", output_dir=str(tmp_path / "out"))
    killed: list[int] = []
    recovered_s: list[float] = []

    def kill_engine() -> None:
        wait_until(lambda: len(parts(folder)) >= 2)
        for process in processes_of(os.getpid(), "VllmActor"):
            process.kill()
            killed.append(process.pid)
        there = len(parts(folder))
        recovered_s.append(wait_until(lambda: len(parts(folder)) > there))

    killer = threading.Thread(target=kill_engine, daemon=True)
    killer.start()
    report = run_here(str(tmp_path), llama)["decoder"]
    killer.join()
    assert len(killed) == 1
    assert (report.generated, report.failed) == (ROWS, {})
    rows = store.read(folder, "train", ["question_id"]).to_pylist()
    assert {row["question_id"] for row in rows} == {f"q{i}" for i in range(ROWS)}
    assert store.count_twice(folder, "train") == 0
    record_fault("engine actor killed in mid-generation", seconds=recovered_s[0])
