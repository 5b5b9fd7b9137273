"""Which rationale to learn from when teachers contradict each other: accuracy with one to four teachers, and CMV.

    python experiments/benchmarks/conflict.py --json [--output FOLDER] [--seeds 0 1 2 3 4]

experiments/conflict.yaml is trained in every way to choose a teacher for each question, as `tinyllm-ray ablate
--growing` does, one seed after another; after each seed all figures so far are written to <output>/conflict.json. A run
that was stopped goes on from its output folder.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from typing import Any

import trainings

from tinyllm_ray import stages, storage
from tinyllm_ray.config import load_experiment
from tinyllm_ray.report.effects import compare
from tinyllm_ray.report.growth import grown
from tinyllm_ray.schema import Experiment
from tinyllm_ray.session import Session
from tinyllm_ray.tuning.methods import growth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiment", default="experiments/conflict.yaml")
    parser.add_argument("--output", default=None, help="folder to start from or to go on in; default: a new one")
    parser.add_argument("--seeds", type=int, nargs="+", default=None)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    experiment = benchmark_experiment(arguments)
    result: dict[str, Any] = {}
    with Session(experiment, say=lambda line: print(line, file=sys.stderr)) as session:
        generated = stages.generate(session)
        own = {name: report["accuracy"] for name, report in generated.items()}
        variants = {name: (variant, session.inputs) for name, variant in growth(experiment).items()}
        for done in trainings.train_all(session, variants, processes=arguments.processes):
            result = {"own_answers": own, **figures(done)}
            storage.write_json(storage.join(session.dir, "conflict.json"), result)
        stages.report(session)
    print(json.dumps(result))


def benchmark_experiment(arguments: argparse.Namespace) -> Experiment:
    changes = {"output.dir": arguments.output or tempfile.mkdtemp(prefix="conflict-")}
    changes |= {"seeds": arguments.seeds} if arguments.seeds else {}
    return load_experiment(arguments.experiment, [f"{key}={json.dumps(value)}" for key, value in changes.items()])


def figures(done: dict[Any, Any]) -> dict[str, Any]:
    scores = trainings.test_scores(done)
    rows = grown(scores)
    most = max(count for row in rows for count in row.accuracy)
    seeds = sorted({seed for _, seed in done})
    whole = f"first_{most}_all"
    gains = [compare(scores, f"first_{most}_{row.mode}", whole, about=row.mode, kind="grown") for row in rows]
    return {
        "seeds": seeds,
        "test_questions": len(scores[whole][seeds[0]]),
        "training_s": trainings.seconds(done),
        "per_seed": {name: [sum(r.values()) / len(r) for r in by.values()] for name, by in scores.items()},
        "growth": [asdict(row) for row in rows],
        "over_all_with_most": [asdict(gain) for gain in gains if gain],
    }


if __name__ == "__main__":
    main()
