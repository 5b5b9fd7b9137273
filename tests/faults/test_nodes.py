"""Nodes that go away: a teacher node in mid-generation, the head between two stages."""

import secrets
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.cluster_process import start_cluster
from support.ray_head import running_head
from support.small_experiment import finish, run, start, wait_until, write_experiment

from tinyllm_ray import storage
from tinyllm_ray.data import store

pytestmark = [pytest.mark.engine, pytest.mark.faults]
TRAIN = 800


def test_a_teacher_node_killed_in_mid_generation_loses_no_row(tmp_path: Path, record_fault: Callable) -> None:
    nodes = start_cluster(teachers=2, students=1)
    try:
        pools = {"address": nodes.address, "teacher": {"workers": 2, "resource": "teacher_pool"}}
        sizes = {"train": TRAIN, "validation": 8, "test": 8}
        path = write_experiment(tmp_path, pools=pools, sizes=sizes, prompts={"rationale_splits": ["train"]})
        running = start("generate", path, env=nodes.env)
        wait_until(lambda: len(parts(tmp_path)) >= 5, running=running)
        nodes.kill_node("teacher-0")
        there = len(parts(tmp_path))
        assert there < TRAIN // 8, "all was done before the node went"
        seconds = wait_until(lambda: len(parts(tmp_path)) > there + 2, running=running)
        finish(running)
    finally:
        nodes.stop()
    (folder,) = {str(Path(part).parents[1]) for part in parts(tmp_path)}
    lost = TRAIN - len(set(store.read(folder, "train", ["question_id"])["question_id"].to_pylist()))
    twice = store.count_twice(folder, "train")
    assert (lost, twice) == (0, 0)
    record_fault("teacher node (raylet) killed", rows_lost=lost, rows_twice=twice, seconds=seconds)


def parts(folder: Path) -> list[str]:
    return storage.list_files(f"{folder}/out/stores", ".parquet")


def test_a_head_restarted_between_two_stages_costs_nothing_that_is_stored(
    tmp_path: Path, record_fault: Callable
) -> None:
    path = write_experiment(tmp_path)
    settings = {"token": secrets.token_hex(32), "resources": '{"teacher_pool": 1, "student_pool": 1}'}
    with running_head(**settings) as head:
        first = run("generate", path, f"pools.address={head.address}", env=head.env)
    assert first["teacher_rows_generated"] == 112
    began = time.monotonic()
    with running_head(**settings) as head:
        seconds = time.monotonic() - began
        again = run("generate", path, f"pools.address={head.address}", env=head.env)
        trained = run("train", path, f"pools.address={head.address}", env=head.env)
    assert (again["teacher_rows_generated"], again["teachers"]["one"]["found"]) == (0, 112)
    assert trained["trials"][0]["steps"] == 20
    record_fault("head restarted between stages", seconds=seconds)
