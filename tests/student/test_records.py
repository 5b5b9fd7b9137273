"""No metric is lost, whenever a part is written out, and a resumed trial repeats none."""

import json
import random
from pathlib import Path

import pytest

from tinyllm_ray.student import records


@pytest.mark.parametrize("seed", range(30))
def test_every_metric_is_in_the_parts_once_and_in_order_whatever_the_times_of_writing(seed, tmp_path, monkeypatch):
    chance = random.Random(seed)
    monkeypatch.setattr(records.time, "monotonic", lambda: chance.choice([0.0, 100.0]))
    recorder, given = records.Recorder(str(tmp_path), first_step=0), []
    for step in range(1, 30):
        for name in ("train/loss", "eval/accuracy", "test/accuracy"):
            if chance.random() < 0.5:
                recorder.metrics(step, {name: step / 7})
                given.append((step, name))
        if chance.random() < 0.2:
            recorder.flush()
    recorder.flush()
    assert written(tmp_path) == given


def test_a_log_line_and_an_evaluation_of_one_step_in_two_parts_are_both_kept(tmp_path):
    recorder = records.Recorder(str(tmp_path), first_step=0)
    recorder.metrics(6, {"train/loss": 1.0})
    recorder.flush()
    recorder.evaluation(6, {"eval/accuracy": 0.5})
    recorder.flush()
    assert written(tmp_path) == [(6, "train/loss"), (6, "eval/accuracy")]


def test_a_resumed_trial_forgets_what_it_will_do_again_and_overwrites_nothing(tmp_path):
    recorder = records.Recorder(str(tmp_path), first_step=0)
    for step in range(1, 7):
        recorder.metrics(step, {"train/loss": 1.0})
        if step % 2 == 0:
            recorder.flush()
    again = records.Recorder(str(tmp_path), first_step=3)
    for step in range(4, 7):
        again.metrics(step, {"train/loss": 1.0})
    again.flush()
    assert written(tmp_path) == [(step, "train/loss") for step in range(1, 7)]


def test_the_rows_of_steps_that_are_repeated_are_recorded_once(tmp_path):
    def record(recorder, step):
        recorder.rows(step, parts=step, waited_s=0.25 * step, shards=[[f"q{step}"], []])

    recorder = records.Recorder(str(tmp_path), first_step=0)
    for step in (1, 2, 3):
        record(recorder, step)
    recorder.flush()
    again = records.Recorder(str(tmp_path), first_step=1)
    for step in (2, 3):
        record(again, step)
    again.flush()
    lines = [json.loads(x) for part in sorted(tmp_path.glob("first_epoch/*")) for x in part.read_text().splitlines()]
    assert [(line["step"], line["parts"], line["waited_s"]) for line in lines] == [
        (1, 1, 0.25),
        (2, 2, 0.5),
        (3, 3, 0.75),
    ]
    assert lines[1]["shards"] == [["q2"], []]


def written(folder: Path):
    parts = sorted((folder / "metrics").glob("*.jsonl"))
    rows = [json.loads(line) for part in parts for line in part.read_text().splitlines()]
    return [(row["step"], name) for row in rows for name in row if "/" in name]


def test_damaged_lines_and_files_are_left_out_and_said(tmp_path, caplog):
    recorder = records.Recorder(str(tmp_path), first_step=0)
    recorder.evaluation(1, {"eval/accuracy": 0.5})
    recorder.metrics(2, {"train/loss": 1.0})
    recorder.flush()
    (part,) = (tmp_path / "metrics").iterdir()
    part.write_bytes(part.read_bytes()[:-9])  # in the midst of the second line
    (tmp_path / "evaluations.json").write_text("[{")
    records.Recorder(str(tmp_path), first_step=2)
    assert written(tmp_path) == [(1, "eval/accuracy")]
    assert records.read_evaluations(str(tmp_path)) == []
    assert "holds a damaged line" in caplog.text and "evaluations.json is damaged" in caplog.text
