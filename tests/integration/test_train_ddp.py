"""A trial on two ranks of a real Ray Train worker group."""

import importlib.util
import json
from pathlib import Path

import pytest
import ray

from tinyllm_ray.student.train import run_trial, run_trial_ddp

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
