"""The search: Ray Tune over dotted paths of the schema, every trial from the same rationale stores.

In: an experiment with `search.space`. Out: the trials' results and the winner by validation accuracy.
"""

import functools
import time
from typing import Any

from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import BasicVariantGenerator, SearchAlgorithm, Searcher
from ray.tune.search.optuna import OptunaSearch

from tinyllm_ray import storage
from tinyllm_ray.config import UserError, digest, with_overrides
from tinyllm_ray.schema import Choice, Experiment, Grid, LogUniform, Search, Uniform
from tinyllm_ray.student.train import Trial
from tinyllm_ray.tracking import Tracker
from tinyllm_ray.tuning.methods import apply_method
from tinyllm_ray.tuning.trials import Inputs, Planned, make_trial, most_ranks, result_of, run_tune

METRIC = "eval/accuracy"
RUNG_METRICS = {"loss": ("eval/loss/label", "min"), "accuracy": (METRIC, "max")}


def run_search(experiment: Experiment, inputs: Inputs, *, tracker: Tracker) -> list[dict[str, Any]]:
    """Every trial's end, best validation accuracy first (then fewer parameters); `overrides` is what was sampled.

    Run again after a kill: known trials are suggested again in their order, finished ones answer from their folders.
    """
    search = experiment.search
    check_search(experiment)
    find = functools.partial(sampled_trial, experiment=experiment, inputs=inputs)
    log = storage.join(inputs.output_dir, "search", f"{search_digest(experiment)}.json")
    known = storage.read_json(log) if storage.exists(log) else []
    gpus = experiment.pools.student.gpus_per_worker * most_ranks(search)
    watch = SearchWatch(search, log, known, gpus_per_trial=gpus)
    grid = search.searcher == "grid"
    run_tune(
        find,
        {key: _domain(domain) for key, domain in search.space.items()},
        experiment=experiment,
        total=trial_count(search),
        title="search",
        tracker=tracker,
        output_dir=inputs.output_dir,
        watch=watch,
        stop=Budget(watch),
        search_alg=_searcher(search, known),
        scheduler=make_scheduler(experiment),
        num_samples=1 if grid else search.num_samples,
        time_budget_s=search.max_hours and search.max_hours * 3600,
    )
    return ranked(watch.sampled, find)


def ranked(sampled: list[dict[str, Any]], find: Any) -> list[dict[str, Any]]:
    ends = []
    for overrides in sampled:
        planned, trial = find(overrides)
        end = result_of(trial.dir)
        if end and METRIC in end:
            ends.append({**end, "overrides": overrides, "dir": trial.dir, "variant": planned.variant})
    return sorted(ends, key=lambda end: (-end[METRIC], end["parameters"], end["key"]))


def sampled_trial(overrides: dict[str, Any], *, experiment: Experiment, inputs: Inputs) -> tuple[Planned, Trial]:
    """The trial of one sample; `search.by_model` adds what goes with the sampled student."""
    planned = Planned("search", apply_sample(experiment, overrides), experiment.search.seed, score_test=False)
    return planned, make_trial(planned, inputs)


def apply_sample(experiment: Experiment, overrides: dict[str, Any]) -> Experiment:
    sampled = apply_method(with_overrides(experiment, overrides))
    extra = experiment.search.by_model
    return with_overrides(sampled, extra[sampled.student.model]) if sampled.student.model in extra else sampled


def search_digest(experiment: Experiment) -> str:
    """Names the search: what is sampled from, how, and what the trials share; not how many."""
    search = experiment.search.model_dump(mode="json", include={"space", "searcher", "seed", "objectives"})
    shared = experiment.model_dump(mode="json", include={"dataset", "student", "loss", "training", "evaluation"})
    return digest([search, shared])


def check_search(experiment: Experiment) -> None:
    search = experiment.search
    if not search.space:
        raise UserError("search.space is empty; give it paths such as loss.label_weight: {choice: [0.5, 1]}")
    grids = [key for key, domain in search.space.items() if isinstance(domain, Grid)]
    if search.searcher == "grid" and len(grids) < len(search.space):
        raise UserError("search.searcher is grid, so every entry of search.space must be `grid`")
    if search.searcher == "optuna" and grids:
        raise UserError(
            f"search.space.{grids[0]} is a grid, which optuna does not walk; use choice, or searcher random"
        )
    if len(search.objectives) > 1 and (search.searcher != "optuna" or search.scheduler != "none"):
        raise UserError("search.objectives has two entries; that needs searcher optuna and scheduler none")


def trial_count(search: Search) -> int:
    count = 1 if search.searcher == "grid" else search.num_samples
    for domain in search.space.values():
        count *= len(domain.grid) if isinstance(domain, Grid) else 1
    return count


def _domain(domain: Choice | Grid | Uniform | LogUniform) -> Any:
    match domain:
        case Choice():
            return tune.choice(domain.choice)
        case Grid():
            return tune.grid_search(domain.grid)
        case Uniform():
            return tune.uniform(*domain.uniform)
        case LogUniform():
            return tune.loguniform(*domain.loguniform)


def _searcher(search: Search, known: list[dict[str, Any]]) -> Searcher | SearchAlgorithm:
    if search.searcher != "optuna":
        return BasicVariantGenerator(random_state=search.seed)
    names = {"accuracy": METRIC, "parameters": "parameters"}
    directions = {"accuracy": "max", "parameters": "min"}
    metrics = [names[objective] for objective in search.objectives]
    modes = [directions[objective] for objective in search.objectives]
    one = len(metrics) == 1
    return OptunaSearch(
        metric=metrics[0] if one else metrics,
        mode=modes[0] if one else modes,
        seed=search.seed,
        points_to_evaluate=known[: search.num_samples] or None,
    )


def make_scheduler(experiment: Experiment) -> TrialScheduler:
    search = experiment.search
    if search.scheduler == "none":
        return FIFOScheduler()
    metric, mode = RUNG_METRICS[search.rung_metric]
    return AsyncHyperBandScheduler(
        time_attr="step",
        metric=metric,
        mode=mode,
        max_t=experiment.training.steps + 1,  # the last evaluation is not a reason to stop
        grace_period=min(search.grace_steps, experiment.training.steps),
        reduction_factor=search.reduction_factor,
        brackets=3 if search.scheduler == "hyperband" else 1,
    )


class SearchWatch(tune.Callback):
    """Writes down what was sampled, and knows when the budget is spent."""

    def __init__(self, search: Search, log: str, known: list[dict[str, Any]], *, gpus_per_trial: float):
        self.search, self.log, self.gpus = search, log, gpus_per_trial
        self.sampled = list(known)
        self.started: dict[str, float] = {}
        self.gpu_seconds = 0.0
        self.best = -1.0
        self.worse_in_a_row = 0

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self.started.setdefault(trial.trial_id, time.monotonic())
        if trial.config not in self.sampled:
            self.sampled.append(dict(trial.config))
            storage.write_json(self.log, self.sampled)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        accuracy = trial.last_result[METRIC]
        better = accuracy > self.best
        self.best = max(self.best, accuracy)
        self.worse_in_a_row = 0 if better else self.worse_in_a_row + 1
        self.gpu_seconds += (time.monotonic() - self.started[trial.trial_id]) * self.gpus

    def spent(self) -> bool:
        search = self.search
        patience = search.patience_trials is not None and self.worse_in_a_row >= search.patience_trials
        return patience or (search.max_gpu_hours is not None and self.gpu_seconds >= search.max_gpu_hours * 3600)


class Budget(tune.Stopper):
    """Ends the search as a whole; single trials are the scheduler's."""

    def __init__(self, watch: SearchWatch):
        self.watch = watch

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.watch.spent()
