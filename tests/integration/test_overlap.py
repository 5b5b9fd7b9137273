"""Training that starts while the teachers write, on a cluster of two raylets."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster_process import RunningCluster, start_cluster
from support.held_teacher import held_teacher
from support.small_experiment import finish, run, start, wait_until, write_experiment

from tinyllm_ray import storage
from tinyllm_ray.data import store

pytestmark = pytest.mark.engine
TRAIN, OTHER, WINDOW, BATCH = 160, 16, 32, 8
SIZES = {"train": TRAIN, "validation": OTHER, "test": OTHER}
OVERLAP = {"schedule": "overlap", "overlap": {"window_rows": WINDOW}}
TRAINING = {"steps": 30, "batch_size": BATCH, "eval_every_steps": 10, "checkpoint_every_steps": 5}


@pytest.fixture(scope="module")
def nodes() -> Iterator[RunningCluster]:
    cluster = start_cluster(teachers=1, students=1)
    yield cluster
    cluster.stop()


def first_epoch(out: Path) -> list[dict]:
    parts = sorted(out.glob("trials/*/first_epoch/*.jsonl"))
    return [json.loads(line) for part in parts for line in part.read_text().splitlines()]


def assert_each_row_once(out: Path) -> None:
    """Each wanted row is stored once, and each question is in one step of the first epoch."""
    (closed,) = out.glob("arrivals/*/closed.json")
    first = json.loads(closed.read_text())["first_epoch"]
    lines = first_epoch(out)
    trained = [question for line in lines for shard in line["shards"] for question in shard]
    assert len(lines) == -(-first // BATCH)
    assert Counter(trained[:first]).most_common(1)[0][1] == 1
    (folder,) = {str(Path(part).parents[1]) for part in storage.list_files(f"{out}/stores", ".parquet")}
    assert store.count_twice(folder, "train") == 0


def test_training_starts_while_the_teacher_writes(nodes: RunningCluster, tmp_path: Path) -> None:
    """Half of the rows can be written before the first checkpoint, and no more."""
    out = tmp_path / "out"
    with held_teacher(free=TRAIN // 2 + OTHER) as (sections, go_on):
        pools = {"address": nodes.address, **OVERLAP}
        path = write_experiment(tmp_path, sizes=SIZES, pools=pools, training=TRAINING, **sections)
        running = start("train", path, env=nodes.env)
        wait_until(lambda: list(out.glob("trials/*/checkpoints/*/state.json")), running=running)
        assert not list(out.glob("arrivals/*/closed.json"))
        go_on.set()
        result = finish(running)
    assert result["teacher_rows_generated"] == TRAIN + OTHER
    assert_each_row_once(out)
    last_part = max(path.stat().st_mtime for path in out.glob("arrivals/*/parts/*/part.json"))
    assert first_epoch(out)[0]["time"] / 1000 < last_part


def test_with_a_real_engine_each_row_is_written_once_and_trained_once_in_the_first_epoch(
    nodes: RunningCluster, tmp_path: Path
) -> None:
    pools = {"address": nodes.address, **OVERLAP}
    path = write_experiment(tmp_path, sizes=SIZES, pools=pools, training=TRAINING)
    result = run("train", path, env=nodes.env)
    again = run("train", path, env=nodes.env)
    assert result["teacher_rows_generated"] == TRAIN + OTHER
    assert again["teacher_rows_generated"] == 0 and again["trials"] == result["trials"]
    assert_each_row_once(tmp_path / "out")
