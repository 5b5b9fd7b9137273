import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from support.trial_folders import make_experiment

from tinyllm_ray.config import UserError
from tinyllm_ray.report.data import read_report
from tinyllm_ray.report.make import make_report, shown_digest


def test_the_page_can_be_remade_where_the_stores_are_not(study, tmp_path):
    """MLflow alone: the rationales are named as missing, the rest is there."""
    experiment, uri = study
    kept = Path(experiment.output.dir, "given")
    kept.rename(tmp_path / "moved")
    made = make_report(experiment, output_dir=str(tmp_path / "elsewhere"), uri=uri)
    (tmp_path / "moved").rename(kept)
    html = Path(made["report"]).read_text()
    assert "Not readable from here: the rationales of llama" in html
    assert "No rationale store could be read" in html and "Which teacher helped" in html


def test_an_experiment_without_records_is_a_clear_error(study, tmp_path):
    experiment, uri = study
    with pytest.raises(UserError, match="has no experiment 'other'"):
        make_report(make_experiment(str(tmp_path), name="other"), output_dir=str(tmp_path), uri=uri)
    with pytest.raises(UserError, match="holds no MLflow records yet"):
        make_report(experiment, output_dir=str(tmp_path), uri=f"sqlite:///{tmp_path}/none.db")
    shutil.rmtree(tmp_path)


def test_a_page_that_shows_the_same_is_left_and_a_lost_or_damaged_one_is_drawn_again(study, tmp_path):
    experiment, uri = study

    def make(*, redraw: bool = False) -> dict:
        return make_report(experiment, output_dir=str(tmp_path), uri=uri, redraw=redraw)

    first = make()
    page, summary = Path(first["report"]), tmp_path / "report" / "report.json"
    page.write_text("left as it is")
    assert make() == first
    assert page.read_text() == "left as it is"
    assert make(redraw=True) == first
    assert "<html" in page.read_text()
    page.unlink()
    assert make() == first
    summary.write_text('{"shown": ')
    page.write_text("of another run")
    assert make() == first
    assert "<html" in page.read_text()


def test_what_the_page_shows_changes_its_digest_and_the_state_of_the_run_does_not(study):
    experiment, uri = study
    data = read_report(experiment, output_dir=experiment.output.dir, uri=uri)
    running = replace(data, parent=replace(data.parent, status="RUNNING", end_ms=None))
    assert shown_digest(running) == shown_digest(data)
    trial = replace(data.trials[0], metrics=data.trials[0].metrics | {"test/accuracy": 0.123})
    assert shown_digest(replace(data, trials=[trial, *data.trials[1:]])) != shown_digest(data)
    teacher = replace(data.teachers[0], content="other rationales")
    assert shown_digest(replace(data, teachers=[teacher, *data.teachers[1:]])) != shown_digest(data)
