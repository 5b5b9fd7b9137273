"""Ctrl-C and SIGTERM in the middle of a training: one message, the signal's exit code, and KILLED in MLflow."""

import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from support.small_experiment import start, wait_until, write_experiment

from tinyllm_ray.data import store

pytestmark = pytest.mark.engine


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])
def test_a_training_that_is_stopped_says_so_and_its_runs_are_killed(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    known = str(tmp_path / "known")
    store.open_store(known, {"dataset": "words", "teacher": "one"})
    training = {"steps": 20_000, "eval_every_steps": 10_000, "checkpoint_every_steps": 20}
    teachers = [{"name": "one", "model": "m", "store": known}]
    path = write_experiment(tmp_path, training=training, teachers=teachers, tracking={"sync_every_s": 0.5})
    running = start("train", path, "loss.rationale_weights.one=0")
    wait_until(lambda: list(tmp_path.glob("out/trials/*/checkpoints/*")), running=running)
    wait_until(lambda: statuses(tmp_path) == ["RUNNING", "RUNNING"], running=running)
    running.process.send_signal(number)
    stdout, _ = running.process.communicate(timeout=120)
    assert running.process.returncode == code, running.said()
    assert stdout == '{"error": "stopped; the same command continues from here"}\n'
    assert "stopped; the same command continues from here" in running.said()
    assert "Traceback" not in running.said()
    assert statuses(tmp_path) == ["KILLED", "KILLED"]  # the parent and its training


def statuses(folder: Path) -> list[str]:
    database = folder / "out" / "mlflow" / "mlflow.db"
    if not database.is_file():
        return []
    with closing(sqlite3.connect(database)) as records:
        return sorted(status for (status,) in records.execute("SELECT status FROM runs"))
