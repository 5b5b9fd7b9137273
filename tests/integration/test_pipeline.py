"""The whole pipeline on real engines, at a small size: world, teachers, methods, search, MLflow, report; then again."""

import json
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.engine


NO_RAY = """
import ray, sys
def refuse(*_, **__):
    raise AssertionError("this command started Ray")
ray.init = refuse
from tinyllm_ray.cli import main
sys.argv[0] = "tinyllm-ray"
main()
"""


@pytest.fixture(scope="module")
def first(finished_miniature):
    return finished_miniature.result


@pytest.fixture(scope="module")
def second(finished_miniature):
    """The same command again, which has nothing left to run and fails where it starts Ray."""
    return finished_miniature.run([sys.executable, "-c", NO_RAY])


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
    assert first["search"]["trials"] == 3
    assert first["search"]["teacher_rows_generated"] == 0
    assert first["search"]["final"]["ranks"] == 2


def test_mlflow_holds_one_parent_and_one_child_for_each_trial(second):
    runs = runs_of(second["tracking_uri"])
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(runs) - len(children) == 1
    assert len(children) == 4 + 3 + 1
    assert len({run.data.tags["tinyllm.key"] for run in runs}) == len(runs)


def test_search_trials_never_see_the_test_split(second):
    search = [run for run in runs_of(second["tracking_uri"]) if run.data.tags.get("variant") == "search"]
    assert search
    assert not [run for run in search if "test/accuracy" in run.data.metrics]


def test_the_resolved_config_lies_beside_what_it_made(finished_miniature):
    output = finished_miniature.folder
    config = yaml.safe_load((output / "config.yaml").read_text())
    assert config["training"]["steps"] == 12
    assert config["dataset"]["path"] == f"{output}/miniature"


def test_the_report_is_one_page_that_loads_nothing_from_elsewhere(first):
    page = Path(first["report"]).read_text(encoding="utf-8")
    assert "all teachers" in page
    assert 'src="http' not in page
    assert 'href="http://' not in page


@pytest.mark.parametrize(
    "words",
    [
        ["plan"],
        ["evaluate", "--split", "test", "--model"],
        ["report"],
        ["show-prompt", "--teacher", "north_llama"],
    ],
)
def test_a_command_with_nothing_left_to_run_starts_no_ray(first, finished_miniature, words):
    command, *options = words
    options += [first["search"]["champion"]["model"]] if command == "evaluate" else []
    done = finished_miniature.command([sys.executable, "-c", NO_RAY], command, *options)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "started Ray" not in done.stderr
    assert json.loads(done.stdout)
