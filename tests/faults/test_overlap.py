"""Teachers and student at work at once, and one of them is killed: nothing is written twice, nothing trained twice."""

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from support.small_experiment import Running, finish, kill_driver, start, wait_until, write_experiment

from tinyllm_ray import storage
from tinyllm_ray.data import store
from tinyllm_ray.student.stream import open_training

pytestmark = [pytest.mark.engine, pytest.mark.faults]
TRAIN, OTHER, BATCH, INTERVAL = 640, 16, 8, 5
SLOWLY = "teachers.one.sampling.max_tokens=100"
SIZES = {"train": TRAIN, "validation": OTHER, "test": OTHER}


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """Two ranks; the first epoch has 80 steps."""
    training = {"steps": 100, "batch_size": BATCH, "eval_every_steps": 50, "checkpoint_every_steps": INTERVAL}
    pools = {"schedule": "overlap", "overlap": {"window_rows": 64}, "student": {"workers": 2}}
    return write_experiment(tmp_path, sizes=SIZES, training=training, pools=pools)


def test_a_rank_killed_while_the_teacher_writes_sees_the_same_rows_again(
    experiment: Path, record_fault: Callable
) -> None:
    out = experiment.parent / "out"
    running = start("train", experiment, SLOWLY)
    wait_until(lambda: newest(out) >= 2 * INTERVAL, running=running)
    ranks = processes(running, "RayTrainWorker")
    assert len(ranks) == 2
    reached, before = newest(out), recorded(out)
    assert not closed(out), "all was written before the rank went"
    ranks[1].kill()
    seconds = wait_until(lambda: newest(out) > reached, running=running)
    result = finish(running)
    assert result["teacher_rows_generated"] == TRAIN + OTHER
    assert_each_row_once(out)
    assert recorded(out)[:reached] == before[:reached]
    record_fault("rank killed while the teacher writes", rows_twice=rows_twice(out), seconds=seconds)


def test_an_engine_killed_while_the_student_trains_costs_nothing(experiment: Path, record_fault: Callable) -> None:
    out = experiment.parent / "out"
    running = start("train", experiment, SLOWLY)
    wait_until(lambda: newest(out) >= INTERVAL, running=running)
    (engine,) = processes(running, "Seq2SeqActor")
    assert not closed(out), "all was written before the engine went"
    engine.kill()
    there = len(parts(out))
    seconds = wait_until(lambda: len(parts(out)) > there + 1, running=running)
    result = finish(running)
    assert result["teacher_rows_generated"] == TRAIN + OTHER
    assert_each_row_once(out)
    record_fault("engine killed while the student trains", rows_twice=rows_twice(out), seconds=seconds)


def test_a_driver_killed_with_both_pools_at_work_is_continued_by_the_same_command(
    experiment: Path, record_fault: Callable
) -> None:
    out = experiment.parent / "out"
    running = start("train", experiment, SLOWLY)
    wait_until(lambda: newest(out) >= 2 * INTERVAL, running=running)
    assert not closed(out), "all was written before the driver went"
    kill_driver(running.process)
    reached, before, stored = newest(out), recorded(out), rows_stored(out)
    assert 0 < stored < TRAIN
    began = time.monotonic()
    again = start("train", experiment, SLOWLY)
    wait_until(lambda: newest(out) > reached, running=again)
    seconds = time.monotonic() - began
    result = finish(again)
    assert result["teacher_rows_generated"] == TRAIN + OTHER - stored
    assert_each_row_once(out)
    assert recorded(out)[:reached] == before[:reached]
    record_fault("driver killed with both pools at work", rows_twice=rows_twice(out), seconds=seconds)


def assert_each_row_once(out: Path) -> None:
    """Every wanted row is stored once; every question is in one step of the first epoch, the one of its order."""
    assert rows_stored(out) == TRAIN + OTHER
    assert rows_twice(out) == 0
    steps = recorded(out)
    assert len(steps) == TRAIN // BATCH
    assert Counter(question for rows in steps for question in rows) == dict.fromkeys(question_ids(out), 1)
    (grown,) = out.glob("features/*.parts")
    stream = open_training(str(grown).removesuffix(".parts"), seed=0)
    for step, rows in enumerate(steps):
        taken, places = stream.of_step(step, batch_size=BATCH)
        assert sorted(taken.question_ids[places].tolist()) == rows


def question_ids(out: Path) -> list[str]:
    (path,) = out.glob("questions/*/train.parquet")
    return storage.read_table(str(path), ["question_id"])["question_id"].to_pylist()


def recorded(out: Path) -> list[list[str]]:
    """Question ids of each step of the first epoch; each step is recorded once."""
    lines = [
        json.loads(line)
        for path in sorted(out.glob("trials/*/first_epoch/*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [sorted(question for shard in line["shards"] for question in shard) for line in lines]


def newest(out: Path) -> int:
    """Step of the newest whole checkpoint."""
    return max((int(path.parent.name) for path in out.glob("trials/*/checkpoints/*/state.json")), default=0)


def closed(out: Path) -> bool:
    return bool(list(out.glob("arrivals/*/closed.json")))


def parts(out: Path) -> list[str]:
    return storage.list_files(f"{out}/stores", ".parquet")


def store_folder(out: Path) -> str:
    (folder,) = {str(Path(part).parents[1]) for part in parts(out)}
    return folder


def rows_stored(out: Path) -> int:
    return sum(len(store.read(store_folder(out), split, ["key"])) for split in ("train", "validation"))


def rows_twice(out: Path) -> int:
    return sum(store.count_twice(store_folder(out), split) for split in ("train", "validation"))


def processes(running: Running, name: str) -> list[psutil.Process]:
    children = psutil.Process(running.process.pid).children(recursive=True)
    return [process for process in children if name in " ".join(process.cmdline())]
