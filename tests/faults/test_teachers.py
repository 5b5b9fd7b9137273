"""Teachers whose driver or engine is killed with SIGKILL in the middle: nothing lost, nothing twice."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import ray
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


def wait_for(condition: Callable[[], bool], *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)


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
    driver = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    try:
        wait_for(lambda: len(parts(folder)) >= 3 or driver.poll() is not None, seconds=300)
        assert driver.poll() is None, "the driver ended by itself"
    finally:
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    time.sleep(1)
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
        wait_for(lambda: len(parts(folder)) >= 2, seconds=300)
        for process in psutil.Process().children(recursive=True):
            if "VllmActor" in " ".join(process.cmdline()):
                process.kill()
                killed.append(process.pid)
        began, there = time.monotonic(), len(parts(folder))
        wait_for(lambda: len(parts(folder)) > there, seconds=300)
        recovered_s.append(time.monotonic() - began)

    killer = threading.Thread(target=kill_engine)
    killer.start()
    report = run_here(str(tmp_path), llama)["decoder"]
    killer.join()
    assert len(killed) == 1
    assert (report.generated, report.failed) == (ROWS, {})
    rows = store.read(folder, "train", ["question_id"]).to_pylist()
    assert {row["question_id"] for row in rows} == {f"q{i}" for i in range(ROWS)}
    assert store.count_twice(folder, "train") == 0
    record_fault("engine actor killed in mid-generation", seconds=recovered_s[0])
