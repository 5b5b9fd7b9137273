"""Training that starts while the teachers write: with a real engine, on a cluster of two raylets."""

import json
from collections import Counter
from pathlib import Path

import pytest
from support.cluster_process import start_cluster
from support.small_experiment import run, write_experiment

from tinyllm_ray import storage
from tinyllm_ray.data import store

pytestmark = pytest.mark.engine
TRAIN = 400
SLOWLY = "teachers.one.sampling.max_tokens=100"
SIZES = {"train": TRAIN, "validation": 16, "test": 16}
OVERLAP = {"schedule": "overlap", "overlap": {"window_rows": 32}}


def first_epoch(folder: Path) -> list[dict]:
    parts = sorted(folder.glob("trials/*/first_epoch/*.jsonl"))
    return [json.loads(line) for part in parts for line in part.read_text().splitlines()]


def test_training_starts_while_the_teacher_writes_and_each_row_is_trained_once_in_the_first_epoch(
    tmp_path: Path,
) -> None:
    nodes = start_cluster(teachers=1, students=1)
    try:
        training = {"steps": 60, "eval_every_steps": 30, "checkpoint_every_steps": 20}
        pools = {"address": nodes.address, **OVERLAP}
        path = write_experiment(tmp_path, sizes=SIZES, pools=pools, training=training)
        result = run("train", path, SLOWLY, env=nodes.env)
        again = run("train", path, SLOWLY, env=nodes.env)
    finally:
        nodes.stop()
    assert result["teacher_rows_generated"] == TRAIN + 16
    assert again["teacher_rows_generated"] == 0 and again["trials"] == result["trials"]
    lines = first_epoch(tmp_path / "out")
    (journal,) = tmp_path.glob("out/arrivals/*/closed.json")
    first = json.loads(journal.read_text())["first_epoch"]
    trained = [question for line in lines for shard in line["shards"] for question in shard]
    assert len(lines) == -(-first // 8)
    assert Counter(trained[:first]).most_common(1)[0][1] == 1
    last_part = max(path.stat().st_mtime for path in tmp_path.glob("out/arrivals/*/parts/*/part.json"))
    assert lines[0]["time"] / 1000 < last_part, "the first step was not before the last rows came"
    (folder,) = {str(Path(part).parents[1]) for part in storage.list_files(f"{tmp_path}/out/stores", ".parquet")}
    assert store.count_twice(folder, "train") == 0
