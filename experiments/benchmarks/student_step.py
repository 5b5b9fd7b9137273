"""The student's training step against the plain way, over ranks, inside Ray Train, and the building of its features.

    python experiments/benchmarks/student_step.py                             # step, ranks and ranking
    python experiments/benchmarks/student_step.py --parts wrapper features
    python experiments/benchmarks/student_step.py --device cuda               # only torch and transformers

The first two commands are each planned to take less than ten minutes on two quiet cores, the third less than eight on
one GPU.

The plain way is three forward passes, one for each component: inputs padded to the longest of the dataset or of the
batch, targets to the longest of the batch, logits at every position. Both ways run on the same rows, one after the
other, and their losses are compared; ratios are medians over different batches. OBQA is read where the reference data
is (TINYLLM_REFERENCE_DATA); else sequences are drawn by OBQA's deciles of length. On a GPU each shape is a part, with
the arithmetic of the matrix products on real tokens as a share of the GPU's peak.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import measuring
import numpy as np
import torch
from student_shapes import SHAPES, TERMS, drawn_features, make_student, plain_gradients, training

from tinyllm_ray.data.arrays import Features
from tinyllm_ray.student.loop import Replica, make_optimizer, make_replica, new_totals, step_examples, step_gradients

DEFAULT = ("step", "ranks", "ranking")


def main() -> None:
    parser = measuring.make_parser(__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--shape", choices=SHAPES, help="flan-t5-small on the CPU, all of them on a GPU")
    parser.add_argument("--batch-size", type=int, help="questions of a step; 8 on the CPU, 128 on a GPU")
    parser.add_argument("--repeats", type=int, help="batches that are measured; 5 on the CPU, 20 on a GPU")
    parser.add_argument("--micro-batch-tokens", type=int, default=32_768, help="on a GPU")
    parser.add_argument(
        "--peak-tflops", type=float, help="the GPU's dense bfloat16 peak, where this script does not know it"
    )
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank:
        run_rank(json.loads(arguments.rank))
    elif arguments.device == "cuda":
        sys.exit(measuring.measure(gpu_parts(arguments), arguments))
    else:
        sys.exit(measuring.measure(cpu_parts(arguments), arguments, default=DEFAULT))


def gpu_parts(arguments: argparse.Namespace) -> dict[str, measuring.Part]:
    import student_gpu

    def part(shape: str) -> measuring.Part:
        return lambda: student_gpu.compare(
            shape,
            device="cuda",
            batch_size=arguments.batch_size or 128,
            micro_batch_tokens=arguments.micro_batch_tokens,
            repeats=arguments.repeats or 20,
            peak_tflops=arguments.peak_tflops,
        )

    return {f"cuda_{shape}": part(shape) for shape in ([arguments.shape] if arguments.shape else SHAPES)}


def cpu_parts(arguments: argparse.Namespace) -> dict[str, measuring.Part]:
    import student_parts

    torch.set_num_threads(1)
    shape, batch_size = arguments.shape or "flan-t5-small", arguments.batch_size or 8
    repeats = arguments.repeats or 5
    return {
        "step": lambda: against_plain(shape, training(batch_size), repeats),
        "ranks": lambda: rank_speedup(shape, batch_size=4 * batch_size, repeats=repeats),
        "wrapper": student_parts.wrapper_overhead,
        "ranking": lambda: student_parts.ranking_of_questions(make_student(shape), repeats),
        "features": student_parts.features_of_many_rows,
    }


def against_plain(shape: str, settings: SimpleNamespace, repeats: int) -> dict[str, Any]:
    """Seconds of both ways on the same batches, forward and backward; the first batch only warms up."""
    import student_parts

    obqa = student_parts.obqa_features()
    features = obqa or drawn_features(2048)
    model, longest = make_student(shape), int(features.examples[:, 3].max())
    replica = make_replica(model, TERMS, shards=1)
    seconds: dict[str, list[float]] = {"plain": [], "tight": [], "ours": []}
    differences, shares = [], []
    for step in range(repeats + 1):
        indices = step_examples(features, step, training=settings, terms=TERMS, seed=0)
        totals = new_totals(TERMS)
        ways = {
            "plain": lambda rows=indices: plain_step(model, features, rows, longest=longest),
            "tight": lambda rows=indices: plain_step(model, features, rows, longest=0),
            "ours": lambda rows=indices, sums=totals: our_step(replica, features, rows, settings, sums),
        }
        found = {name: timed(way) for name, way in ways.items()}
        ours, plain = float((totals.sums.numpy() / totals.tokens).sum()), found["plain"][0]
        if step:
            for name, (_, spent) in found.items():
                seconds[name].append(spent)
            differences.append(abs(ours - plain) / plain)
            shares.append(totals.real / totals.processed)
    return {
        "figures": {
            "step_vs_plain": measuring.ratios(seconds["plain"], seconds["ours"]),
            "step_vs_inputs_padded_to_the_batch": measuring.ratios(seconds["tight"], seconds["ours"]),
            "real_token_share": measuring.figure(shares),  # of attention's positions; all else has no padding
            "loss_relative_difference": measuring.figure(differences, middle=max),
        },
        "shape": shape,
        "data": "OBQA" if obqa else "drawn",
        "processor_s": seconds,
    }


def timed(action: Callable[[], Any]) -> tuple[Any, float]:
    """With the processor time of this one-threaded process: what else runs on the machine does not count."""
    started = time.process_time()
    return action(), time.process_time() - started


def our_step(replica: Replica, features: Features, indices: np.ndarray, settings: Any, totals: Any) -> None:
    step_gradients(replica, features, indices, training=settings, dtype="float32", seed=0, step=0, totals=totals)
    replica.model.zero_grad()


def plain_step(model: Any, features: Features, indices: np.ndarray, *, longest: int) -> float:
    def loss_of(ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return model(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).loss

    loss = plain_gradients(loss_of, features, indices, longest=longest)
    model.zero_grad()
    return loss


def rank_speedup(shape: str, *, batch_size: int, repeats: int) -> dict[str, Any]:
    """One process against two, one thread each, on the same batches, optimizer included; rows are drawn."""
    job = {"shape": shape, "batch_size": batch_size, "repeats": repeats}
    with tempfile.TemporaryDirectory() as folder:
        one, two = (_seconds_of_ranks({**job, "folder": folder}, ranks) for ranks in (1, 2))
    return {"figures": {"two_rank_speedup": measuring.ratios(one, two)}, "step_s": {"one": one, "two": two}}


def _seconds_of_ranks(job: dict[str, Any], ranks: int) -> list[float]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    jobs = [json.dumps({**job, "rank": rank, "ranks": ranks}) for rank in range(ranks)]
    processes = [
        subprocess.Popen([sys.executable, __file__, "--rank", text], env=environment, stdout=subprocess.PIPE, text=True)
        for text in jobs
    ]
    outputs = [process.communicate()[0] for process in processes]
    return json.loads(outputs[0].splitlines()[-1])


def run_rank(job: dict[str, Any]) -> None:
    """Seconds of each step, with gradients averaged over the ranks and the optimizer's step."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    meet = f"file://{job['folder']}/meet-{job['ranks']}"
    dist.init_process_group("gloo", init_method=meet, rank=job["rank"], world_size=job["ranks"])
    features = drawn_features(2048)
    model, settings = make_student(job["shape"]), training(job["batch_size"])
    optimizer = make_optimizer(model, settings)
    replica = make_replica(model, TERMS, shards=job["ranks"])
    seconds = []
    for step in range(job["repeats"] + 1):
        dist.barrier()
        started = time.perf_counter()
        indices = step_examples(features, step, training=settings, terms=TERMS, seed=0)
        totals = new_totals(TERMS)
        step_gradients(replica, features, indices, training=settings, dtype="float32", seed=0, step=step, totals=totals)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        dist.barrier()
        seconds.append(time.perf_counter() - started)
    dist.destroy_process_group()
    print(json.dumps(seconds[1:]))  # the first step warms up


if __name__ == "__main__":
    main()
