"""Trainings as Tune trials: each has its state in its folder, so a run that was killed continues from the folders.

In: resolved trainings, a fixed list or as a searcher suggests them. Out: one result per trial, in its folder.
"""

import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.tune.execution import class_cache
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from tinyllm_ray import storage
from tinyllm_ray.cluster import pools
from tinyllm_ray.redact import redact_text
from tinyllm_ray.schema import Experiment, Search
from tinyllm_ray.schema.base import counted
from tinyllm_ray.student.ranks import run_trial_ddp
from tinyllm_ray.student.records import read_evaluations
from tinyllm_ray.student.train import run_trial
from tinyllm_ray.terminal.progress import say
from tinyllm_ray.tuning.follow import follow
from tinyllm_ray.tuning.training import FAILURE, STOPPED, Training, read_trial

if TYPE_CHECKING:  # the processes of trials import this module, and MLflow would take half of their start
    from tinyllm_ray.tracking.tracker import Tracker


def run_on_pool(training: Training, *, tracker: "Tracker") -> dict[str, Any]:
    """One training on every rank of the student pool; its result. Ray is needed only where it is not done yet."""
    watch(training, tracker)
    spec = training.spec
    title = f"{training.name} on {counted(spec.ranks, 'rank')}"
    steps = spec.experiment.training.steps
    with follow({training.trial.key: training}, title=title, total=1, steps=steps):
        return run_trial_ddp(training.trial, ranks=spec.ranks)


def run_trials(
    trainings: dict[str, Training],
    *,
    experiment: Experiment,
    output_dir: str,
    title: str,
    total: int,
    tracker: "Tracker",
    searcher: Searcher | None = None,
    scheduler: TrialScheduler | None = None,
    callbacks: Iterable[tune.Callback] = (),
    stop: tune.Stopper | None = None,
    time_budget_s: float | None = None,
) -> None:
    """Run trainings, as many at once as the student pool holds. Tune's own state is disposable: the folders count.

    `trainings` by key; a `searcher` adds what it suggests there, until `total` were suggested.
    """
    _hand_on_no_keys()
    pool, ranks = experiment.pools.student, most_ranks(experiment.search)
    at_once = pools.concurrent_trials(pool, ranks)
    say(f"student pool: {counted(pool.workers, 'worker')}, up to {ranks} a trial: {at_once} at once")
    local = storage.is_local(output_dir)
    with follow(trainings, title=title, total=total, steps=experiment.training.steps):
        watch = _Watch(trainings, tracker)
        trainable = tune.with_parameters(_trainable, output_dir=output_dir, ranks=ranks)
        tuner = tune.Tuner(
            tune.with_resources(trainable, pools.trial_resources(pool, ranks)),
            param_space={} if searcher else {"key": tune.grid_search(list(trainings))},
            tune_config=tune.TuneConfig(
                max_concurrent_trials=at_once,
                reuse_actors=ranks == 1,
                search_alg=searcher,
                scheduler=scheduler,
                num_samples=total if searcher else 1,
                time_budget_s=time_budget_s,
            ),
            run_config=tune.RunConfig(
                name=f"{title.replace(' ', '-')}-{time.time_ns()}",
                storage_path=tempfile.mkdtemp(prefix="tinyllm-tune-") if local else storage.join(output_dir, "tune"),
                verbose=0,
                callbacks=[watch, *callbacks],
                stop=stop,
                failure_config=tune.FailureConfig(max_failures=experiment.search.max_failures),
            ),
        )
        tuner.fit()


def _hand_on_no_keys() -> None:
    """Tune gives its trials the driver's keys of AWS in their runtime environment, which Ray writes to a log and into
    the titles of processes. The nodes have their own, which Ray Data and Ray Train need too."""
    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(
        {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}
    )


def most_ranks(search: Search) -> int:
    """The most ranks a trial may have: `search.by_model` may give a larger student more."""
    key = "search.ranks_per_trial"
    return max([search.ranks_per_trial, *(changes[key] for changes in search.by_model.values() if key in changes)])


def _trainable(config: dict[str, Any], output_dir: str, ranks: int) -> None:
    """`ranks`: the most of any trial of this search; one means that the trial trains in Tune's own process."""
    trial = read_trial(output_dir, config["key"])
    search = trial.experiment["search"]
    if search["scheduler"] != "none" and storage.exists(storage.join(trial.dir, STOPPED)):
        for row in read_evaluations(trial.dir):
            tune.report(row)
    elif ranks == 1:
        run_trial(trial, report=tune.report)
    else:
        from ray.tune.integration.ray_train import TuneReportCallback

        run_trial_ddp(trial, ranks=search["ranks_per_trial"], report_callback=TuneReportCallback())


def watch(training: Training, tracker: "Tracker") -> None:
    spec, trial = training.spec, training.trial
    tags = {"variant": spec.variant, "ranks": str(spec.ranks)}
    tags |= {f"differs.{key}": str(value) for key, value in spec.overrides.items()}
    tags |= {"arrivals": training.arrivals} if training.arrivals else {}
    tracker.watch(trial.key, folder=trial.dir, name=training.name, config=spec.experiment, seed=spec.seed, tags=tags)


class _Watch(tune.Callback):
    """Driver side of each trial: its MLflow record, and a mark where it ended early."""

    def __init__(self, trainings: dict[str, Training], tracker: "Tracker") -> None:
        self.trainings, self.tracker = trainings, tracker

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return tune.Callback, ()  # Tune pickles its callbacks into a snapshot that nobody reads

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        watch(self.trainings[trial.config["key"]], self.tracker)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._end(trial, STOPPED, {})

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        text = Path(trial.error_file).read_text() if trial.error_file else "no traceback was kept"
        self._end(trial, FAILURE, {"traceback": redact_text(text)})

    def _end(self, trial: Any, mark: str, more: dict[str, Any]) -> None:
        ours = self.trainings[trial.config["key"]]
        if ours.end() is None:
            last = trial.last_result or {}
            known = {name: last[name] for name in ("step", "eval/accuracy", "parameters") if name in last}
            steps = known.pop("step") if "step" in known else 0
            end = {"key": ours.trial.key, "seed": ours.spec.seed, "steps": steps, **known, **more}
            storage.write_json(storage.join(ours.trial.dir, mark), end)
