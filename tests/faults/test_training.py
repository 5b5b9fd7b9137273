"""Training whose rank, node, driver or tracking server goes: it continues and ends as if nothing had happened."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.cluster_process import start_cluster
from support.mlflow_server import MlflowServer
from support.once import once_per_run
from support.small_experiment import (
    PATIENCE_S,
    finish,
    kill_driver,
    processes_of,
    run,
    start,
    wait_until,
    write_experiment,
)
from support.tiny_teachers import questions

from tinyllm_ray.data import store
from tinyllm_ray.rows import Rationale
from tinyllm_ray.tracking.read import Records

pytestmark = [pytest.mark.engine, pytest.mark.faults]
# A fault comes when three of twenty checkpoints are there: the rest is five times as long as the steps waited for.
STEPS, INTERVAL = 400, 20
AWAY_S = 60
Uninterrupted = Callable[[], "Whole"]
# Ray knows of a lost node after five seconds; then it need not wait long for a second rank that cannot come.
SOON = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10"}
TWO_RANKS = {"student": {"workers": 2, "min_workers": 1, "resource": "student_pool"}}


@dataclass(frozen=True)
class Whole:
    """A training that nothing befell."""

    losses: dict[int, float]  # train/loss by step
    weights: str  # sha256


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranks, and a store in place of the teacher, so that every run starts with the training."""
    folder, _ = once_per_run(tmp_path_factory, "trained-on-two-ranks", write_all)
    return folder / "small.yaml"


def write_all(folder: Path) -> None:
    training = {"steps": STEPS, "eval_every_steps": STEPS // 2, "checkpoint_every_steps": INTERVAL}
    search = {"space": {"training.learning_rate": {"grid": [0.001, 0.002, 0.003]}}, "num_samples": 1}
    search |= {"scheduler": "none", "searcher": "grid"}
    write_experiment(folder, training=training, search=search, pools=TWO_RANKS)
    store.open_store(f"{folder}/store", {"dataset": "words", "teacher": "one"})
    for split, rows in {"train": questions(96), "validation": questions(112)[96:]}.items():
        store.append(f"{folder}/store", split, [rationale(q.question_id, q.answer) for q in rows])


@pytest.fixture(scope="module")
def uninterrupted(experiment: Path, tmp_path_factory: pytest.TempPathFactory) -> Uninterrupted:
    """Made when the first fault that is compared with it is over, so that no worker waits for it at the start."""

    def made() -> Whole:
        folder, _ = once_per_run(tmp_path_factory, "uninterrupted", lambda out: train_in(experiment, out))
        return Whole(losses(folder), weights(folder))

    return made


def train_in(experiment: Path, out: Path) -> None:
    run("train", experiment, *settings(experiment, out))


def test_a_killed_rank_costs_at_most_a_checkpoint_interval_and_no_loss(
    experiment: Path, uninterrupted: Uninterrupted, record_fault: Callable
) -> None:
    out = experiment.parent / "rank"
    running = start("train", experiment, *settings(experiment, out))
    wait_until(lambda: newest(out) >= 3 * INTERVAL, running=running)
    ranks = processes_of(running.process.pid, "RayTrainWorker")
    assert len(ranks) == 2
    reached = newest(out)
    ranks[1].kill()
    seconds = wait_until(lambda: beyond(out, reached + INTERVAL), running=running)
    finish(running)
    assert_equal(losses(out), uninterrupted().losses)
    record_fault("rank killed in mid-epoch", seconds=seconds)


def test_a_lost_student_node_leaves_fewer_ranks_and_the_same_loss(
    experiment: Path, uninterrupted: Uninterrupted, record_fault: Callable
) -> None:
    out = experiment.parent / "node"
    nodes = start_cluster(teachers=1, students=2)
    try:
        address = f"pools.address={nodes.address}"
        running = start("train", experiment, *settings(experiment, out), address, env=nodes.env | SOON)
        wait_until(lambda: newest(out) >= 3 * INTERVAL, running=running)
        nodes.kill_node("student-1")
        seconds = wait_until(lambda: nodes.actors()["RayTrainWorker", "student"] >= 3, running=running)
        reached = newest(out)
        seconds += wait_until(lambda: beyond(out, reached), running=running)
        finish(running)
    finally:
        nodes.stop()
    assert_equal(losses(out), uninterrupted().losses)
    assert weights(out) == uninterrupted().weights
    record_fault("student node lost, elastic ranks on", seconds=seconds)


def test_a_driver_killed_in_training_is_continued_by_the_same_command(
    experiment: Path, uninterrupted: Uninterrupted, record_fault: Callable
) -> None:
    out = experiment.parent / "driver"
    running = start("train", experiment, *settings(experiment, out))
    wait_until(lambda: newest(out) >= 3 * INTERVAL, running=running)
    kill_driver(running.process)
    reached = newest(out)
    again = start("train", experiment, *settings(experiment, out))
    seconds = wait_until(lambda: beyond(out, reached), running=again)
    finish(again)
    assert_equal(losses(out), uninterrupted().losses)
    record_fault("driver killed in training", seconds=seconds)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_it(
    experiment: Path, uninterrupted: Uninterrupted, record_fault: Callable
) -> None:
    out = experiment.parent / "damaged"
    running = start("train", experiment, *settings(experiment, out))
    wait_until(lambda: newest(out) >= 3 * INTERVAL, running=running)
    kill_driver(running.process)
    reached = newest(out)
    (damaged,) = out.glob(f"trials/*/checkpoints/{reached:09d}/model.safetensors")
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    again = start("train", experiment, *settings(experiment, out))
    seconds = wait_until(lambda: beyond(out, reached), running=again)
    finish(again)
    assert_equal(losses(out), uninterrupted().losses)
    record_fault("newest checkpoint damaged", seconds=seconds)


def test_a_driver_killed_in_a_search_repeats_no_finished_trial(experiment: Path, record_fault: Callable) -> None:
    out = experiment.parent / "search"
    running = start("tune", experiment, *settings(experiment, out), "pools.student.workers=1")
    wait_until(lambda: ended(out) and newest(out), running=running)
    kill_driver(running.process)
    before = {path: path.stat().st_mtime_ns for path in ended(out)}
    began = time.monotonic()
    again = start("tune", experiment, *settings(experiment, out), "pools.student.workers=1")
    wait_until(lambda: len(ended(out)) > len(before), running=again)
    seconds = time.monotonic() - began
    result = finish(again)
    assert result["trials"] == 3
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(ended(out)) == 4  # three of the search and the winner, trained again
    record_fault("driver killed in search", seconds=seconds)


def test_a_tracking_server_away_for_60_seconds_of_a_training_loses_no_metric(
    experiment: Path, uninterrupted: Uninterrupted, tmp_path: Path, record_fault: Callable
) -> None:
    out = experiment.parent / "tracking"
    with MlflowServer(tmp_path / "server") as server:
        patient = [f"tracking.{name}={PATIENCE_S}" for name in ("connect_timeout_s", "flush_timeout_s")]
        running = start("train", experiment, *settings(experiment, out), f"tracking.uri={server.uri}", *patient)
        wait_until(lambda: newest(out) >= 3 * INTERVAL, running=running)
        server.stop()
        reached, back = newest(out), time.monotonic() + AWAY_S
        wait_until(lambda: time.monotonic() >= back and beyond(out, reached), running=running)
        server.start()
        began = time.monotonic()
        finish(running)
        seconds = time.monotonic() - began
        records = Records(server.uri)
        (trial,) = records.children(records.parent("small", output_dir=str(out)))
        found = dict(records.curve(trial.run_id, "train/loss"))
    wanted = uninterrupted().losses
    assert_equal(found, wanted)
    lost = len(wanted.keys() - found.keys())
    record_fault("tracking server away for 60 s", metrics_lost=lost, seconds=seconds)


def rationale(question_id: str, answer: str) -> Rationale:
    row = {"key": question_id, "question_id": question_id, "sample": 0, "rationale": f"it shines, so {answer}"}
    row |= {"predicted_answer": answer, "finish_reason": "stop", "failure": "", "dropped_examples": 0}
    return Rationale(**row, input_tokens=1, output_tokens=1)


def settings(experiment: Path, out: Path) -> list[str]:
    given = f"teachers.one.store={experiment.parent}/store"
    return [f"output.dir={out}", given, "tracking.register_champion=false"]


def newest(out: Path) -> int:
    """Step of the newest whole checkpoint of any trial."""
    return max((int(path.parent.name) for path in out.glob("trials/*/checkpoints/*/state.json")), default=0)


def beyond(out: Path, step: int) -> bool:
    """Whether the only trial has a whole checkpoint after this step or has ended, since it keeps none then."""
    return newest(out) > step or bool(ended(out))


def ended(out: Path) -> list[Path]:
    return list(out.glob("trials/*/result.json"))


def losses(out: Path) -> dict[int, float]:
    """train/loss by step, from all parts; a step that was repeated must have had the same loss."""
    found: dict[int, float] = {}
    for path in sorted(out.glob("trials/*/metrics/*.jsonl")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            if "train/loss" in row:
                found[row["step"]] = row["train/loss"]
    return found


def assert_equal(found: dict[int, float], wanted: dict[int, float]) -> None:
    """No step's metrics are missing, and every loss is that of the uninterrupted run, to the bit."""
    assert sorted(found) == sorted(wanted) == list(range(1, STEPS + 1))
    assert {step: loss for step, loss in found.items() if loss != wanted[step]} == {}


def weights(out: Path) -> str:
    """sha256 of the final weights of the only trial."""
    (path,) = out.glob("trials/*/model/model.safetensors")
    return hashlib.sha256(path.read_bytes()).hexdigest()
