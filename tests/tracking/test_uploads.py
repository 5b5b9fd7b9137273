"""Whatever a trial gives its recorder is found in MLflow, once, whenever parts are written and uploaded."""

import random

import pytest
from support.trial_folders import make_experiment

from tinyllm_ray import storage
from tinyllm_ray.student import records
from tinyllm_ray.tracking.uploads import TrialUpload, advance

NAMES = ("train/loss", "eval/accuracy", "time/step_ms")


@pytest.mark.parametrize("seed", range(6))
def test_every_metric_of_a_trial_that_is_killed_once_is_in_mlflow(seed, tmp_path, client, monkeypatch):
    chance, folder = random.Random(seed), str(tmp_path / "trial")
    monkeypatch.setattr(records.time, "monotonic", lambda: chance.choice([0.0, 100.0]))
    experiment = make_experiment(str(tmp_path))
    experiment_id = client.create_experiment(f"random times {seed}")
    upload = TrialUpload("key", folder, "name", experiment, seed=0, tags={"variant": "tinyllm"})
    tags = {"mlflow.parentRunId": client.create_run(experiment_id).info.run_id, "command": "tinyllm-ray run x.yaml"}
    wanted = {(step, name): step + NAMES.index(name) / 10 for step in range(1, 25) for name in NAMES}
    checkpoint, killed = 10, 17
    wanted = {key: value for key, value in wanted.items() if key[0] == checkpoint or chance.random() < 0.6}
    for first, last in ((0, killed), (checkpoint, 24)):
        recorder = records.Recorder(folder, first_step=first)
        for step, name in sorted(key for key in wanted if first < key[0] <= last):
            recorder.metrics(step, {name: wanted[step, name]})
            if step <= checkpoint < last and chance.random() < 0.2:
                recorder.flush()
            if chance.random() < 0.2:
                advance(client, upload, experiment_id=experiment_id, tags=tags)
            if first == 0 and step == checkpoint:
                recorder.flush()  # as a trial does before it saves a checkpoint
    recorder.flush()
    storage.write_json(storage.join(folder, "result.json"), {"key": "key", "steps": 24})
    advance(client, upload, experiment_id=experiment_id, tags=tags)
    history = [(name, client.get_metric_history(upload.run_id, name)) for name in NAMES]
    found = [((metric.step, name), metric.value) for name, metrics in history for metric in metrics]
    assert sorted(found) == sorted(wanted.items())
