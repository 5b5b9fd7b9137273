"""What a training counts between two log lines, and the metrics that they become."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tinyllm_ray.student.objective import Term
from tinyllm_ray.student.weighting import Weighting


@dataclass
class Totals:
    """What is summed up between two log lines, over all ranks."""

    names: list[str]  # of the terms
    sums: torch.Tensor  # float64 [T]: token losses of each term
    tokens: np.ndarray  # int64 [T]
    weights: np.ndarray  # float64 [T]: of the terms, one step after another
    trained: int = 0  # target tokens
    processed: int = 0
    real: int = 0
    steps: int = 0
    started: float = 0.0


def new_totals(terms: Sequence[Term]) -> Totals:
    count = len(terms)
    sums, tokens, weights = torch.zeros(count, dtype=torch.float64), np.zeros(count, np.int64), np.zeros(count)
    return Totals([term.name for term in terms], sums, tokens, weights, started=time.perf_counter())


def means(sums: Sequence[float], counts: Sequence[int]) -> list[float | None]:
    return [total / count if count else None for total, count in zip(sums, counts, strict=True)]


def metrics(totals: Totals, weighting: Weighting, norm: torch.Tensor, rate: float) -> dict[str, float]:
    """Means over the steps since the last log line."""
    names = totals.names
    found = zip(names, means(totals.sums.tolist(), totals.tokens.tolist()), strict=True)
    mean_of = {name: mean for name, mean in found if mean is not None}
    weights = dict(zip(names, (totals.weights / totals.steps).tolist(), strict=True))
    return {
        "train/loss": sum(weights[name] * mean for name, mean in mean_of.items()),
        **{f"train/loss/{name}": mean for name, mean in mean_of.items()},
        **({f"train/weight/{name}": weight for name, weight in weights.items()} if weighting.varies else {}),
        "train/learning_rate": rate,
        "train/gradient_norm": norm.item(),
        "time/step_ms": 1000 * (time.perf_counter() - totals.started) / totals.steps,
        "tokens/real_share": totals.real / max(1, totals.processed),
        "tokens/trained": float(totals.trained),
    }
