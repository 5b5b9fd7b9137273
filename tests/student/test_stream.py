"""Rows that come while a training runs: the same for whoever reads them and whenever, each once in the first epoch."""

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from support import gloo_rank

from tinyllm_ray.config import UserError, validate
from tinyllm_ray.data import feature_parts, store
from tinyllm_ray.data.arrivals import Arrivals, Awaited, Collector
from tinyllm_ray.data.features import build_features, open_features
from tinyllm_ray.schema import Training
from tinyllm_ray.student.batches import batch_rows, epoch_order
from tinyllm_ray.student.loop import make_replica, step_batch, step_gradients
from tinyllm_ray.student.model import load_student, prepare_tokenizer
from tinyllm_ray.student.objective import terms_of
from tinyllm_ray.student.stream import Shuffle, open_training
from tinyllm_ray.student.totals import new_totals
from tinyllm_ray.student.train import Trial, run_trial

ROWS, WINDOW, BATCH = 40, 12, 8
OVERLAP = {"schedule": "overlap", "overlap": {"window_rows": WINDOW}}


class Growing:
    """The small world's stores written again, some questions at a time, and the features of what has arrived."""

    def __init__(self, world, make) -> None:
        self.world, self.rationale = world, make.rationale
        self.experiment = make.make_experiment(pools=OVERLAP, training={"steps": 12, "shards": 2})
        self.folder = world.folder / "growing"
        self.rows = {str(i): store.read(own, "train").to_pylist() for i, own in world.stores.items()}
        self.stores = {teacher: str(self.folder / "stores" / teacher) for teacher in self.rows}
        for teacher, own in self.stores.items():
            store.open_store(own, {"teacher": teacher, "dataset": "things"})
        self.arrivals = Arrivals(str(self.folder / "arrivals"))
        awaited = {teacher: Awaited(own, 1, True) for teacher, own in self.stores.items()}
        self.collector = Collector(self.arrivals, world.questions["train"], awaited, window_rows=WINDOW, rows=BATCH)

    def write(self, first: int, end: int, *, failing: int = 0) -> None:
        """Questions of the numbers given, as both teachers have them; the last `failing` of them fail."""
        for teacher, own in self.stores.items():
            by_id = {row["question_id"]: row for row in self.rows[teacher]}
            texts = [
                self.rationale(
                    f"train-{i}", by_id[f"train-{i}"]["rationale"], failure="engine error" * (i >= end - failing)
                )
                for i in range(first, end)
            ]
            store.append(own, "train", texts)
        self.collector.poll()

    def files(self) -> dict:
        return {"questions": self.world.questions, "output_dir": str(self.folder)}

    def plan(self) -> str:
        self.tokenizer = prepare_tokenizer(
            self.experiment, stores=self.arrivals.stores(0, ["long", "short"]), **self.files()
        )
        self.features = feature_parts.plan_parts(
            self.experiment, arrivals=self.arrivals, tokenizer_folder=self.tokenizer, **self.files()
        )
        return self.features

    def build(self) -> str:
        """All parts that there are."""
        features = self.plan()
        for number, _ in enumerate(self.arrivals.iterate()):
            if not feature_parts.is_built(features, number):
                feature_parts.build_part(features, self.arrivals.folder, number, self.tokenizer)
        if self.arrivals.closed():
            feature_parts.close_parts(features, self.arrivals)
        return features

    def trial(self, key: str) -> Trial:
        return Trial(
            key=key,
            experiment=self.experiment.model_dump(mode="json"),
            seed=0,
            features=self.features,
            tokenizer=self.tokenizer,
            questions={split: file.path for split, file in self.world.questions.items()},
            dir=str(self.folder / key),
            score_test=False,
        )


@pytest.fixture
def growing(world, make):
    return Growing(world, make)


def ids(stream, step: int, batch_size: int = BATCH) -> list[str]:
    features, rows = stream.of_step(step, batch_size=batch_size)
    return features.question_ids[rows].tolist()


def test_the_first_epoch_does_not_depend_on_how_the_arrivals_came() -> None:
    at_once, bit_by_bit = Shuffle(5, seed=3), Shuffle(5, seed=3)
    at_once.extend(23, last=True)
    for arrivals in (1, 2, 9, 10, 23):
        bit_by_bit.extend(arrivals, last=False)
        assert bit_by_bit.order == at_once.order[: max(0, arrivals - 5)]
    bit_by_bit.extend(23, last=True)
    assert bit_by_bit.order == at_once.order
    assert sorted(at_once.order) == list(range(23)) != at_once.order


def test_a_buffer_of_one_keeps_the_order_of_arrival() -> None:
    shuffle = Shuffle(1, seed=0)
    shuffle.extend(4, last=True)
    assert shuffle.order == [0, 1, 2, 3]


def test_each_row_comes_once_in_the_first_epoch_and_then_as_without_a_stream(growing) -> None:
    growing.write(0, ROWS)
    stream = open_training(growing.build(), seed=5)
    seen = [question for step in range(5) for question in ids(stream, step)]
    assert Counter(seen) == {f"train-{i}": 1 for i in range(ROWS)}
    assert ids(stream, 5) == [f"train-{i}" for i in epoch_order(5, 1, ROWS)[:BATCH]]
    assert ids(stream, 5) == [f"train-{i}" for i in batch_rows(5, rows=ROWS, batch_size=BATCH, seed=5)]


def test_rows_that_fail_shrink_the_first_epoch_and_keep_their_label_later(growing) -> None:
    growing.write(0, ROWS, failing=3)
    stream = open_training(growing.build(), seed=0)
    features, rows = stream.of_step(4, batch_size=BATCH)
    epoch = [question for step in range(4) for question in ids(stream, step)]
    epoch += features.question_ids[rows[:5]].tolist()
    assert stream.first_epoch == 37
    assert Counter(epoch) == {f"train-{i}": 1 for i in range(37)}
    assert features.question_ids[rows[5:]].tolist() == [f"train-{i}" for i in epoch_order(0, 1, ROWS)[:3]]
    later = [question for step in range(5, 10) for question in ids(stream, step)]
    assert {"train-37", "train-38", "train-39"} <= set(later)
    only = [stream.of_step(step, batch_size=BATCH)[0] for step in range(5, 10)]
    failed = {
        (question, component)
        for features in only
        for row, component in features.examples[:, :2].tolist()
        if (question := str(features.question_ids[row])) in ("train-37", "train-38", "train-39")
    }
    assert failed == {(f"train-{i}", 0) for i in (37, 38, 39)}


def test_a_step_of_the_stream_has_the_bits_of_a_step_of_whole_features(growing) -> None:
    growing.write(25, ROWS)
    growing.write(0, 25)
    stream = open_training(growing.build(), seed=1)
    whole = open_features(
        build_features(
            growing.experiment,
            stores=growing.world.stores,
            tokenizer_folder=growing.tokenizer,
            **growing.files(),
        ),
        "train",
    )
    terms = terms_of(growing.experiment.loss, stream.components)
    training = growing.experiment.training
    for step in range(8):
        features, rows = stream.of_step(step, batch_size=BATCH)
        numbers = np.array([int(i.removeprefix("train-")) for i in features.question_ids[rows]])
        same_rows = whole.examples_of(numbers)
        own = step_batch(stream, step, training=training, terms=terms, seed=1)
        found = [gradients(growing, terms, training, *batch) for batch in (own, (whole, same_rows))]
        assert torch.equal(*found)


def gradients(growing, terms, training: Training, features, indices) -> torch.Tensor:
    student = growing.experiment.student
    model = load_student(student, tokenizer_folder=growing.tokenizer, seed=0)[0].train()
    replica, totals = make_replica(model, terms, shards=2), new_totals(terms)
    step_gradients(replica, features, indices, training=training, dtype="float32", seed=0, step=0, totals=totals)
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def test_a_reader_waits_for_rows_and_goes_on_when_they_come(growing) -> None:
    growing.write(0, 20)  # a buffer of twelve lets eight out
    stream = open_training(growing.build(), seed=0)
    first = ids(stream, 0)
    assert (stream.parts, stream.first_epoch, stream.waited_s < 1) == (1, None, True)

    def more() -> None:
        time.sleep(1)
        growing.write(20, ROWS)
        growing.build()

    writer = threading.Thread(target=more)
    writer.start()
    second = ids(stream, 1)
    writer.join()
    assert stream.waited_s >= 1
    again = open_training(growing.features, seed=0)
    assert [ids(again, 0), ids(again, 1)] == [first, second]


def test_a_reader_is_told_why_no_more_rows_come(growing) -> None:
    growing.write(0, 20)
    stream = open_training(growing.build(), seed=0)
    feature_parts.stop_parts(growing.features, "the engine does not start")
    assert len(ids(stream, 0)) == BATCH
    with pytest.raises(UserError, match="stopped where the teachers did: the engine does not start"):
        ids(stream, 1)


def test_a_training_records_the_rows_of_its_first_epoch_by_step_and_shard(growing) -> None:
    growing.write(0, 20)
    growing.write(20, ROWS)
    growing.build()
    trial = growing.trial("recorded")
    result = run_trial(trial, report=lambda row: None)
    assert result["steps"] == 12
    lines = recorded(trial)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]  # 40 rows
    assert [len(shard) for line in lines for shard in line["shards"]] == [4] * 10
    assert Counter(q for line in lines for shard in line["shards"] for q in shard) == {
        f"train-{i}": 1 for i in range(ROWS)
    }
    stream = open_training(growing.features, seed=0)
    assert [sorted(ids(stream, step)) for step in range(5)] == [
        sorted(q for shard in line["shards"] for q in shard) for line in lines
    ]


def recorded(trial: Trial) -> list[dict]:
    parts = sorted(Path(trial.dir, "first_epoch").glob("*.jsonl"))
    return [json.loads(line) for part in parts for line in part.read_text().splitlines()]


def test_a_training_stopped_in_the_first_epoch_resumes_to_the_same_bits_though_more_had_come(growing) -> None:
    training = {"steps": 9, "checkpoint_every_steps": 2, "eval_every_steps": 3, "shards": 1, "log_every_steps": 1}
    experiment = growing.experiment.model_dump(mode="json")
    growing.experiment = validate({**experiment, "training": {**experiment["training"], **training}})
    growing.write(0, 38)  # 26 rows come out of the buffer: three steps
    growing.build()
    stopped = growing.trial("stopped")

    def interrupt(row: dict) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trial(stopped, report=interrupt)
    before = recorded(stopped)
    growing.write(38, ROWS)
    growing.build()
    run_trial(stopped, report=lambda row: None)
    whole = growing.trial("whole")
    run_trial(whole, report=lambda row: None)
    weights = [Path(trial.dir, "model", "model.safetensors").read_bytes() for trial in (stopped, whole)]
    assert weights[0] == weights[1]
    assert [line["step"] for line in recorded(stopped)] == [1, 2, 3, 4, 5]
    shards = [[line["shards"] for line in recorded(trial)] for trial in (stopped, whole)]
    assert shards[0] == shards[1]
    assert [line["shards"] for line in before] == shards[0][: len(before)]


def test_validation_is_fixed_and_holds_labels_alone(growing) -> None:
    growing.write(0, 12)
    before = growing.plan()
    growing.write(12, ROWS)
    assert growing.plan() == before
    validation = open_features(before, "validation")
    assert set(validation.examples[:, 1].tolist()) == {0}


def test_an_input_that_would_be_cut_is_refused_before_a_row_is_trained_on(growing) -> None:
    student = {**growing.experiment.model_dump(mode="json"), "student": {**growing.experiment.student.model_dump()}}
    student["student"]["max_input_tokens"] = 10
    growing.experiment = validate(student)
    growing.write(0, 12)
    with pytest.raises(UserError, match=r"train: 40 of 40 inputs are longer than student\.max_input_tokens = 10"):
        growing.plan()


def test_two_ranks_that_read_a_growing_stream_end_with_the_bits_of_one(growing) -> None:
    """The second half of the rows comes while both wait for it; the first epoch ends within a step."""
    experiment = growing.experiment.model_dump(mode="json")
    training = {
        "steps": 9,
        "batch_size": 6,
        "checkpoint_every_steps": 3,
        "eval_every_steps": 3,
        "keep_checkpoints": True,
    }
    growing.experiment = validate({**experiment, "training": {**experiment["training"], **training}})
    growing.write(0, 25)
    growing.build()
    ranks, alone = growing.trial("ranks"), growing.trial("alone")
    jobs = [{"trial": asdict(ranks), "ranks": 2, "stop_at": None}]
    (growing.folder / "jobs.json").write_text(json.dumps({"folder": str(growing.folder), "jobs": jobs}))
    command = [sys.executable, gloo_rank.__file__, growing.folder / "jobs.json"]
    processes = [subprocess.Popen([*command, str(rank)]) for rank in range(2)]
    try:
        time.sleep(15)  # 13 of 25 rows are out of the buffer: two steps, and both ranks wait for the third
        assert [process.poll() for process in processes] == [None, None]
        growing.write(25, ROWS, failing=1)
        growing.build()
        assert [process.wait(timeout=120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    run_trial(alone, report=lambda row: None)
    weights = [Path(trial.dir, "model", "model.safetensors").read_bytes() for trial in (ranks, alone)]
    assert weights[0] == weights[1]
    lines = recorded(ranks)
    assert [line["shards"] for line in lines] == [line["shards"] for line in recorded(alone)]
    assert [sum(map(len, line["shards"])) for line in lines] == [6] * 7  # 39 rows, and three of the second epoch
