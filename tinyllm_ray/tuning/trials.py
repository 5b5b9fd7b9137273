"""Trainings as Tune trials: each is a folder that is its own state, so a run killed anywhere goes on from the folders.

In: experiments (a fixed list, or sampled by a search). Out: one result per trial, read from <output_dir>/trials/<key>/.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from rich.progress import Progress

from tinyllm_ray import storage
from tinyllm_ray.cluster import pools
from tinyllm_ray.config import digest
from tinyllm_ray.data.features import build_features
from tinyllm_ray.data.questions import QuestionFile
from tinyllm_ray.progress import follow_training, make_bars
from tinyllm_ray.schema import Experiment, Search
from tinyllm_ray.student.model import prepare_tokenizer
from tinyllm_ray.student.records import read_evaluations
from tinyllm_ray.student.train import Trial, run_trial, run_trial_ddp
from tinyllm_ray.tracking import Tracker


@dataclass(frozen=True)
class Inputs:
    """What every training of a run reads."""

    output_dir: str
    questions: dict[str, QuestionFile]  # by split
    stores: dict[str, str]  # teacher (or "<teacher>:answers") -> store folder


@dataclass(frozen=True)
class Planned:
    """A training with the name it has in tables and in MLflow."""

    variant: str
    experiment: Experiment
    seed: int
    score_test: bool


def make_trial(planned: Planned, inputs: Inputs) -> Trial:
    """Tokenizer and features (cached) and the trial's key: equal settings and data, equal key, on every machine."""
    experiment = planned.experiment
    files = {"questions": inputs.questions, "stores": inputs.stores, "output_dir": inputs.output_dir}
    tokenizer = prepare_tokenizer(experiment, **files)
    features = build_features(experiment, tokenizer_folder=tokenizer, **files)
    matters = experiment.model_dump(mode="json", include={"student", "loss", "training", "evaluation"})
    made_of = digest([matters, features.rpartition("/")[2], planned.score_test])
    key = f"{planned.variant}-seed{planned.seed}-{made_of}"
    return Trial(
        key=key,
        experiment=experiment.model_dump(mode="json"),
        seed=planned.seed,
        features=features,
        tokenizer=tokenizer,
        questions={split: file.path for split, file in inputs.questions.items()},
        dir=storage.join(inputs.output_dir, "trials", key),
        score_test=planned.score_test,
    )


def result_of(folder: str) -> dict[str, Any] | None:
    """The end of a trial: its result, where a scheduler stopped it, or its failure; None while it is under way."""
    for name in ("result.json", "stopped.json", "failure.json"):
        if storage.exists(storage.join(folder, name)):
            return storage.read_json(storage.join(folder, name))
    return None


def run_planned(
    plans: list[Planned], inputs: Inputs, *, tracker: Tracker, title: str
) -> dict[tuple[str, int], dict[str, Any]]:
    """Run a fixed list of trainings, as many at once as the student pool holds; results by (variant, seed)."""
    trials = {trial.key: (planned, trial) for planned in plans for trial in [make_trial(planned, inputs)]}
    experiment = plans[0].experiment
    run_tune(
        lambda config: trials[config["key"]],
        {"key": tune.grid_search(list(trials))},
        experiment=experiment,
        total=len(trials),
        title=title,
        tracker=tracker,
        output_dir=inputs.output_dir,
    )
    results = {(planned.variant, planned.seed): result_of(trial.dir) for planned, trial in trials.values()}
    return {name: result for name, result in results.items() if result}


def run_on_pool(planned: Planned, inputs: Inputs, *, tracker: Tracker) -> tuple[Trial, dict[str, Any]]:
    """One training on every rank of the student pool."""
    trial = make_trial(planned, inputs)
    tracker.watch(
        trial.key,
        folder=trial.dir,
        name=_name(planned, trial),
        config=planned.experiment,
        seed=planned.seed,
        tags={"variant": planned.variant},
    )
    title = f"{_name(planned, trial)} on {planned.experiment.pools.student.workers} ranks"
    with follow_training(trial.dir, title=title, steps=planned.experiment.training.steps):
        return trial, run_trial_ddp(trial, ranks=planned.experiment.pools.student.workers)


def run_tune(
    find: Callable[[dict[str, Any]], tuple[Planned, Trial]],
    space: Mapping[str, Any],
    *,
    experiment: Experiment,
    total: int,
    title: str,
    tracker: Tracker,
    output_dir: str,
    watch: tune.Callback | None = None,
    stop: tune.Stopper | None = None,
    **settings: Any,
) -> tune.ResultGrid:
    """Tune over a space whose samples `find` turns into trials. Tune's own state is disposable: the folders count."""
    pool, ranks = experiment.pools.student, most_ranks(experiment.search)
    at_once = pools.concurrent_trials(pool, ranks)
    print(f"student pool: {pool.workers} workers, up to {ranks} a trial: {at_once} at once", file=sys.stderr)
    local = storage.is_local(output_dir)
    with make_bars() as progress:
        bar = _Watch(find, tracker, progress, progress.add_task(title, total=total))
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(_trainable, find=find), pools.trial_resources(pool, ranks)),
            param_space=dict(space),
            tune_config=tune.TuneConfig(max_concurrent_trials=at_once, reuse_actors=ranks == 1, **settings),
            run_config=tune.RunConfig(
                name=f"{title.replace(' ', '-')}-{time.time_ns()}",
                storage_path=tempfile.mkdtemp(prefix="tinyllm-tune-") if local else storage.join(output_dir, "tune"),
                verbose=0,
                callbacks=[bar, *([watch] if watch else [])],
                stop=stop,
                failure_config=tune.FailureConfig(max_failures=experiment.search.max_failures),
            ),
        )
        return tuner.fit()


def most_ranks(search: Search) -> int:
    """The most ranks a trial may have: `search.by_model` may give a larger student more."""
    key = "search.ranks_per_trial"
    return max([search.ranks_per_trial, *(changes[key] for changes in search.by_model.values() if key in changes)])


def _trainable(config: dict[str, Any], find: Callable[[dict[str, Any]], tuple[Planned, Trial]]) -> None:
    planned, trial = find(config)
    search = planned.experiment.search
    if search.scheduler != "none" and storage.exists(storage.join(trial.dir, "stopped.json")):
        for row in read_evaluations(trial.dir):
            tune.report(row)
        return
    if most_ranks(search) == 1:
        run_trial(trial, report=tune.report)
        return
    from ray.tune.integration.ray_train import TuneReportCallback

    run_trial_ddp(trial, ranks=search.ranks_per_trial, report_callback=TuneReportCallback())


def _name(planned: Planned, trial: Trial) -> str:
    """Trials of a search share their seed, so the key's digest tells them apart."""
    if planned.variant == "search":
        return f"search {trial.key.rpartition('-')[2][:6]}"
    return f"{planned.variant} seed {planned.seed}"


class _Watch(tune.Callback):
    """Driver side of each trial: its MLflow record, the progress bar, and a mark where it ended early."""

    def __init__(
        self, find: Callable[[dict[str, Any]], tuple[Planned, Trial]], tracker: Tracker, progress: Progress, task: Any
    ):
        self.find, self.tracker, self.progress, self.task = find, tracker, progress, task
        self.best = 0.0

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return tune.Callback, ()  # Tune pickles its callbacks into a snapshot that nobody reads

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        planned, ours = self.find(trial.config)
        tags = {"variant": planned.variant} | {
            "differs." + key: str(value) for key, value in trial.config.items() if key != "key"
        }
        self.tracker.watch(
            ours.key,
            folder=ours.dir,
            name=_name(planned, ours),
            config=planned.experiment,
            seed=planned.seed,
            tags=tags,
        )

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        self.best = max(self.best, result["eval/accuracy"])
        title = self.progress.tasks[self.task].description.partition(":")[0]
        self.progress.update(self.task, description=f"{title}: best validation accuracy {self.best:.3f}")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._end(trial, "stopped.json", {})

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        text = Path(trial.error_file).read_text() if trial.error_file else "no traceback was kept"
        self._end(trial, "failure.json", {"traceback": text})

    def _end(self, trial: Any, mark: str, more: dict[str, Any]) -> None:
        _, ours = self.find(trial.config)
        if result_of(ours.dir) is None:
            last = trial.last_result or {}
            known = {name: last[name] for name in ("step", "eval/accuracy", "parameters") if name in last}
            steps = known.pop("step") if "step" in known else 0
            storage.write_json(
                storage.join(ours.dir, mark), {"key": ours.key, "seed": ours.seed, "steps": steps, **known, **more}
            )
        self.progress.advance(self.task)
