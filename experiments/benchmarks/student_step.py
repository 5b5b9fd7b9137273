"""The student's training step against the plain way, over ranks, inside Ray Train, and the building of its features.

    python experiments/benchmarks/student_step.py --json
    python experiments/benchmarks/student_step.py --device cuda --shape flan-t5-large  # only torch and transformers

The plain way is three forward passes, one for each component: inputs padded to the longest of the dataset, targets to
the longest of the batch, logits at every position. Both ways run on the same rows, one after the other, and their
losses are compared; ratios are medians over different batches. OBQA is read where the reference data is
(TINYLLM_REFERENCE_DATA); else sequences are drawn by OBQA's deciles of length.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from tinyllm_ray.data.arrays import Features  # noqa: E402
from tinyllm_ray.student.loop import Replica, make_optimizer, make_replica, new_totals, step_examples, step_gradients  # noqa: E402
from tinyllm_ray.student.objective import Term  # noqa: E402

SHAPES = {
    "flan-t5-small": {"d_model": 512, "d_ff": 1024, "num_layers": 8, "num_heads": 6},
    "flan-t5-base": {"d_model": 768, "d_ff": 2048, "num_layers": 12, "num_heads": 12},
    "flan-t5-large": {"d_model": 1024, "d_ff": 2816, "num_layers": 24, "num_heads": 16},
}
VOCABULARY, HEAD_WIDTH = 32_128, 64
TERMS = [Term(name, 1.0, (i,)) for i, name in enumerate(("label", "flan_t5", "llama2"))]
# Deciles of OBQA's token counts, with a tokenizer trained on it: inputs, then answers and two teachers' rationales.
SOURCE_DECILES = [29, 35, 37, 39, 41, 43, 46, 50, 54, 60, 112]
TARGET_DECILES = [
    [2, 2, 2, 2, 3, 3, 4, 4, 5, 7, 24],
    [6, 12, 14, 15, 17, 19, 21, 23, 25, 30, 256],
    [2, 15, 33, 84, 89, 92, 94, 97, 99, 101, 108],
]
PEAK_TFLOPS = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "L4": 121, "A10": 125}  # dense bfloat16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="only the result, as the last line")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--shape", choices=SHAPES, default="flan-t5-small")
    parser.add_argument("--batch-size", type=int, help="questions of a step; 8 on the CPU, 128 on a GPU")
    parser.add_argument("--repeats", type=int, default=5, help="batches that are measured")
    parser.add_argument("--micro-batch-tokens", type=int, default=32_768, help="on a GPU")
    parser.add_argument(
        "--peak-tflops", type=float, help="the GPU's dense bfloat16 peak, where this script does not know it"
    )
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank:
        run_rank(json.loads(arguments.rank))
    elif arguments.device == "cuda":
        print(json.dumps(on_gpu(arguments)))
    else:
        print(json.dumps(on_cpu(arguments), indent=None if arguments.json else 2))


def on_cpu(arguments: argparse.Namespace) -> dict[str, Any]:
    import student_parts

    torch.set_num_threads(1)
    obqa = student_parts.obqa_features()
    features = obqa or drawn_features(2048)
    settings = training(arguments.batch_size or 8)
    step = against_plain(features, arguments.shape, settings, arguments.repeats)
    ranks = rank_speedup(features, arguments)
    wrapper = student_parts.wrapper_overhead()
    ratios = {name: step[name] for name in ("step_vs_plain", "real_token_share", "loss_relative_difference")}
    ratios |= {"two_rank_speedup": ranks["two_rank_speedup"], "wrapper_overhead": wrapper["wrapper_overhead"]}
    built = student_parts.features_of_many_rows()
    ranking = student_parts.ranking_of_questions(make_student(arguments.shape))
    more = {"step": step, "ranks": ranks, "wrapper": wrapper, "ranking": ranking}
    return {**about(), "ratios": ratios, "features": built, "data": "OBQA" if obqa else "drawn", **more}


def about() -> dict[str, Any]:
    names = {"torch": torch.__version__, "transformers": transformers.__version__, "python": platform.python_version()}
    return {"machine": {"cpus": os.cpu_count(), "processor": platform.machine()}, "versions": names}


def training(batch_size: int, micro_batch_tokens: int = 4096) -> SimpleNamespace:
    """What the step reads of the `training` section."""
    fixed = {"micro_batch_examples": 512, "max_gradient_norm": 1.0, "learning_rate": 5e-5, "weight_decay": 0.0}
    return SimpleNamespace(batch_size=batch_size, micro_batch_tokens=micro_batch_tokens, **fixed)


def make_student(shape: str) -> torch.nn.Module:
    """FLAN-T5's architecture: gated feed-forward, a vocabulary projection of its own; no dropout, so losses compare."""
    torch.manual_seed(0)
    special = {"vocab_size": VOCABULARY, "d_kv": HEAD_WIDTH, "pad_token_id": 0, "decoder_start_token_id": 0}
    config = transformers.T5Config(
        **SHAPES[shape], **special, dropout_rate=0.0, feed_forward_proj="gated-gelu", tie_word_embeddings=False
    )
    model = transformers.T5ForConditionalGeneration(config)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    return model.train()


def drawn_features(rows: int) -> Features:
    """Random tokens in sequences as long as OBQA's."""
    generator = np.random.default_rng(0)
    levels = np.linspace(0, 1, 11)
    table, start = [], 0
    for row in range(rows):
        source = int(np.interp(generator.random(), levels, SOURCE_DECILES))
        for component, deciles in enumerate(TARGET_DECILES):
            target = int(np.interp(generator.random(), levels, deciles))
            table.append([row, component, start, source, start + source, target])
            start += source + target
    tokens = generator.integers(3, VOCABULARY, start, dtype=np.int32)
    ids = np.array([f"q{row}" for row in range(rows)])
    return Features(tokens, np.array(table), ids, ["label", "flan_t5", "llama2"])


def against_plain(features: Features, shape: str, settings: SimpleNamespace, repeats: int) -> dict[str, Any]:
    """Seconds of both ways on the same batches, forward and backward; the first batch only warms up."""
    model, longest = make_student(shape), int(features.examples[:, 3].max())
    replica = make_replica(model, TERMS, shards=1)
    pairs, tight, differences, shares = [], [], [], []
    for step in range(repeats + 1):
        indices = step_examples(features, step, training=settings, terms=TERMS, seed=0)
        plain, plain_s = timed(lambda rows=indices: plain_step(model, features, rows, longest=longest))
        _, tight_s = timed(lambda rows=indices: plain_step(model, features, rows, longest=0))
        totals = new_totals(TERMS)
        _, ours_s = timed(lambda rows=indices, sums=totals: our_step(replica, features, rows, settings, sums))
        ours = float((totals.sums.numpy() / totals.tokens).sum())
        if step:
            pairs.append(plain_s / ours_s)
            tight.append(tight_s / ours_s)
            differences.append(abs(ours - plain) / plain)
            shares.append(totals.real / totals.processed)
    return {
        "shape": shape,
        "n": repeats,
        "step_vs_plain": round(statistics.median(pairs), 3),
        "step_vs_plain_range": [round(min(pairs), 3), round(max(pairs), 3)],
        "step_vs_inputs_padded_to_the_batch": round(statistics.median(tight), 3),
        "real_token_share": round(statistics.median(shares), 4),  # of attention's positions; all else has no padding
        "loss_relative_difference": max(differences),
    }


def timed(action: Callable[[], Any]) -> tuple[Any, float]:
    """With the processor time of this one-threaded process: what else runs on the machine does not count."""
    started = time.process_time()
    return action(), time.process_time() - started


def our_step(replica: Replica, features: Features, indices: np.ndarray, settings: Any, totals: Any) -> None:
    step_gradients(replica, features, indices, training=settings, dtype="float32", seed=0, step=0, totals=totals)
    replica.model.zero_grad()


def plain_step(model: torch.nn.Module, features: Features, indices: np.ndarray, *, longest: int) -> float:
    """Three forward passes as in the reference; returns the loss."""
    total = 0.0
    examples = features.examples[indices]
    for component in range(len(features.components)):
        mine = examples[examples[:, 1] == component]
        ids = padded([features.tokens[start : start + length] for start, length in mine[:, 2:4]], 0, longest)
        labels = padded([features.tokens[start : start + length] for start, length in mine[:, 4:6]], -100, 0)
        loss = model(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).loss
        loss.backward()
        total += loss.item()
    model.zero_grad()
    return total


def padded(lists: list[np.ndarray], fill: int, longest: int) -> torch.Tensor:
    width = max(longest, *(len(ids) for ids in lists))
    rows = [np.pad(ids, (0, width - len(ids)), constant_values=fill) for ids in lists]
    return torch.from_numpy(np.array(rows, dtype=np.int64))


def rank_speedup(features: Features, arguments: argparse.Namespace) -> dict[str, Any]:
    """One process against two, one thread each, on the same batches of four micro-batches, optimizer included."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("tokens", "examples", "question_ids"):
            np.save(f"{folder}/{name}.npy", getattr(features, name))
        job = {"folder": folder, "shape": arguments.shape, "batch_size": 4 * (arguments.batch_size or 8)}
        job |= {"repeats": arguments.repeats, "components": features.components}
        seconds = {ranks: _seconds_of_ranks(job, ranks) for ranks in (1, 2)}
    ratios = [one / two for one, two in zip(seconds[1], seconds[2], strict=True)]
    return {
        "two_rank_speedup": round(statistics.median(ratios), 3),
        "range": [round(min(ratios), 3), round(max(ratios), 3)],
        "n": len(ratios),
        "step_s": {str(ranks): round(statistics.median(times), 3) for ranks, times in seconds.items()},
    }


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
    arrays = {
        name: np.load(f"{job['folder']}/{name}.npy", mmap_mode="r") for name in ("tokens", "examples", "question_ids")
    }
    features = Features(**arrays, components=job["components"])
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


def on_gpu(arguments: argparse.Namespace) -> dict[str, Any]:
    """Rows and tokens per second, memory and share of the peak, in bfloat16."""
    settings = training(arguments.batch_size or 128, arguments.micro_batch_tokens)
    features, model = drawn_features(4096), make_student(arguments.shape).cuda()
    optimizer, replica = make_optimizer(model, settings), make_replica(model, TERMS, shards=1)
    seconds, rates, tokens, work = [], [], 0, 0.0
    for step in range(arguments.repeats + 2):
        indices = step_examples(features, step, training=settings, terms=TERMS, seed=0)
        totals = new_totals(TERMS)
        started = time.perf_counter()
        step_gradients(
            replica, features, indices, training=settings, dtype="bfloat16", seed=0, step=step, totals=totals
        )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        if step > 1:  # two warm up
            seconds.append(time.perf_counter() - started)
            tokens = int(features.examples[indices][:, [3, 5]].sum())
            work = arithmetic(model, features.examples[indices])
            rates.append(work / seconds[-1])
    name, middle = torch.cuda.get_device_name(), statistics.median(seconds)
    peak = arguments.peak_tflops or next((PEAK_TFLOPS[key] for key in PEAK_TFLOPS if key in name), None)
    return {
        **about(),
        "device": name,
        "shape": arguments.shape,
        "rows_per_s": round(settings.batch_size / middle, 1),
        "tokens_per_s": round(tokens / middle),
        "memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        "tflops": round(statistics.median(rates) / 1e12, 1),
        "share_of_peak": round(statistics.median(rates) / 1e12 / peak, 3) if peak else None,
        "n": len(seconds),
    }


def arithmetic(model: torch.nn.Module, examples: np.ndarray) -> float:
    """Floating-point operations of one step's matrix products on real tokens: forward, and twice that backward."""
    cross = sum(
        p.numel() for n, p in model.decoder.named_parameters() if "EncDecAttention.k" in n or "EncDecAttention.v" in n
    )
    encoder = sum(p.numel() for n, p in model.encoder.block.named_parameters())
    decoder = sum(p.numel() for n, p in model.decoder.block.named_parameters()) - cross
    sources, targets = examples[:, 3].astype(float), examples[:, 5].astype(float)
    linear = (encoder + cross) * sources.sum() + (decoder + model.lm_head.weight.numel()) * targets.sum()
    width = model.config.num_heads * model.config.d_kv * model.config.num_layers
    attention = 2 * width * (sources**2 + targets**2 + sources * targets).sum()
    return 3 * 2 * (linear + attention)


if __name__ == "__main__":
    main()
