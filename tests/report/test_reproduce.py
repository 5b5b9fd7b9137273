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
    assert made["command"].startswith("tinyllm-ray train reproduce.yaml seeds=[1] output.dir=outputs/reproduce-")
    assert validate(made["config"]).loss.rationale_weights == {"llama": 0.0, "flan": 1.0}
    text = "\n".join(made["lines"]).split("<<'END'\n")[1].split("\nEND")[0]
    assert yaml.safe_load(text) == made["config"]


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


def test_an_unknown_run_is_a_clear_error(study):
    _, uri = study
    with pytest.raises(UserError, match="has no run 'nothing'"):
        reproduce("nothing", uri=uri)
