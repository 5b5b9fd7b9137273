"""What the commands do: generate, compare, ablate, train, tune, evaluate, report, and `run`, which does all of it.

In: a Session. Out: dictionaries that are JSON: what was made, and where.
"""

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from tinyllm_ray import storage
from tinyllm_ray.checks import check
from tinyllm_ray.config import UserError
from tinyllm_ray.data import store
from tinyllm_ray.data.questions import read_questions
from tinyllm_ray.generation import (
    hold_back_for,
    rows_generated,
    search_inputs,
    teachers_at_work,
    what_overlap_brings,
    when_whole,
    write_all,
)
from tinyllm_ray.schema import Experiment
from tinyllm_ray.schema.base import counted, did_you_mean
from tinyllm_ray.session import Session
from tinyllm_ray.tuning.methods import ablation, apply_method, comparison, growth

if TYPE_CHECKING:
    from tinyllm_ray.student.train import Trial
    from tinyllm_ray.tuning.training import Inputs


def run(session: Session) -> dict[str, Any]:
    """Teachers, methods, search, report."""
    started = time.time()
    _begin(session, "run")
    with teachers_at_work(session) as reports:
        methods = _methods(session, comparison(session.experiment), title="methods")
        search = _tune(session) if session.experiment.search.space else None
        generated = reports()
    result: dict[str, Any] = {
        "methods": methods,
        "search": search,
        "teacher_rows_generated": rows_generated(generated),
    }
    return result | report(session, redraw=False) | {"wall_s": round(time.time() - started, 1)}


def generate(session: Session) -> dict[str, Any]:
    """Every teacher's rationales for what is not in its store yet; reports by teacher."""
    check(session, "generate")
    return write_all(session)


def ablate(session: Session, *, growing: bool = False) -> dict[str, Any]:
    """All variants of the ablation, the paired effects, the sentence that the data supports, and the page.

    `growing`: instead of these every way to choose among the first one, two, ... teachers.
    """
    _begin(session, "ablate")
    methods = _methods(session, (growth if growing else ablation)(session.experiment), title="ablation")
    page = report(session)
    return {"methods": methods, "conclusion": page["headline"]} | page


def train(session: Session) -> dict[str, Any]:
    """The experiment's own method, once per seed, on every rank of the student pool; test is scored.

    With pools.schedule overlap the teachers write meanwhile.
    """
    _begin(session, "train")
    if session.experiment.overlaps:
        with teachers_at_work(session) as reports:
            trained = _train(session)
            return trained | {"teacher_rows_generated": rows_generated(reports())}
    return _train(session)


def _train(session: Session) -> dict[str, Any]:
    experiment = apply_method(session.experiment)
    variant = experiment.training.method.replace(":", "_")
    ends = _train_on_pool(session, experiment, variant=variant, seeds=experiment.seeds)
    return {"trials": [end for _, end in ends], "models": [storage.join(trial.dir, "model") for trial, _ in ends]}


def tune(session: Session) -> dict[str, Any]:
    """Search on validation; train the winner again over search.final_seeds and score it once on test."""
    _begin(session, "tune")
    return _tune(session)


def plan(session: Session) -> dict[str, Any]:
    """What a run would do, after all its checks: questions, rationales wanted and found, trainings, pools."""
    from tinyllm_ray.checks import teacher_rows

    lines = check(session, "run")
    experiment = session.experiment
    teachers = {teacher.name: teacher_rows(session, teacher.name) for teacher in experiment.teachers}
    trainings = len(comparison(experiment)) * len(experiment.seeds)
    lines += [
        f"teacher {n}: {counted(rows['wanted'], 'rationale')} wanted, {rows['found']} found"
        for n, rows in teachers.items()
    ]
    lines += [f"methods x seeds: {counted(trainings, 'training')} of {counted(experiment.training.steps, 'step')}"]
    if experiment.search.space:
        lines += [
            f"search: {counted(experiment.search.num_samples, 'sample')} over {', '.join(experiment.search.space)}"
        ]
    lines += what_overlap_brings(session) if experiment.overlaps else []
    lines += [f"output: {session.dir}"]
    questions = {split: file.rows for split, file in session.questions.items()}
    shared = {split: file.shared for split, file in session.questions.items()}
    return {"questions": questions, "shared": shared, "teachers": teachers, "trainings": trainings, "lines": lines}


def show_prompt(session: Session, *, teacher: str, row: int) -> str:
    """The very prompt of one training question, as `teacher`'s model reads it or its server gets it."""
    from tinyllm_ray.teachers.engines.registry import make_engine
    from tinyllm_ray.teachers.examples import read_rationales
    from tinyllm_ray.teachers.pending import prompt_of, read_candidates

    experiment = session.experiment
    chosen = experiment.teacher(teacher)
    if chosen.store:
        raise UserError(f"teacher {teacher} comes with a store, so it is asked nothing here")
    rows = read_questions(session.questions["train"].path)
    if not 0 <= row < len(rows):
        raise UserError(f"--row {row}: the training split has rows 0 to {len(rows) - 1}")
    settings = experiment.prompts
    engine = make_engine(chosen, pool=experiment.pools.teacher, prompts=settings, output_dir=session.dir)
    candidates = read_candidates(session.questions, examples=settings.in_context.examples)
    rationales = read_rationales(settings)
    return prompt_of(rows[row], prompts=settings, candidates=candidates, engine=engine, rationales=rationales)


def evaluate(session: Session, model: str, split: str) -> dict[str, Any]:
    """Score a saved student on a split; needs no Ray."""
    if split not in session.questions:
        near, known = did_you_mean(split, session.questions), ", ".join(session.questions)
        raise UserError(f"--split: the dataset has no split {split!r}{near}; it has {known}")
    from tinyllm_ray.student.predict import evaluate_folder
    from tinyllm_ray.tracking.address import tracking_uri
    from tinyllm_ray.tracking.find import find_model

    records = tracking_uri(session.experiment, output_dir=session.dir) if model.startswith("models:/") else ""
    model = find_model(model, uri=records)
    scores = evaluate_folder(model, session.experiment, questions=session.questions[split].path)
    if split == "validation":  # whose metrics are called eval/...
        return scores
    return {name.replace("eval/", f"{split}/"): value for name, value in scores.items()}


def report(session: Session, *, redraw: bool = True) -> dict[str, Any]:
    """The page and its figures, made from MLflow and the stores; needs no Ray.

    Without `redraw`, a page that shows the same data already is left as it is.
    """
    from tinyllm_ray.report.make import make_report
    from tinyllm_ray.tracking.address import tracking_uri

    session.flush_tracker()
    uri = tracking_uri(session.experiment, output_dir=session.dir)
    return make_report(session.experiment, output_dir=session.dir, uri=uri, redraw=redraw) | {"tracking_uri": uri}


def _begin(session: Session, command: str) -> None:
    check(session, command)
    session.say_where_records_are()


def _methods(session: Session, variants: dict[str, Experiment], *, title: str) -> dict[str, Any]:
    """Every variant with every seed, scored on test; {variant: {"mean", "per_seed", "split"}}."""
    from tinyllm_ray.tuning.training import TrainingSpec, resolve
    from tinyllm_ray.tuning.trials import run_trials

    seeds = session.experiment.seeds
    ranks = session.experiment.search.ranks_per_trial
    specs = [
        TrainingSpec(name, variant, seed=seed, ranks=ranks, score_test=True)
        for name, variant in variants.items()
        for seed in seeds
    ]
    trainings = {training.trial.key: training for training in (resolve(spec, session.inputs) for spec in specs)}
    found = sum(training.done() for training in trainings.values())
    if found:
        session.say(f"{title}: {found} of {len(trainings)} finished trainings found")
    if found < len(trainings):
        session.connect("student")
        hold_back_for(session, trainings)
        run_trials(
            trainings,
            experiment=session.experiment,
            output_dir=session.dir,
            title=title,
            total=len(trainings),
            tracker=session.tracker,
        )
    ends = {(t.spec.variant, t.spec.seed): end for t in trainings.values() if (end := t.end())}
    methods = _scores(session, variants, ends)
    means = {f"{_score_metric(session)}/{name}": scores["mean"] for name, scores in methods.items()}
    best = max((end["eval/accuracy"] for end in ends.values() if "eval/accuracy" in end), default=0.0)
    session.tracker.summarize(means | {"primary": best}, tags={}, artifacts=[])
    return methods


def _scores(
    session: Session, variants: Iterable[str], ends: Mapping[tuple[str, int], dict[str, Any]]
) -> dict[str, Any]:
    failed = {f"{name} seed {seed}": last_line(end) for (name, seed), end in ends.items() if "traceback" in end}
    for training, reason in failed.items():
        session.say(f"failed: {training}: {reason}")
    metric = _score_metric(session)
    methods: dict[str, Any] = {}
    for name in variants:
        of_seed = {seed: ends[name, seed] for seed in session.experiment.seeds if (name, seed) in ends}
        per_seed = {str(seed): end[metric] for seed, end in of_seed.items() if metric in end}
        if per_seed:
            mean = sum(per_seed.values()) / len(per_seed)
            methods[name] = {"mean": mean, "per_seed": per_seed, "split": _scored_split(session)}
    if failed and not methods:
        raise UserError(f"no training came to its end; the first says: {next(iter(failed.values()))}")
    return methods


def _scored_split(session: Session) -> str:
    """A dataset without a test split is scored on validation, and said to be."""
    return "test" if "test" in session.questions else "validation"


def _score_metric(session: Session) -> str:
    return "test/accuracy" if "test" in session.questions else "eval/accuracy"


def last_line(failure: dict[str, Any]) -> str:
    """What a failed trial's traceback ends with."""
    return failure["traceback"].strip().rpartition("\n")[2]


def _tune(session: Session) -> dict[str, Any]:
    from tinyllm_ray.tuning.search import run_search

    inputs = search_inputs(session)
    ends = run_search(
        session.experiment, inputs, tracker=session.tracker, before_trials=lambda: session.connect("student")
    )
    if not ends:
        raise UserError("no trial of the search reached an evaluation; their tracebacks are in MLflow")
    best = ends[0]
    session.tracker.summarize({"primary": best["eval/accuracy"]}, tags={}, artifacts=[])
    final, champion = _train_winner(session, best)
    session.tracker.summarize({f"final/{final['split']}_accuracy": final["mean"]}, tags={}, artifacts=[])
    found = {
        str(i): sum(len(store.read(folder, s, ["key"])) for s in session.questions)
        for i, folder in session.stores.items()
    }
    return {
        "trials": len(ends),
        "stopped_early": sum("eval/accuracy" in end and "wall_s" not in end for end in ends),
        "best": {"overrides": best["overrides"], "validation_accuracy": best["eval/accuracy"]},
        "final": final,
        "champion": champion,
        "teacher_rows_generated": 0,
        "teacher_rows_found": found,
    }


def _train_winner(session: Session, best: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Scores of the winner over search.final_seeds, and the one of them with the best validation as champion."""
    from tinyllm_ray.tracking.champion import log_champion
    from tinyllm_ray.tuning.space import apply_sample

    winner = apply_sample(session.experiment, best["overrides"])
    seeds, inputs = session.experiment.search.final_seeds, when_whole(session)
    ends = _train_on_pool(session, winner, variant="final", seeds=seeds, inputs=inputs)
    metric = _score_metric(session)
    scores = {str(end["seed"]): end[metric] for _, end in ends}
    trial, end = max(ends, key=lambda pair: pair[1]["eval/accuracy"])
    champion = {"model": storage.join(trial.dir, "model"), "key": trial.key}
    if session.experiment.tracking.register_champion:
        champion |= log_champion(
            trial, end, tracker=session.tracker, name=session.experiment.name, questions=session.questions
        )
    final = {
        "mean": sum(scores.values()) / len(scores),
        "per_seed": scores,
        "split": _scored_split(session),
        "ranks": winner.pools.student.workers,
    }
    return final, champion


def _train_on_pool(
    session: Session, experiment: Experiment, *, variant: str, seeds: Iterable[int], inputs: "Inputs | None" = None
) -> "list[tuple[Trial, dict[str, Any]]]":
    """One training a seed, each on every rank of the student pool; with their results."""
    from tinyllm_ray.tuning.training import TrainingSpec, resolve
    from tinyllm_ray.tuning.trials import run_on_pool

    ranks = experiment.pools.student.workers
    specs = [TrainingSpec(variant, experiment, seed=seed, ranks=ranks, score_test=True) for seed in seeds]
    ends = []
    for training in [resolve(spec, inputs or session.inputs) for spec in specs]:
        if not training.done():
            session.connect("student")
        hold_back_for(session, {training.trial.key: training})
        ends.append((training.trial, run_on_pool(training, tracker=session.tracker)))
    return ends
