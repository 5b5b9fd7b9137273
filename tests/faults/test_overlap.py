"""Teachers and student at work at once, and one of them is killed: nothing is written twice, nothing trained twice.

The teacher writes so many rows that the training reaches its second checkpoint and not the third one, and writes the
others when the test has killed what it wants to kill.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.held_teacher import BATCH as TEACHER_BATCH
from support.held_teacher import held_teacher
from support.small_experiment import Running, finish, kill_driver, processes_of, start, wait_until, write_experiment

from tinyllm_ray import storage
from tinyllm_ray.data import store
from tinyllm_ray.student.stream import open_training

pytestmark = [pytest.mark.engine, pytest.mark.faults]
TRAIN, OTHER, BATCH, INTERVAL, WINDOW = 320, 16, 8, 5, 64
REACHED = 2 * INTERVAL
# So many questions are ready at step REACHED; up to two batches of the teacher and one small part may be incomplete.
FREE = WINDOW + REACHED * BATCH + 2 * TEACHER_BATCH + 2 * BATCH
assert FREE < WINDOW + (REACHED + INTERVAL) * BATCH
SIZES = {"train": TRAIN, "validation": OTHER, "test": OTHER}


@dataclass(frozen=True)
class Held:
    experiment: Path
    go_on: threading.Event  # the teacher writes the rest
    out: Path

    def at_second_checkpoint(self) -> Running:
        """The `train` command, when its training waits for the teacher."""
        running = start("train", self.experiment)
        wait_until(lambda: newest(self.out) == REACHED, running=running)
        assert not list(self.out.glob("arrivals/*/closed.json"))
        return running


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    """Two ranks; the first epoch has 40 steps."""
    training = {"steps": 50, "batch_size": BATCH, "eval_every_steps": 25, "checkpoint_every_steps": INTERVAL}
    pools = {"schedule": "overlap", "overlap": {"window_rows": WINDOW}, "student": {"workers": 2}}
    with held_teacher(free=FREE) as (sections, go_on):
        experiment = write_experiment(tmp_path, sizes=SIZES, training=training, pools=pools, **sections)
        yield Held(experiment, go_on, tmp_path / "out")


def test_a_rank_killed_while_the_teacher_writes_sees_the_same_rows_again(held: Held, record_fault: Callable) -> None:
    running, out = held.at_second_checkpoint(), held.out
    ranks = processes_of(running.process.pid, "RayTrainWorker")
    assert len(ranks) == 2
    before = recorded(out)[:REACHED]
    ranks[1].kill()
    held.go_on.set()
    seconds = wait_until(lambda: newest(out) > REACHED, running=running)
    result = finish(running)
    assert result["teacher_rows_generated"] == TRAIN + OTHER
    assert_each_row_once(out)
    assert recorded(out)[:REACHED] == before
    record_fault("rank killed while the teacher writes", rows_twice=rows_twice(out), seconds=seconds)


def test_an_engine_killed_while_the_student_trains_costs_nothing(held: Held, record_fault: Callable) -> None:
    running, out = held.at_second_checkpoint(), held.out
    (engine,) = processes_of(running.process.pid, "EndpointActor")
    there = arrived(out)
    engine.kill()
    held.go_on.set()
    seconds = wait_until(lambda: arrived(out) > there, running=running)
    result = finish(running)
    assert result["teacher_rows_generated"] == TRAIN + OTHER
    assert_each_row_once(out)
    record_fault("engine killed while the student trains", rows_twice=rows_twice(out), seconds=seconds)


def test_a_driver_killed_with_both_pools_at_work_is_continued_by_the_same_command(
    held: Held, record_fault: Callable
) -> None:
    running, out = held.at_second_checkpoint(), held.out
    kill_driver(running.process)
    before, stored = recorded(out)[:REACHED], rows_stored(out)
    assert WINDOW + REACHED * BATCH <= stored <= FREE
    held.go_on.set()
    began = time.monotonic()
    again = start("train", held.experiment)
    wait_until(lambda: newest(out) > REACHED, running=again)
    seconds = time.monotonic() - began
    result = finish(again)
    assert result["teacher_rows_generated"] == TRAIN + OTHER - stored
    assert_each_row_once(out)
    assert recorded(out)[:REACHED] == before
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


def arrived(out: Path) -> int:
    return len(list(out.glob("arrivals/*/parts/*/part.json")))


def parts(out: Path) -> list[str]:
    return storage.list_files(f"{out}/stores", ".parquet")


def store_folder(out: Path) -> str:
    (folder,) = {str(Path(part).parents[1]) for part in parts(out)}
    return folder


def rows_stored(out: Path) -> int:
    return sum(len(store.read(store_folder(out), split, ["key"])) for split in ("train", "validation"))


def rows_twice(out: Path) -> int:
    return sum(store.count_twice(store_folder(out), split) for split in ("train", "validation"))
