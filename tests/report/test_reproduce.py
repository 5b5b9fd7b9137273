import shlex
import shutil

import pytest
import yaml

from tinyllm_ray.config import UserError, validate
from tinyllm_ray.report.data import read_report
from tinyllm_ray.report.reproduce import reproduce


@pytest.fixture(scope="session")
def report(study):
    experiment, uri = study
    return read_report(experiment, output_dir=experiment.output.dir, uri=uri)


def test_a_trial_comes_back_with_its_own_config_and_seed(study, report):
    _, uri = study
    trial = next(trial for trial in report.trials if trial.variant == "only_flan" and trial.seed == 1)
    made = reproduce(trial.run_id, uri=uri)
    words = shlex.split(made["command"])
    assert words[:5] == ["tinyllm-ray", "train", "reproduce.yaml", "seeds=[1]", "pools.student.workers=1"]
    assert "'seeds=[1]'" in made["command"]
    assert words[5].startswith("output.dir=outputs/reproduce-")
    assert validate(made["config"]).loss.rationale_weights == {"llama": 0.0, "flan": 1.0}
    text = "\n".join(made["lines"]).split("<<'END'\n")[1].split("\nEND")[0]
    assert yaml.safe_load(text) == made["config"]


def test_a_training_that_followed_the_teachers_follows_the_same_order_again(study, report):
    _, uri = study
    words = {}
    for variant in ("all_teachers", "label_only"):
        trial = next(trial for trial in report.trials if trial.variant == variant)
        words[variant] = shlex.split(reproduce(trial.run_id, uri=uri)["command"])
    assert "pools.overlap.arrivals=/data/arrivals/a1" in words["all_teachers"]
    assert not any("arrivals" in word for word in words["label_only"])


def test_what_differs_today_is_named(study, report):
    """The study's stores were tracked under made-up digests."""
    _, uri = study
    differs = reproduce(report.parent.run_id, uri=uri)["differs"]
    assert differs["store.llama"]["then"] == "digest-of-llama"
    assert differs["store.llama"]["now"] == report.teachers[0].content
    assert differs["questions.obqa-train"] == {"then": "digest-train", "now": None}
    assert "version.python" not in differs


def test_the_whole_run_comes_back_as_it_was_started(study, report):
    _, uri = study
    made = reproduce(report.parent.run_id, uri=uri)
    assert made["lines"][-1] == report.parent.tags["command"]


def test_a_run_is_found_in_the_store_of_the_current_folders_outputs(study, report, tmp_path, monkeypatch):
    _, uri = study
    store = tmp_path / "outputs" / "study" / "mlflow" / "mlflow.db"
    store.parent.mkdir(parents=True)
    shutil.copy(uri.removeprefix("sqlite:///"), store)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert reproduce(report.parent.run_id)["run_id"] == report.parent.run_id


def test_an_unknown_run_is_a_clear_error(study):
    _, uri = study
    with pytest.raises(UserError, match="has no run 'nothing'"):
        reproduce("nothing", uri=uri)
