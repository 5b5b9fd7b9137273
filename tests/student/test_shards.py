"""The same bits on any number of ranks: the tree by hand, and whole trials in real processes that talk over gloo."""

import hashlib
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from support import gloo_rank

from tinyllm_ray.data.store import StoreId
from tinyllm_ray.student.shards import joints, nodes_of, push, shards_of, share_between, tree_sum
from tinyllm_ray.student.train import run_trial

DROPOUT = {
    "tiny": {"width": 32, "ff_width": 64, "vocabulary_size": 400, "dropout": 0.1},
    "decoder": {"architecture": "llama", "width": 32, "ff_width": 64, "vocabulary_size": 400, "dropout": 0.1},
}
TRAINING = {
    "steps": 6,
    "eval_every_steps": 3,
    "checkpoint_every_steps": 3,
    "log_every_steps": 1,
    "keep_checkpoints": True,
}


def test_the_tree_over_five_shards_is_the_one_in_the_drawing():
    assert joints(5) == {(0, 1, 2), (2, 3, 4), (0, 2, 4), (0, 4, 5)}
    assert nodes_of(range(0, 5), 5) == [(0, 5)]
    assert nodes_of(range(1, 4), 5) == [(1, 2), (2, 4)]


def test_float_sums_follow_the_tree():
    rows = torch.tensor([1e8, 1.0, -1e8, 1.0, 1.0])  # ((1e8 + 1) + (-1e8 + 1)) + 1, and 1e8 + 1 is 1e8 in float32
    assert tree_sum(rows[:, None]).tolist() == [1.0]
    assert rows.double().sum().item() == 3.0


@pytest.mark.parametrize("shards", range(1, 10))
def test_ranks_share_the_shards_as_neighbors_and_their_nodes_make_the_whole_tree(shards):
    for ranks in range(1, shards + 1):
        owned = [shards_of(rank, ranks=ranks, shards=shards) for rank in range(ranks)]
        assert [shard for own in owned for shard in own] == list(range(shards))
        assert all(len(a) - len(b) in (0, 1) for a, b in pairwise(owned))
        pieces = []
        for first, end in [node for own in owned for node in nodes_of(own, shards)]:
            push(pieces, (first, end, [torch.ones(())]), shards)
        assert [(first, end) for first, end, _ in pieces] == [(0, shards)]


def test_items_go_from_the_largest_on_to_the_part_that_has_least():
    assert share_between([5, 9, 4, 1], 2).tolist() == [1, 0, 1, 0]
    assert share_between([], 3).tolist() == []


@pytest.fixture(scope="module")
def even(tmp_path_factory, make):
    """A trial in four shards with dropout, for each way to run it."""
    world = make.World(tmp_path_factory.mktemp("even"))
    return {name: world.trial(name, **settings(shards=4)) for name in ("1", "2", "3", "4", "4 to 3")}


@pytest.fixture(scope="module")
def uneven(tmp_path_factory, make):
    """Five shards of a decoder-only student whose label has no weight and whose teacher wrote little, so that some
    shards of a step are empty."""
    world = make.World(tmp_path_factory.mktemp("uneven"))
    few = [make.rationale(q.question_id, f"it is {q.answer}") for q in world.asked["train"][:12]]
    world.stores[StoreId("short")] = make.write_store(world.folder, "few", {"train": few})
    loss = {"label_weight": 0.0, "rationale_weights": {"long": 0.0, "short": 1.0}}
    changes = settings(shards=5, model="decoder", micro_batch_examples=1)
    return {name: world.trial(name, loss=loss, **changes) for name in ("1", "2", "3")}


@pytest.fixture(scope="module")
def varying(tmp_path_factory, make):
    """Weights that follow from the losses of the whole step, in three shards, for each number of ranks."""
    world = make.World(tmp_path_factory.mktemp("varying"))
    kinds = ("uncertainty", "confidence")
    trials = {
        kind: {name: world.trial(f"{kind} {name}", loss={"weighting": kind}, **settings(shards=3)) for name in "12"}
        for kind in kinds
    }
    run_ranks(tmp_path_factory.mktemp("varying-jobs"), [job(trials[kind]["2"], 2) for kind in kinds])
    for kind in kinds:
        run_trial(trials[kind]["1"], report=lambda row: None)
    return trials


@pytest.fixture(scope="module")
def done(even, uneven, tmp_path_factory):
    """All trials have been run, those on several ranks by one group of processes."""
    jobs = [job(trials[str(ranks)], ranks) for trials, most in ((even, 4), (uneven, 3)) for ranks in range(2, most + 1)]
    jobs += [job(even["4 to 3"], 4, stop_at=3), job(even["4 to 3"], 3)]
    run_ranks(tmp_path_factory.mktemp("jobs"), jobs)
    for trials in (even, uneven):
        run_trial(trials["1"], report=lambda row: None)


def test_one_two_three_and_four_ranks_and_four_that_become_three_give_the_same_bits(even, done):
    """Weights, optimizer, losses, gradient norms, scores and predictions."""
    wanted = outcome(even["1"])
    assert len(wanted["losses"]) == 6
    for name in ("2", "3", "4", "4 to 3"):
        assert outcome(even[name]) == wanted, name


def test_shards_that_do_not_come_out_even_and_empty_ones_give_the_same_bits(uneven, done):
    wanted = outcome(uneven["1"])
    assert outcome(uneven["2"]) == wanted
    assert outcome(uneven["3"]) == wanted


def test_learned_weights_and_those_by_confidence_have_the_same_bits_on_one_rank_and_on_two(varying):
    for kind, trials in varying.items():
        wanted = outcome(trials["1"])
        assert "train/weight/long" in wanted["losses"][6]
        assert outcome(trials["2"]) == wanted, kind


def settings(*, shards, model="tiny", **training):
    return {
        "student": {"model": model, "from_scratch": DROPOUT},
        "training": {**TRAINING, "shards": shards, **training},
        "evaluation": {"by": "both", "max_new_tokens": 4, "batch_size": 3, "student_rationales": 4},
        "score_test": True,
    }


def job(trial, ranks, stop_at=None):
    return {"trial": vars(trial), "ranks": ranks, "stop_at": stop_at}


def run_ranks(folder: Path, jobs):
    (folder / "jobs.json").write_text(json.dumps({"folder": str(folder), "jobs": jobs}))
    count = max(job["ranks"] for job in jobs)
    command = [sys.executable, gloo_rank.__file__, folder / "jobs.json"]
    processes = [subprocess.Popen([*command, str(rank)]) for rank in range(count)]
    try:
        assert [process.wait(timeout=300) for process in processes] == [0] * count
    finally:
        for process in processes:
            process.kill()


def outcome(trial):
    """All that a trial leaves, but for times."""
    folder = Path(trial.dir)
    names = ["model.safetensors", "optimizer.safetensors"]
    files = [path for name in names for path in sorted(folder.glob(f"checkpoints/*/{name}"))]
    files += sorted(folder.glob("predictions/*.parquet"))
    rows = [json.loads(x) for part in sorted(folder.glob("metrics/*.jsonl")) for x in part.read_text().splitlines()]
    result = json.loads((folder / "result.json").read_text())
    return {
        "files": {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
        "losses": {row["step"]: timeless(row) for row in rows if "train/loss" in row},
        "evaluations": json.loads((folder / "evaluations.json").read_text()),
        "result": {name: value for name, value in timeless(result).items() if name != "key"},
    }


def timeless(row):
    return {key: value for key, value in row.items() if not key.startswith("time") and not key.endswith("_s")}
