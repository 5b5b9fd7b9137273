"""The step on one GPU against the plain way, and its share of the GPU's peak; for student_step.py --device cuda.

Only torch and transformers are needed.
"""

import copy
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from measuring import figure, ratios
from student_shapes import TERMS, drawn_features, make_student, plain_gradients, training

from tinyllm_ray.student.loop import make_optimizer, make_replica, new_totals, step_examples, step_gradients

PEAK_TFLOPS = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "L4": 121, "A10": 125}  # dense bfloat16
# Examples of one plain forward pass: as many as a GPU of 40 GiB holds with room to spare.
PLAIN_ROWS = {"flan-t5-small": 128, "flan-t5-base": 64, "flan-t5-large": 32}
WARM_UP = 2
LONGEST_S = 100.0  # of the turns of one shape; three shapes with their starts stay under eight minutes


def compare(
    shape: str, *, device: str, batch_size: int, micro_batch_tokens: int, repeats: int, peak_tflops: float | None
) -> dict[str, Any]:
    """Both ways by turns on the same batches in bfloat16, optimizer included, and ours against the peak."""
    features = drawn_features(max(4096, batch_size))
    settings = training(batch_size, micro_batch_tokens)
    ours = make_student(shape).to(device)
    plain = copy.deepcopy(ours)
    ways = {
        "ours": _our_way(ours, features, settings),
        "plain": _plain_way(plain, features, settings, rows=PLAIN_ROWS[shape]),
    }
    turns: dict[str, list[float]] = {name: [] for name in ways}
    losses, rates, shares, began = [], [], [], time.perf_counter()
    for step in range(repeats + WARM_UP):
        indices = step_examples(features, step, training=settings, terms=TERMS, seed=0)
        found = {name: _timed(functools.partial(way, step, indices), device) for name, way in ways.items()}
        if step >= WARM_UP:
            for name, (_, seconds) in found.items():
                turns[name].append(seconds)
            losses.append(abs(found["ours"][0] - found["plain"][0]) / found["plain"][0])
            rates.append(arithmetic(ours, features.examples[indices]) / found["ours"][1] / 1e12)
            shares.append(features.examples[indices][:, [3, 5]].sum() / found["ours"][1])
        if step >= WARM_UP + 1 and time.perf_counter() - began > LONGEST_S:
            break
    name = torch.cuda.get_device_name() if device == "cuda" else device
    peak = peak_tflops or next((PEAK_TFLOPS[key] for key in PEAK_TFLOPS if key in name), None)
    return {
        "figures": {
            "gpu_step_vs_plain": ratios(turns["plain"], turns["ours"]),
            "gpu_rows_per_s": figure([batch_size / seconds for seconds in turns["ours"]]),
            "gpu_tokens_per_s": figure([float(share) for share in shares]),
            "gpu_tflops": figure(rates),
            **({"gpu_share_of_peak": figure([rate / peak for rate in rates])} if peak else {}),
            "gpu_loss_relative_difference": figure(losses),
        },
        "device": name,
        "peak_tflops": peak,
        "plain_rows_at_once": PLAIN_ROWS[shape],
        "step_s": {way: statistics.median(seconds) for way, seconds in turns.items()},
        "memory_gib_of_both": torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None,
    }


def _our_way(model: Any, features: Any, settings: Any) -> Callable[[int, np.ndarray], float]:
    optimizer, replica = make_optimizer(model, settings), make_replica(model, TERMS, shards=1)

    def step(number: int, indices: np.ndarray) -> float:
        totals = new_totals(TERMS)
        step_gradients(
            replica, features, indices, training=settings, dtype="bfloat16", seed=0, step=number, totals=totals
        )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float((totals.sums.cpu().numpy() / totals.tokens).sum())

    return step


def _plain_way(model: Any, features: Any, settings: Any, *, rows: int) -> Callable[[int, np.ndarray], float]:
    """As transformers' users write it: padded to the batch, under autocast, gradients clipped."""
    optimizer = make_optimizer(model, settings)
    device = next(model.parameters()).device

    def loss_of(ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        ids, labels = ids.to(device), labels.to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            return model(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).loss

    def step(number: int, indices: np.ndarray) -> float:
        loss = plain_gradients(loss_of, features, indices, longest=0, rows=rows)
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_gradient_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    return step


def _timed(action: Callable[[], float], device: str) -> tuple[float, float]:
    """What it returns, and its seconds until the GPU is done."""
    began = time.perf_counter()
    result = action()
    if device == "cuda":
        torch.cuda.synchronize()
    return result, time.perf_counter() - began


def arithmetic(model: Any, examples: np.ndarray) -> float:
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
