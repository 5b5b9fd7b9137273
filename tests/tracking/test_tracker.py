import json
import os
import socket
import time
from pathlib import Path

import mlflow
import pytest
from support import trial_folders
from support.small_experiment import wait_until
from support.trial_folders import START_MS, make_experiment, write_trial

from tinyllm_ray import storage
from tinyllm_ray.config import UserError
from tinyllm_ray.tracking.address import tracking_uri
from tinyllm_ray.tracking.tracker import Tracker

SECRET = "hunter2-do-not-write-me"


def study(tmp_path, store, name: str, **overrides):
    return make_experiment(str(tmp_path), name=name, **{"tracking.uri": store, "seeds": [0]} | overrides)


def upload(experiment, folders: dict[str, str], tags: dict[str, str] | None = None) -> Tracker:
    lineage = {"store.llama": "abc123", "teacher.llama.revision": "r1"}
    with Tracker(experiment, output_dir=experiment.output.dir, lineage=lineage) as tracker:
        for key, folder in folders.items():
            tracker.watch(
                key, folder=folder, name=key, config=experiment, seed=3, tags=tags or {"variant": "label_only"}
            )
    return tracker


def children(client: mlflow.MlflowClient, tracker: Tracker):
    return client.search_runs([tracker.experiment_id], f"tags.`mlflow.parentRunId` = '{tracker.parent_id}'")


def history(client: mlflow.MlflowClient, run, name: str) -> list[tuple[int, float]]:
    return sorted((metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name))


def test_figures_of_the_moment_and_tags_that_come_late_reach_the_runs_that_are_there(tmp_path, store, client):
    experiment = study(tmp_path, store, "live")
    write_trial(str(tmp_path / "t"), key="k", seed=3, accuracy=0.5)
    with Tracker(experiment, output_dir=str(tmp_path), lineage={"store.llama": "half"}) as tracker:
        tracker.watch(
            "k", folder=str(tmp_path / "t"), name="k", config=experiment, seed=3, tags={"variant": "label_only"}
        )
        for second, waiting in ((2, 30.0), (4, 10.0)):
            tracker.log_live({"overlap/waiting": waiting}, step=second)
        tracker.finish("k")
        tracker.retag({"store.llama": "whole"})
    (run,) = children(client, tracker)
    parent = client.get_run(tracker.parent_id)
    assert history(client, parent, "overlap/waiting") == [(2, 30.0), (4, 10.0)]
    assert parent.data.tags["store.llama"] == run.data.tags["store.llama"] == "whole"


def test_a_trial_becomes_one_child_with_parameters_metrics_tags_and_files(tmp_path, store, client):
    experiment = study(tmp_path, store, "one-child")
    write_trial(str(tmp_path / "t"), key="k", seed=3, accuracy=0.5)
    files = {"train": ("/data/train.parquet", "d1g3st", 40)}
    with Tracker(experiment, output_dir=str(tmp_path), lineage={"store.llama": "abc123"}) as tracker:
        tracker.log_questions(files, name="obqa")
        tags = {"variant": "search", "differs.loss.label_weight": "0.5"}
        tracker.watch("k", folder=str(tmp_path / "t"), name="search seed 3", config=experiment, seed=3, tags=tags)
    (run,) = children(client, tracker)
    assert run.data.params["loss.label_weight"] == "1.0"
    shown = {"variant", "seed", "student.model", "training.method", "loss.label_weight", "student.parameters"}
    assert set(run.data.params) == shown  # what may differ; the rest is in config.yaml
    assert run.data.params["student.parameters"] == "50000"
    assert run.data.metrics["primary"] == 0.5
    assert run.data.tags["mlflow.note.content"].startswith(
        "Training of **search**, seed 3: validation accuracy **0.5**"
    )
    assert [item.dataset.name for item in run.inputs.dataset_inputs] == ["obqa-train"]
    assert run.data.tags["differs.loss.label_weight"] == "0.5"
    assert (run.data.tags["store.llama"], run.data.tags["seed"], run.data.tags["ended"]) == ("abc123", "3", "result")
    assert len(run.data.tags["git.commit"]) >= 7
    assert history(client, run, "train/loss") == [(step, 3.0 - step / 40) for step in range(5, 41, 5)]
    assert history(client, run, "eval/accuracy") == [(20, pytest.approx(0.45)), (40, pytest.approx(0.5))]
    assert run.data.metrics["result/parameters"] == 50_000
    names = {
        item.path for folder in ("", "predictions", "model") for item in client.list_artifacts(run.info.run_id, folder)
    }
    assert {"config.yaml", "result.json", "predictions/test.parquet", "model/README.md"} <= names
    assert run.info.status == "FINISHED"
    parent = client.get_run(tracker.parent_id)
    assert [item.dataset.digest for item in parent.inputs.dataset_inputs] == ["d1g3st"]
    assert parent.info.status == "FINISHED"


def test_a_second_tracker_on_the_same_output_folder_writes_nothing_twice(tmp_path, store, client):
    experiment = study(tmp_path, store, "twice")
    write_trial(str(tmp_path / "t"), key="k", seed=3, accuracy=0.5)
    first = upload(experiment, {"k": str(tmp_path / "t")})
    second = upload(experiment, {"k": str(tmp_path / "t")})
    assert first.parent_id == second.parent_id
    (run,) = children(client, second)
    assert len(history(client, run, "train/loss")) == 8


def test_what_a_killed_upload_left_out_is_added_and_the_rest_is_not_doubled(tmp_path, store, client):
    """The first upload saw one of the two parts; the resumed trial then did steps 15 and 20 again."""
    experiment = study(tmp_path, store, "killed")
    write_trial(str(tmp_path / "t"), key="k", seed=3, accuracy=0.5)
    result, later = Path(tmp_path, "t", "result.json"), Path(tmp_path, "t", "metrics", "part-000000025.jsonl")
    held = {path: path.read_bytes() for path in (result, later)}
    for path in held:
        path.unlink()
    first = upload(experiment, {"k": str(tmp_path / "t")})
    (run,) = children(client, first)
    assert (run.info.status, len(history(client, run, "train/loss"))) == ("RUNNING", 4)
    again = [{"step": step, "time": START_MS + 99_000 + step, "train/loss": 3.0 - step / 40} for step in (15, 20)]
    storage.write_bytes(
        str(tmp_path / "t/metrics/part-000000015.jsonl"), "".join(json.dumps(row) + "\n" for row in again).encode()
    )
    for path, data in held.items():
        path.write_bytes(data)
    upload(experiment, {"k": str(tmp_path / "t")})
    (run,) = children(client, first)
    assert history(client, run, "train/loss") == [(step, 3.0 - step / 40) for step in range(5, 41, 5)]
    assert run.info.status == "FINISHED"


@pytest.mark.parametrize("stop", [SystemExit(143), KeyboardInterrupt()], ids=["SIGTERM", "Ctrl-C"])
def test_what_was_stopped_is_killed_and_what_had_ended_is_not(tmp_path, store, client, stop):
    experiment = study(tmp_path, store, f"stopped-{type(stop).__name__}", **{"tracking.sync_every_s": 0.1})
    write_trial(str(tmp_path / "ended"), key="ended", seed=3, accuracy=0.5)
    write_trial(str(tmp_path / "open"), key="open", seed=3, accuracy=0.5)
    (tmp_path / "open" / "result.json").unlink()
    with pytest.raises(type(stop)), Tracker(experiment, output_dir=str(tmp_path), lineage={}) as tracker:
        for key in ("ended", "open"):
            folder = str(tmp_path / key)
            tracker.watch(key, folder=folder, name=key, config=experiment, seed=3, tags={"variant": "x"})
        while len(children(client, tracker)) < 2:
            time.sleep(0.1)
        raise stop
    assert {run.info.run_name: run.info.status for run in children(client, tracker)} == {
        "ended": "FINISHED",
        "open": "KILLED",
    }
    assert client.get_run(tracker.parent_id).info.status == "KILLED"
    write_trial(str(tmp_path / "open"), key="open", seed=3, accuracy=0.5)
    upload(experiment, {"open": str(tmp_path / "open")})
    assert {run.info.status for run in children(client, tracker)} == {"FINISHED"}
    assert client.get_run(tracker.parent_id).info.status == "FINISHED"


def test_a_part_that_grew_under_its_name_is_read_again(tmp_path, store, client):
    experiment = study(tmp_path, store, "grown", **{"tracking.sync_every_s": 0.1})
    part = str(tmp_path / "t/metrics/part-000000001.jsonl")
    lines = [json.dumps({"step": step, "time": START_MS + step, "train/loss": 1.0}) + "\n" for step in (1, 2)]
    storage.write_bytes(part, lines[0].encode())
    with Tracker(experiment, output_dir=str(tmp_path), lineage={}) as tracker:
        tracker.watch("k", folder=str(tmp_path / "t"), name="k", config=experiment, seed=0, tags={"variant": "x"})
        wait_until(lambda: any("train/loss" in run.data.metrics for run in children(client, tracker)))
        storage.write_bytes(part, "".join(lines).encode())
    assert history(client, children(client, tracker)[0], "train/loss") == [(1, 1.0), (2, 1.0)]


def test_a_failed_trial_keeps_its_traceback(tmp_path, store, client):
    experiment = study(tmp_path, store, "failed")
    failure = {"key": "k", "seed": 0, "steps": 0, "traceback": "Traceback\nValueError: no"}
    storage.write_json(str(tmp_path / "t/failure.json"), failure)
    tracker = upload(experiment, {"k": str(tmp_path / "t")})
    (run,) = children(client, tracker)
    assert run.info.status == "FAILED"
    path = client.download_artifacts(run.info.run_id, "traceback.txt", str(tmp_path))
    assert Path(path).read_text() == "Traceback\nValueError: no"


def test_a_trial_that_the_scheduler_stopped_is_marked_and_not_opened_again(tmp_path, store, client):
    experiment = study(tmp_path, store, "stopped")
    stopped = {"key": "k", "seed": 0, "steps": 20, "eval/accuracy": 0.25}
    storage.write_json(str(tmp_path / "t/stopped.json"), stopped)
    for _ in range(2):
        tracker = upload(experiment, {"k": str(tmp_path / "t")})
        (run,) = children(client, tracker)
        assert (run.info.status, run.data.tags["ended"]) == ("KILLED", "stopped")


def test_answers_are_a_table_with_the_choices(tmp_path, store, client):
    experiment = study(tmp_path, store, "table")
    write_trial(str(tmp_path / "t"), key="k", seed=0, accuracy=0.5)
    files = trial_folders.write_questions(str(tmp_path), "obqa", trial_folders.make_questions())
    with Tracker(experiment, output_dir=str(tmp_path), lineage={}) as tracker:
        tracker.log_questions(files, name="obqa")
        tracker.watch("k", folder=str(tmp_path / "t"), name="k", config=experiment, seed=0, tags={"variant": "x"})
    (run,) = children(client, tracker)
    table = client.load_table(tracker.experiment_id, "tables/test.json", run_ids=[run.info.run_id])
    assert list(table.columns)[:5] == ["question", "choices", "answer", "student", "correct"]
    assert table["choices"][0] == "red | green | blue | white"
    assert table["as llama"][1] == "It is red, <i>I</i> think (1)."


def test_the_comparison_opens_with_what_was_searched(tmp_path, store, client):
    tracker = upload(study(tmp_path, store, "compared"), {})
    key = tracker.comparison.partition("viewStateShareKey=")[2].partition("&")[0]
    assert client.get_run(tracker.parent_id).data.tags["comparison"] == tracker.comparison
    experiment = client.get_experiment(tracker.experiment_id)
    view = json.loads(experiment.tags[f"mlflow.sharedViewState.{key}"])
    (chart,) = view["compareRunCharts"]
    assert chart["selectedParams"] == ["loss.label_weight", "loss.rationale_weights.llama"]
    assert chart["selectedMetrics"] == ["primary"]
    assert view["compareRunSections"][0]["columns"] == 1, "several axes need the whole width"
    assert "/runs?workflowType=machine_learning&" in tracker.comparison, "else the GenAI view opens"
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_a_changed_config_is_seen_on_the_parent(tmp_path, store, client):
    upload(study(tmp_path, store, "changed"), {})
    tracker = upload(study(tmp_path, store, "changed", seeds=[0, 1]), {})
    run = client.get_run(tracker.parent_id)
    assert (run.data.params, run.data.tags["changed.seeds"]) == ({}, "[0, 1]")


def test_a_deleted_experiment_is_a_clear_error(tmp_path, store, client):
    client.delete_experiment(client.create_experiment("deleted"))
    with pytest.raises(UserError, match="was deleted; restore it there"):
        upload(study(tmp_path, store, "deleted"), {})


@pytest.mark.parametrize("listens", [False, True])
def test_a_server_that_does_not_answer_is_an_error_within_15_s(tmp_path, listens):
    """Nothing at the port, or something that takes the connection and stays silent."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listens:
            server.listen()
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
        experiment = make_experiment(str(tmp_path), **{"tracking.uri": uri, "tracking.connect_timeout_s": 6})
        began = time.monotonic()
        with pytest.raises(UserError, match=f"tracking.uri {uri} does not answer within 6 s"):
            Tracker(experiment, output_dir=str(tmp_path), lineage={})
        assert time.monotonic() - began < 60  # MLflow's own tries take several minutes


def test_sqlite_needs_an_output_folder_on_this_machine(tmp_path):
    with pytest.raises(UserError, match=r"set tracking\.uri to an MLflow server"):
        tracking_uri(make_experiment(str(tmp_path)), output_dir="s3://bucket/run")


def test_no_secret_reaches_the_store(tmp_path, store, client, monkeypatch, capfd):
    """Planted in engine settings, the environment, addresses, the command line, a traceback and the trial's files."""
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setattr(
        "sys.argv", ["tinyllm-ray", "run", "x.yaml", f"teachers.llama.engine.engine_kwargs.hf_token={SECRET}2"]
    )
    experiment = study(
        tmp_path,
        store,
        "secrets",
        **{
            "teachers.llama.engine": {
                "type": "vllm",
                "engine_kwargs": {"hf_token": SECRET, "env": {"AWS_SECRET_ACCESS_KEY": SECRET}, "x": SECRET},
            },
            "teachers.flan.engine": {"type": "endpoint", "url": "http://host/v1", "api_key_env": "OPENAI_API_KEY"},
        },
    )
    planted = f"https://me:{SECRET}@host/data?X-Amz-Signature={SECRET}"  # past the schema, which refuses it
    experiment = experiment.model_copy(update={"dataset": experiment.dataset.model_copy(update={"path": planted})})
    write_trial(str(tmp_path / "good"), key="good", seed=0, accuracy=0.5)
    storage.write_bytes(str(tmp_path / "good/model/README.md"), f"Authorization: Bearer {SECRET}".encode())
    text = f"ConnectionError: https://me:{SECRET}@host refused, api_key='{SECRET}'"
    storage.write_json(str(tmp_path / "bad/failure.json"), {"key": "bad", "seed": 0, "steps": 0, "traceback": text})
    tags = {"variant": "search", "differs.dataset.path": f"https://me:{SECRET}@host"}
    tracker = upload(experiment, {name: str(tmp_path / name) for name in ("good", "bad")}, tags)
    tracker.log_questions({"train": (f"s3://me:{SECRET}@bucket/train.parquet", "d", 1)}, name="obqa")
    report = trial_folders.generation("llama") | {"store": f"s3://me:{SECRET}@bucket"}
    tracker.log_generation({"llama": report})
    assert len(children(client, tracker)) == 2
    places = [Path(store.removeprefix("sqlite:///")).parent, Path(tmp_path, "mlflow")]
    files = [Path(folder, name) for place in places for folder, _, names in os.walk(place) for name in names]
    assert len(files) > 5
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    assert SECRET not in "".join(capfd.readouterr())
