"""Learned weights against a search over weights: accuracy and cost.

    python experiments/benchmarks/weights.py --json [--output FOLDER]

For each seed eight fixed weightings, drawn as the paper's search does from {0.01, 0.1, 0.5, 1, 2, 3}, are trained on
the first two teachers of experiments/conflict.yaml; the one with the best validation accuracy is compared with one
training with `loss.weighting: uncertainty` and one with `confidence` on the same test questions. After each seed all
figures so far are written to <output>/weights.json. A run that was stopped goes on from its output folder.
"""

import argparse
import json
import random
import sys
from dataclasses import asdict
from typing import Any

import conflict
import trainings
from corrupted import TEACHERS, two_teachers

from tinyllm_ray import stages, storage
from tinyllm_ray.config import with_overrides
from tinyllm_ray.report.effects import compare
from tinyllm_ray.schema import Experiment
from tinyllm_ray.session import Session

WEIGHTS = [0.01, 0.1, 0.5, 1, 2, 3]  # of the paper's search
LEARNED = ("uncertainty", "confidence")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiment", default="experiments/conflict.yaml")
    parser.add_argument("--output", default=None, help="folder to start from or to go on in; default: a new one")
    parser.add_argument("--seeds", type=int, nargs="+", default=None)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    experiment = conflict.benchmark_experiment(arguments)
    result: dict[str, Any] = {}
    with Session(experiment, say=lambda line: print(line, file=sys.stderr)) as session:
        stages.generate(session)
        named = {name: (variant, session.inputs) for name, variant in variants(experiment, arguments.trials).items()}
        for done in trainings.train_all(session, named, processes=arguments.processes):
            result = figures(done)
            storage.write_json(storage.join(session.dir, "weights.json"), result)
    print(json.dumps(result))


def variants(experiment: Experiment, trials: int) -> dict[str, Experiment]:
    two = two_teachers(experiment)
    rng = random.Random("weights")
    keys = ["loss.label_weight", *(f"loss.rationale_weights.{name}" for name in TEACHERS)]
    fixed = {f"fixed_{i}": with_overrides(two, {key: rng.choice(WEIGHTS) for key in keys}) for i in range(trials)}
    return fixed | {kind: with_overrides(two, {"loss.weighting": kind}) for kind in LEARNED}


def figures(done: dict[Any, Any]) -> dict[str, Any]:
    scores = trainings.test_scores(done)
    seeds = sorted({seed for _, seed in done})
    names = [name for name in scores if name not in LEARNED]
    best = {seed: max(names, key=lambda name: done[name, seed].end()["eval/accuracy"]) for seed in seeds}
    whole = {**scores, "searched": {seed: scores[name][seed] for seed, name in best.items()}}
    spent = trainings.seconds(done)
    gaps = [compare(whole, kind, "searched", about=kind, kind="learned") for kind in LEARNED]
    return {
        "seeds": seeds,
        "searched": best,
        "per_seed": {name: [sum(r.values()) / len(r) for r in by.values()] for name, by in whole.items()},
        "over_searched": [asdict(gap) for gap in gaps if gap],
        "training_s": {"searched": sum(spent[name] for name in names), **{kind: spent[kind] for kind in LEARNED}},
    }


if __name__ == "__main__":
    main()
