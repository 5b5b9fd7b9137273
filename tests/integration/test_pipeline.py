"""The whole road on real engines, shrunk: a world, two teachers, methods, a search, MLflow, the report; then again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.engine
SHRUNK = [
    "seeds=[0]",
    "dataset.miniature={entities: 12, kinds: 4, attributes: 4, values: 4, train: 24, validation: 8, test: 8, "
    "teacher_steps: 40, teacher_batch_size: 8}",
    "training.steps=12",
    "training.eval_every_steps=6",
    "training.checkpoint_every_steps=6",
    "search.num_samples=2",
    "search.grace_steps=6",
    "pools.student.workers=2",
    "teachers.max_failed_fraction=1",
]


def run_miniature(repository, folder):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tinyllm_ray.cli",
            "run",
            "experiments/miniature.yaml",
            *SHRUNK,
            f"output.dir={folder}",
            "--json",
        ],
        capture_output=True,
        text=True,
        cwd=repository,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return tmp_path_factory.mktemp("miniature")


@pytest.fixture(scope="module")
def first(repository, output):
    return run_miniature(repository, output)


@pytest.fixture(scope="module")
def second(repository, output, first):
    return run_miniature(repository, output)


def runs_of(uri):
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("miniature")
    return client.search_runs([experiment.experiment_id], max_results=1000)


def test_every_method_is_scored_on_test_for_every_seed(first):
    assert list(first["methods"]) == ["label_only", "only_north_llama", "only_south_t5", "all_teachers"]
    for method in first["methods"].values():
        assert list(method["per_seed"]) == ["0"]
        assert 0 <= method["mean"] <= 1


def test_the_teachers_wrote_every_rationale_once(first, second):
    assert first["teacher_rows_generated"] == 2 * (24 + 8)
    assert second["teacher_rows_generated"] == 0


def test_a_second_run_trains_nothing_again_and_finds_the_same(first, second):
    assert second["methods"] == first["methods"]
    assert second["search"]["best"] == first["search"]["best"]
    assert second["search"]["final"] == first["search"]["final"]


def test_the_search_ran_no_teacher_and_trained_its_winner_on_the_whole_pool(first):
    assert first["search"]["trials"] == 2
    assert first["search"]["teacher_rows_generated"] == 0
    assert first["search"]["final"]["ranks"] == 2


def test_mlflow_holds_one_parent_and_one_child_for_each_trial(second):
    runs = runs_of(second["tracking_uri"])
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(runs) - len(children) == 1
    assert len(children) == 4 + 2 + 1
    assert len({run.data.tags["tinyllm.key"] for run in runs}) == len(runs)


def test_search_trials_never_see_the_test_split(second):
    search = [run for run in runs_of(second["tracking_uri"]) if run.data.tags.get("variant") == "search"]
    assert search
    assert not [run for run in search if "test/accuracy" in run.data.metrics]


def test_the_resolved_config_lies_beside_what_it_made(output, first):
    config = yaml.safe_load((output / "config.yaml").read_text())
    assert config["training"]["steps"] == 12
    assert config["dataset"]["path"] == f"{output}/miniature"


def test_the_report_is_one_page_that_loads_nothing_from_elsewhere(first):
    page = Path(first["report"]).read_text(encoding="utf-8")
    assert "all teachers" in page
    assert 'src="http' not in page
    assert 'href="http://' not in page
