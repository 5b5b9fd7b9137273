"""What a search costs beside its training: start-up per trial, ASHA's share of the steps, and what that share loses.

    python experiments/benchmarks/search_cost.py
    python experiments/benchmarks/search_cost.py --seeds 0 1 2 3 4 5 6 7

Eight trials of the miniature in full and the same eight under ASHA, from the same stores; figures are means over
searches of different seeds, since what ASHA saves depends on the order in which good trials come. Each search is
written when it is done, so more seeds only add theirs: two are planned to stay under ten minutes with the stores that
come first. A trial's overhead is the time that the student pool's workers were held, less the time inside training
loops, by trial.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import measuring

from tinyllm_ray import stages, storage
from tinyllm_ray.cluster import pools
from tinyllm_ray.config import load_experiment, with_overrides
from tinyllm_ray.schema import Experiment
from tinyllm_ray.session import Session
from tinyllm_ray.tracking.tracker import Tracker
from tinyllm_ray.tuning.search import run_search

SPACE = {
    "loss.label_weight": {"uniform": [0.5, 2.0]},
    "training.learning_rate": {"loguniform": [3e-4, 1e-2]},
}
FIGURES = ("trial_overhead_s", "asha_step_share", "winner_gap_points")


def main() -> None:
    parser = measuring.make_parser(__doc__)
    parser.add_argument("--experiment", default="experiments/miniature.yaml")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of the searches")
    arguments = parser.parse_args()
    sys.exit(measuring.measure({"searches": lambda: searches(arguments)}, arguments))


def searches(arguments: argparse.Namespace) -> dict[str, Any]:
    folder = Path(arguments.folder, "search_cost", "searches").resolve()
    experiment = benchmark_experiment(arguments, folder)
    key = {name: value for name, value in measuring.key_of(arguments).items() if name != "seeds"}
    found = []
    with Session(experiment, say=measuring.say) as session:
        generated_before = rows_generated(stages.generate(session))
        session.connect("student")
        for seed in arguments.seeds:
            one = with_overrides(experiment, {"search.seed": seed})
            path = folder / f"search-{seed}.json"
            found.append(measuring.remembered(path, key, lambda one=one: compare(session, one), again=arguments.again))
        generated_after = rows_generated(stages.generate(session))
    figures = {name: measuring.figure([search[name] for search in found], middle=statistics.mean) for name in FIGURES}
    figures["teacher_rows_generated"] = measuring.figure([generated_after])
    return {"figures": figures, "teacher_rows_generated_before": generated_before, "searches": found}


def benchmark_experiment(arguments: argparse.Namespace, folder: Path) -> Experiment:
    steps = arguments.steps
    changes = {
        "output.dir": str(folder),
        "training.steps": steps,
        "training.eval_every_steps": steps // 16,
        "training.checkpoint_every_steps": steps // 16,
        "search.space": SPACE,
        "search.num_samples": arguments.trials,
        "search.grace_steps": steps // 16,
        "search.searcher": "random",
    }
    return load_experiment(arguments.experiment, [f"{key}={json.dumps(value)}" for key, value in changes.items()])


def compare(session: Session, experiment: Experiment) -> dict[str, Any]:
    full, asha = (measure(session, experiment, scheduler) for scheduler in ("none", "asha"))
    return {
        "seed": experiment.search.seed,
        "trial_overhead_s": overhead_s(full, experiment),
        "asha_step_share": asha["steps"] / full["steps"],
        "winner_gap_points": 100 * (full["best"] - asha["best"]),
        "full": full,
        "asha": asha,
    }


def rows_generated(reports: dict[str, Any]) -> int:
    return sum(report["generated"] for report in reports.values())


def measure(session: Session, experiment: Experiment, scheduler: str) -> dict[str, Any]:
    """One search from no trial at all; the two differ in nothing but the scheduler."""
    storage.remove_folder(storage.join(session.dir, "trials"))
    searched = with_overrides(experiment, {"search.scheduler": scheduler})
    with Tracker(searched, output_dir=session.dir, lineage={}) as tracker:
        started = time.monotonic()
        ends = run_search(searched, session.inputs, tracker=tracker, before_trials=lambda: session.connect("student"))
        wall_s = time.monotonic() - started
    return {
        "wall_s": wall_s,
        "steps": sum(end["steps"] for end in ends),
        "best": max(end["eval/accuracy"] for end in ends),
        "training_s": [end["train_s"] for end in ends if "train_s" in end],
        "by_trial": [[end["steps"], end["eval/accuracy"]] for end in ends],
    }


def overhead_s(full: dict[str, Any], experiment: Experiment) -> float:
    """Worker seconds held by the search, less those inside training loops, by trial."""
    at_once = pools.concurrent_trials(experiment.pools.student, experiment.search.ranks_per_trial)
    trials = len(full["training_s"])
    return (full["wall_s"] * min(at_once, trials) - sum(full["training_s"])) / trials


if __name__ == "__main__":
    main()
