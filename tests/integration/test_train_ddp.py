"""A trial on two ranks of a real Ray Train worker group."""

import importlib.util
import json
from pathlib import Path

import pytest
import ray
from support.small_experiment import start, write_experiment
from support.tiny_teachers import questions

from tinyllm_ray.config import UserError
from tinyllm_ray.data import store
from tinyllm_ray.student.ranks import run_trial_ddp
from tinyllm_ray.student.train import run_trial

pytestmark = pytest.mark.engine
SPEC = importlib.util.spec_from_file_location("student_world", Path(__file__).parents[1] / "student" / "conftest.py")
student_world = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(student_world)
POOLS = {"student": {"workers": 2, "cpus_per_worker": 1, "resource": "student_pool"}}


@pytest.fixture(scope="module")
def cluster():
    ray.init(address="local", num_cpus=4, resources={"student_pool": 2}, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def test_two_ranks_end_with_the_weights_of_one_to_the_bit(cluster, tmp_path):
    world = student_world.World(tmp_path)
    training = {"steps": 4, "eval_every_steps": 2, "learning_rate": 1e-3, "shards": 2}
    one = world.trial("one", training=training)
    run_trial(one, report=lambda row: None)
    two = world.trial("two", training=training, pools=POOLS)
    result = run_trial_ddp(two, ranks=2)

    assert json.loads((Path(two.dir) / "result.json").read_text()) == result
    assert [row["step"] for row in json.loads((Path(two.dir) / "evaluations.json").read_text())] == [2, 4]
    alone, shared = (Path(trial.dir, "model", "model.safetensors").read_bytes() for trial in (one, two))
    assert alone == shared


def test_a_training_that_diverges_on_two_ranks_is_one_message(cluster, tmp_path):
    world = student_world.World(tmp_path)
    training = {"steps": 1, "eval_every_steps": 1, "learning_rate": 1e38, "max_gradient_norm": None}
    trial = world.trial("diverging", training=training, pools=POOLS)
    with pytest.raises(UserError, match=r"the training diverging diverged: .*lower training.learning_rate"):
        run_trial_ddp(trial, ranks=2)
    assert not list(Path(trial.dir).glob("**/*.safetensors"))


def test_a_diverging_train_command_ends_with_code_2_and_no_traceback(tmp_path):
    """The store stands in for the teacher, so that the command starts with the training."""
    path = write_experiment(tmp_path, sizes={"train": 8, "validation": 4}, pools=POOLS)
    store.open_store(f"{tmp_path}/store", {"dataset": "words", "teacher": "one"})
    for split, rows in {"train": questions(8), "validation": questions(12)[8:]}.items():
        texts = [student_world.rationale(row.question_id, f"it is {row.answer}") for row in rows]
        store.append(f"{tmp_path}/store", split, texts)
    changes = ["training.learning_rate=1.0e+38", "training.max_gradient_norm=null", "training.steps=1"]
    running = start("train", path, f"teachers.one.store={tmp_path}/store", *changes)
    output, _ = running.process.communicate(timeout=400)
    assert running.process.returncode == 2, running.said()
    assert "diverged" in json.loads(output)["error"]
    assert "Traceback" not in running.said()
