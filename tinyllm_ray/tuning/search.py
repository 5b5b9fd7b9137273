"""The search: Ray Tune over dotted paths of the schema, every trial from the same rationale stores.

In: an experiment with `search.space`. Out: the trials' results, best first by validation accuracy.
"""

import time
from collections.abc import Callable
from typing import Any

from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from tinyllm_ray import storage
from tinyllm_ray.config import digest
from tinyllm_ray.schema import Choice, Experiment, Grid, LogUniform, Search, Uniform
from tinyllm_ray.tracking.tracker import Tracker
from tinyllm_ray.tuning.halving import SafeHalving
from tinyllm_ray.tuning.space import apply_sample, check_search, draw_samples
from tinyllm_ray.tuning.training import Inputs, Training, TrainingSpec, resolve
from tinyllm_ray.tuning.trials import most_ranks, run_trials

METRIC = "eval/accuracy"
RUNG_METRICS = {"loss": ("eval/loss/label", "min"), "accuracy": (METRIC, "max")}


def run_search(
    experiment: Experiment, inputs: Inputs, *, tracker: Tracker, before_trials: Callable[[], None]
) -> list[dict[str, Any]]:
    """Every trial's end, best validation accuracy first (then fewer parameters); `overrides` is what was sampled.

    Run again after a kill: the same samples come in the same order, finished trials answer from their folders.
    `before_trials` is called where one is left to do, and joins Ray.
    """
    search = experiment.search
    check_search(experiment)
    trainings: dict[str, Training] = {}
    searcher = None
    if search.searcher == "optuna":
        searcher = _Optuna(experiment, inputs, trainings)
    else:
        for overrides in draw_samples(search):
            training = resolve(sampled(experiment, overrides), inputs)
            trainings[training.trial.key] = training
    if searcher is None and all(training.done() for training in trainings.values()):
        return ranked(trainings)
    before_trials()
    gpus = experiment.pools.student.gpus_per_worker * most_ranks(search)
    budget = SearchBudget(search, gpus_per_trial=gpus)
    run_trials(
        trainings,
        experiment=experiment,
        output_dir=inputs.output_dir,
        title="search",
        total=search.num_samples if searcher else len(trainings),
        tracker=tracker,
        searcher=searcher,
        scheduler=make_scheduler(experiment),
        callbacks=[budget],
        stop=WhenSpent(budget),
        time_budget_s=search.max_hours and search.max_hours * 3600,
    )
    return ranked(trainings)


def ranked(trainings: dict[str, Training]) -> list[dict[str, Any]]:
    ends = []
    for training in trainings.values():
        end = training.end()
        if end and METRIC in end:
            ends.append({**end, "overrides": training.spec.overrides, "dir": training.trial.dir})
    return sorted(ends, key=lambda end: (-end[METRIC], end["parameters"], end["key"]))


def sampled(experiment: Experiment, overrides: dict[str, Any]) -> TrainingSpec:
    """The training of one sample; `search.by_model` adds what goes with the sampled student."""
    of_sample = apply_sample(experiment, overrides)
    return TrainingSpec(
        "search",
        of_sample,
        seed=experiment.search.seed,
        ranks=of_sample.search.ranks_per_trial,
        score_test=False,
        overrides=overrides,
    )


def search_digest(experiment: Experiment) -> str:
    """Names the search: what is sampled from, how, and what the trials share; not how many."""
    search = experiment.search.model_dump(mode="json", include={"space", "searcher", "seed", "objectives"})
    shared = experiment.model_dump(mode="json", include={"dataset", "student", "loss", "training", "evaluation"})
    return digest([search, shared])


def make_scheduler(experiment: Experiment) -> TrialScheduler:
    search = experiment.search
    if search.scheduler == "none":
        return FIFOScheduler()
    metric, mode = RUNG_METRICS[search.rung_metric]
    steps = experiment.training.steps
    first_step = min(search.grace_steps, steps)
    if search.scheduler == "asha":
        return SafeHalving(
            metric=metric, mode=mode, first_step=first_step, last_step=steps, factor=search.reduction_factor
        )
    return AsyncHyperBandScheduler(
        time_attr="step",
        metric=metric,
        mode=mode,
        max_t=steps + 1,  # the last evaluation is not a reason to stop
        grace_period=first_step,
        reduction_factor=search.reduction_factor,
        brackets=3,
    )


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


class _Optuna(Searcher):
    """Optuna's suggestions as trainings: each is resolved here, on the driver, and goes to Tune by its key.

    What was suggested is written down, so that a search that was killed suggests the same again, in its order.
    """

    def __init__(self, experiment: Experiment, inputs: Inputs, trainings: dict[str, Training]) -> None:
        search = experiment.search
        self._experiment, self._inputs, self._trainings = experiment, inputs, trainings
        self._log = storage.join(inputs.output_dir, "search", f"{search_digest(experiment)}.json")
        known = storage.read_json(self._log) if storage.exists(self._log) else []
        self._suggested: list[dict[str, Any]] = []
        names = {"accuracy": (METRIC, "max"), "parameters": ("parameters", "min")}
        metrics, modes = zip(*(names[objective] for objective in search.objectives), strict=True)
        one = len(metrics) == 1
        super().__init__(metric=metrics[0] if one else list(metrics), mode=modes[0] if one else list(modes))
        self._optuna = OptunaSearch(
            space=OptunaSearch.convert_search_space({key: _domain(d) for key, d in search.space.items()}),
            metric=self.metric,
            mode=self.mode,
            seed=search.seed,
            points_to_evaluate=known[: search.num_samples] or None,
        )

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        overrides = self._optuna.suggest(trial_id)
        if overrides is None or overrides == Searcher.FINISHED:
            return overrides
        training = resolve(sampled(self._experiment, overrides), self._inputs)
        key = training.trial.key
        if key in self._trainings and self._trainings[key].end() is None:  # the same sample is under way
            self._optuna.on_trial_complete(trial_id, error=True)
            return None
        self._trainings[key] = training
        self._suggested.append(overrides)
        storage.write_json(self._log, self._suggested)
        return {"key": key}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self._optuna.on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self._optuna.on_trial_complete(trial_id, result, error)

    def save(self, checkpoint_path: str) -> None:
        """Tune's own snapshot is not used: the log of suggestions is what a later run reads."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a search continues from its log of suggestions")


class SearchBudget(tune.Callback):
    """Knows when the search has used up what it may."""

    def __init__(self, search: Search, *, gpus_per_trial: float) -> None:
        self.search, self.gpus = search, gpus_per_trial
        self.started: dict[str, float] = {}
        self.gpu_seconds = 0.0
        self.best = -1.0
        self.worse_in_a_row = 0

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self.started.setdefault(trial.trial_id, time.monotonic())

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


class WhenSpent(tune.Stopper):
    """Ends the search as a whole; single trials are the scheduler's."""

    def __init__(self, budget: SearchBudget) -> None:
        self.budget = budget

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.budget.spent()
