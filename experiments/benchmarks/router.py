"""The router on public scores: which of seven language models is likely to answer a question, from its vector alone.

    python experiments/benchmarks/router.py ../shared/reference_data_router --encoder FOLDER --json

The data are RouterDC's (arXiv 2409.19886): a question and the score of each model, from 0 to 1. Settings are chosen
on a fifth of train; the router is then fitted on all of train, once for each seed, and test is scored once. The
interval is a 95% bootstrap over seeds and questions. Compared are the single model that is best on test, the model that
is best on train for each set, and the best model for each question (oracle). FOLDER is a sentence-transformers model;
without it the words of a question are its vector.
"""

import argparse
import itertools
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tinyllm_ray.data.model_digest import folder_digest
from tinyllm_ray.report.effects import interval
from tinyllm_ray.routing.contrastive import fit
from tinyllm_ray.routing.encoder import load_named, word_vectors
from tinyllm_ray.schema import Router as Settings

SETS = {
    "ARC-challenge": ("arc_challenge_train.json", "arc_challenge_test.json"),
    "GSM8K": ("gsm8k-train.json", "gsm8k-test.json"),
}
GRID = {"learning_rate": (5e-5, 2e-4), "best": (1, 3), "steps": (300, 1000)}
VALIDATION = 0.2  # of train
SPLITS = ("train", "test")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", type=Path, default=Path("../shared/reference_data_router"))
    parser.add_argument("--encoder", default=None)
    parser.add_argument("--cache", type=Path, default=None, help="folder that keeps the vectors")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    started = time.monotonic()
    parts = read_parts(arguments)
    read_s = time.monotonic() - started
    chosen = {"together": list(SETS), **{name: [name] for name in SETS}}
    rows = {title: measure([parts[name] for name in names], arguments.seeds) for title, names in chosen.items()}
    result = {
        "machine": {"cpus": os.cpu_count(), "processor": platform.processor() or platform.machine()},
        "encoder": Path(arguments.encoder).name if arguments.encoder else "words",
        "seeds": arguments.seeds,
        "vectors_s": read_s,
        "sets": rows,
    }
    print(json.dumps(result) if arguments.json else as_text(result))


def read_parts(arguments: argparse.Namespace) -> dict[str, dict[str, np.ndarray]]:
    """By set: vectors [questions, width] and scores [questions, models] of train and test."""
    files = [(name, split, path) for name, pair in SETS.items() for split, path in zip(SPLITS, pair, strict=True)]
    rows = {(name, split): json.loads((arguments.data / path).read_text()) for name, split, path in files}
    texts = [row["question"] for part in rows.values() for row in part]
    vectors = np.split(vectors_of(texts, arguments), np.cumsum([len(part) for part in rows.values()])[:-1])
    parts: dict[str, dict[str, np.ndarray]] = {name: {} for name in SETS}
    for ((name, split), part), found in zip(rows.items(), vectors, strict=True):
        scores = np.array([list(row["scores"].values()) for row in part], np.float32)
        parts[name] |= {f"{split} vectors": found, f"{split} scores": scores}
    return parts


def vectors_of(texts: list[str], arguments: argparse.Namespace) -> np.ndarray:
    if arguments.encoder is None:
        return word_vectors(texts)
    key = f"vectors-{folder_digest(arguments.encoder)}-{len(texts)}.npy"
    cached = arguments.cache / key if arguments.cache else None
    if cached and cached.exists():
        return np.load(cached)
    vectors = load_named(arguments.encoder, max_tokens=256).vectors(texts, advance=lambda _: None)
    if cached:
        cached.parent.mkdir(parents=True, exist_ok=True)
        np.save(cached, vectors)
    return vectors


def measure(parts: list[dict[str, np.ndarray]], seeds: list[int]) -> dict[str, Any]:
    train_vectors, train_scores, test_vectors, test_scores = (
        np.concatenate([part[name] for part in parts])
        for name in ("train vectors", "train scores", "test vectors", "test scores")
    )
    started = time.monotonic()
    settings, tried = choose_settings(train_vectors, train_scores)
    chosen_s = time.monotonic() - started
    taken = [route(train_vectors, train_scores, test_vectors, settings, seed=seed) for seed in seeds]
    scores = np.stack([test_scores[np.arange(len(test_scores)), places] for places in taken])  # [seeds, questions]
    single = test_scores[:, test_scores.mean(0).argmax()]
    by_set = [part["test scores"][:, part["train scores"].mean(0).argmax()] for part in parts]
    return {
        "questions": len(test_scores),
        "router": float(scores.mean()),
        "interval": interval(scores.astype(float)),
        "by_seed": scores.mean(1).tolist(),
        "over_best_single": float((scores - single).mean()),
        "over_best_single_interval": interval((scores - single).astype(float)),
        "best_single": float(single.mean()),
        "best_single_of_train": float(test_scores[:, train_scores.mean(0).argmax()].mean()),
        "best_of_train_for_each_set": float(np.concatenate(by_set).mean()),
        "oracle": float(test_scores.max(1).mean()),
        "settings": settings.model_dump(include=set(GRID)),
        "validation": tried,
        "choosing_s": chosen_s,
        "fitting_s": (time.monotonic() - started - chosen_s) / len(seeds),
    }


def choose_settings(vectors: np.ndarray, scores: np.ndarray) -> tuple[Settings, list[dict[str, Any]]]:
    """The settings with the best mean score on a fifth of train, with two seeds."""
    order = np.random.default_rng(0).permutation(len(vectors))
    held, rest = np.split(order, [int(VALIDATION * len(order))])
    tried = []
    for values in itertools.product(*GRID.values()):
        settings = dict(zip(GRID, values, strict=True))
        taken = [route(vectors[rest], scores[rest], vectors[held], Settings(**settings), seed=seed) for seed in (0, 1)]
        tried.append({**settings, "score": float(np.mean([scores[held, places].mean() for places in taken]))})
    best = max(tried, key=lambda row: row["score"])
    return Settings(**{name: best[name] for name in GRID}), tried


def route(
    train_vectors: np.ndarray, train_scores: np.ndarray, vectors: np.ndarray, settings: Settings, *, seed: int
) -> np.ndarray:
    """[questions]: the place of the model that a router fitted on train takes."""
    router = fit(torch.from_numpy(train_vectors), torch.from_numpy(train_scores), settings, seed=seed)
    return router.probabilities(torch.from_numpy(vectors)).argmax(1).numpy()


def as_text(result: dict[str, Any]) -> str:
    lines = [f"encoder {result['encoder']}, seeds {result['seeds']}"]
    for title, row in result["sets"].items():
        low, high = row["interval"]
        gain_low, gain_high = row["over_best_single_interval"]
        lines += [
            f"{title} ({row['questions']} questions): router {row['router']:.3f} ({low:.3f} to {high:.3f})",
            f"  over the best single model, {row['best_single']:.3f}: {row['over_best_single']:+.3f} "
            f"({gain_low:+.3f} to {gain_high:+.3f})",
            f"  single model that is best on train {row['best_single_of_train']:.3f}, "
            f"best of train for each set {row['best_of_train_for_each_set']:.3f}, oracle {row['oracle']:.3f}",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
