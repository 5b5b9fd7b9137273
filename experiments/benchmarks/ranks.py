"""Whether the number of ranks changes a bit, and what that costs.

    python experiments/benchmarks/ranks.py

Bits: sha256 of weights and optimizer state after 12 steps with dropout in four shards, on one to four ranks (gloo, one
thread each), and on four ranks that become three after the sixth step. Speed, on a student of FLAN-T5-small's shape:
two ranks with two shards against DistributedDataParallel as it comes, and one rank with two shards against one; both
ways take turns in the same processes, and each figure is the median of the turns' ratios. Scoring: seconds to rank the
choices of 256 questions on one rank over those on two, by turns, whose scores must be equal to the bit.
"""

import argparse
import copy
import functools
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import measuring
import student_parts
import student_shapes
import torch
import torch.distributed as dist
import transformers

from tinyllm_ray.student import loop
from tinyllm_ray.student.evaluate import choice_scores
from tinyllm_ray.student.objective import StudentLoss

SHARDS, STEPS, CHANGE_AT, SCORED = 4, 12, 6, 256


def main() -> None:
    parser = measuring.make_parser(__doc__)
    parser.add_argument(
        "--repeats", type=int, default=6, help="turns of each way that are timed; half of it in scoring"
    )
    parser.add_argument("--process", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.process:
        run_process(json.loads(arguments.process))
        return
    parts: dict[str, Callable[[str], dict[str, Any]]] = {
        "bits": train_bits,
        "two_ranks": lambda folder: compare(folder, "two_ranks_vs_plain_ddp", 2, arguments.repeats),
        "two_shards": lambda folder: compare(folder, "one_rank_two_shards_vs_one", 1, arguments.repeats),
        "scoring": lambda folder: compare_scoring(folder, max(1, arguments.repeats // 2)),
    }
    in_folders = {name: functools.partial(_in_folder, part) for name, part in parts.items()}
    sys.exit(measuring.measure(in_folders, arguments))


def _in_folder(part: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return part(folder)


def train_bits(folder: str) -> dict[str, Any]:
    """The digest of each way to run the same steps; all ranks of a way must have the same."""
    whole = {"first_step": 0, "last_step": STEPS}
    jobs = [{"name": f"{ranks} rank{'s' * (ranks > 1)}", "ranks": ranks, **whole} for ranks in (1, 2, 3, 4)]
    jobs += [{"name": "", "ranks": 4, **whole, "last_step": CHANGE_AT, "save": True}]
    jobs += [{"name": "4 ranks, 3 from the middle", "ranks": 3, **whole, "first_step": CHANGE_AT}]
    found = run_group(folder, 4, jobs)
    for other in found[1:]:
        assert all(found[0][name] == digest for name, digest in other.items()), "the weights of the ranks differ"
    digests = {name: digest for name, digest in found[0].items() if name}
    others = sum(digest != digests["1 rank"] for digest in digests.values())
    return {"figures": {"different_digests": measuring.figure([others])}, "sha256": digests}


def compare(folder: str, name: str, ranks: int, repeats: int) -> dict[str, Any]:
    """Time of ours over that of the other way, by the clock and of the processor, which counts no other work."""
    turns = run_group(folder, ranks, [{"name": "turns", "ranks": ranks, "repeats": repeats}])[0]["turns"]
    wall, processor = ([ours[i] / other[i] for ours, other in turns] for i in range(2))
    figures = {f"{name}_time": measuring.figure(wall), f"{name}_processor_time": measuring.figure(processor)}
    return {"figures": figures, "step_s_ours_and_other": [[ours[0], other[0]] for ours, other in turns]}


def compare_scoring(folder: str, repeats: int) -> dict[str, Any]:
    student_parts.prepare_scoring(folder, SCORED)
    jobs = [
        {"name": f"{name} {turn}", "ranks": ranks, "scoring": True}
        for turn in range(repeats)
        for name, ranks in (("one", 1), ("two", 2))
    ]
    found = run_group(folder, 2, jobs)[0]
    assert len({scored["sha256"] for scored in found.values()}) == 1, "the scores differ"
    one, two = ([found[f"{name} {turn}"]["seconds"] for turn in range(repeats)] for name in ("one", "two"))
    return {
        "figures": {"scoring_speedup_of_two_ranks": measuring.ratios(one, two)},
        "scoring_s": {"one": one, "two": two},
    }


def run_group(folder: str, count: int, jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every job on the first `ranks` of `count` processes; what each process found, by the names of the jobs."""
    meet = f"{folder}/meet-{time.monotonic_ns()}"
    texts = [json.dumps({"folder": folder, "meet": meet, "rank": rank, "jobs": jobs}) for rank in range(count)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([sys.executable, __file__, "--process", t], env=environment, stdout=subprocess.PIPE, text=True)
        for t in texts
    ]
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        sys.exit("a process of the group failed; what it said stands above")
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def run_process(given: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    found, rank = {}, given["rank"]
    for number, job in enumerate(given["jobs"]):
        if rank < job["ranks"]:
            meet = f"file://{given['meet']}-{number}"
            dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=job["ranks"])
            saved = Path(given["folder"], "saved.pt")
            if "scoring" in job:
                found[job["name"]] = score(given["folder"])
            else:
                found[job["name"]] = seconds_of_turns(job) if "repeats" in job else weights_after(job, saved)
            dist.barrier()
            dist.destroy_process_group()
    print(json.dumps(found))


def weights_after(job: dict[str, Any], saved: Path) -> str:
    """sha256 after the job's steps, of a small student with dropout."""
    features, settings = student_shapes.drawn_features(256), student_shapes.training(16)
    more = {"shards": SHARDS, "steps": job["last_step"], "warmup_steps": 0, "schedule": "constant"}
    more |= {"log_every_steps": STEPS, "gradient_checkpointing": False, "compile": False, "learning_rate": 1e-3}
    training = SimpleNamespace(**vars(settings) | more)
    torch.manual_seed(0)
    special = {"vocab_size": student_shapes.VOCABULARY, "pad_token_id": 0, "decoder_start_token_id": 0}
    sizes = {"d_model": 64, "d_ff": 128, "d_kv": 16, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.1}
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**special, **sizes))
    optimizer = loop.make_optimizer(model, training)
    if job["first_step"]:
        state = torch.load(saved, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    loop.train(
        model,
        features,
        training=training,
        terms=student_shapes.TERMS,
        seed=0,
        optimizer=optimizer,
        first_step=job["first_step"],
        dtype="float32",
        hooks=loop.Hooks(on_log=lambda step, values: None, on_step=lambda step, optimizer: None),
    )
    if "save" in job and dist.get_rank() == 0:
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, saved)
    moments = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    found = hashlib.sha256()
    for tensor in [*model.state_dict().values(), *moments]:
        found.update(tensor.numpy().tobytes())
    return found.hexdigest()


def score(folder: str) -> dict[str, Any]:
    reader, questions = student_parts.open_scoring(folder, student_shapes.make_student("flan-t5-small"))
    choice_scores(reader, questions[:64])  # warms up
    dist.barrier()
    started = time.perf_counter()
    scores = choice_scores(reader, questions)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "sha256": hashlib.sha256(json.dumps(scores).encode()).hexdigest()}


def seconds_of_turns(job: dict[str, Any]) -> list[list[tuple[float, float]]]:
    """(wall, processor) seconds of a step's gradients, [ours, the other way], each turn on another batch; the first
    only warms up."""
    features, training = student_shapes.drawn_features(1024), student_shapes.training(16)
    model = student_shapes.make_student("flan-t5-small")
    ours = loop.make_replica(model, student_shapes.TERMS, shards=2)
    other_model = copy.deepcopy(model)
    other = loop.make_replica(other_model, student_shapes.TERMS, shards=1) if job["ranks"] == 1 else plain(other_model)
    turns = []
    for step in range(job["repeats"] + 1):
        indices = loop.step_examples(features, step, training=training, terms=student_shapes.TERMS, seed=0)
        seconds = {}
        for name, replica in [("ours", ours), ("other", other)][:: 1 if step % 2 else -1]:
            dist.barrier()
            started, before = time.perf_counter(), time.process_time()
            loop.step_gradients(
                replica,
                features,
                indices,
                training=training,
                dtype="float32",
                seed=0,
                step=step,
                totals=loop.new_totals(student_shapes.TERMS),
            )
            seconds[name] = (time.perf_counter() - started, time.process_time() - before)
            replica.model.zero_grad()
        if step:
            turns.append([seconds["ours"], seconds["other"]])
    return turns


def plain(model: torch.nn.Module) -> loop.Replica:
    """DistributedDataParallel as it comes: it takes the mean over the ranks, so weights are larger by their number."""
    terms = [replace(term, weight=term.weight * dist.get_world_size()) for term in student_shapes.TERMS]
    replica = loop.make_replica(model, terms, shards=2)
    module = torch.nn.parallel.DistributedDataParallel(
        StudentLoss(model, terms), forward_sync_buffers=False, gradient_as_bucket_view=True
    )
    return replace(replica, module=module)


if __name__ == "__main__":
    main()
