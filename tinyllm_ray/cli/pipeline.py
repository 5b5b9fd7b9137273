"""Commands that run an experiment or a part of it."""

from dataclasses import asdict
from typing import Annotated

import typer

from tinyllm_ray import stages
from tinyllm_ray.checks import check
from tinyllm_ray.cli.base import ExperimentFile, Json, Overrides, app, finish, session_of
from tinyllm_ray.schema.base import counted
from tinyllm_ray.terminal.texts import text_of_growth, text_of_methods, text_of_run


@app.command()
def demo(overrides: Overrides = None, as_json: Json = False) -> None:
    """The whole pipeline on the embedded miniature world (experiments/miniature.yaml)."""
    from importlib import resources

    with resources.as_file(resources.files("tinyllm_ray.miniature") / "miniature.yaml") as experiment:
        run(experiment, overrides, as_json)


@app.command()
def plan(experiment: ExperimentFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """What a run would do: questions, teacher rows wanted and found, trainings, pools. Starts no engine."""
    with session_of(experiment, overrides) as session:
        result = stages.plan(session)
    finish(result, as_json, "\n".join(result["lines"]))


@app.command()
def generate(experiment: ExperimentFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Let every teacher write the rationales that its store does not hold yet."""
    with session_of(experiment, overrides, writes=True) as session:
        reports = stages.generate(session)
    lines = [
        f"{n}: {r['generated']} generated, {r['found']} found, of {r['wanted']} -> {r['store']}"
        for n, r in reports.items()
    ]
    finish(
        {"teachers": reports, "teacher_rows_generated": sum(r["generated"] for r in reports.values())},
        as_json,
        "\n".join(lines),
    )


@app.command()
def train(experiment: ExperimentFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Train the student by training.method, once per seed, on the whole student pool."""
    with session_of(experiment, overrides, writes=True) as session:
        result = stages.train(session)
    lines = [
        f"seed {t['seed']}: validation {t['eval/accuracy']:.3f}"
        + (f", test {t['test/accuracy']:.3f}" if "test/accuracy" in t else "")
        for t in result["trials"]
    ]
    finish(result, as_json, "\n".join([*lines, *(f"model: {model}" for model in result["models"])]))


@app.command()
def tune(experiment: ExperimentFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Search, train the winner again, score it once on test."""
    with session_of(experiment, overrides, writes=True) as session:
        result = stages.tune(session)
    best, final, trials = result["best"], result["final"], counted(result["trials"], "trial")
    lines = [
        f"best of {trials}: {best['overrides']}, validation {best['validation_accuracy']:.3f}",
        f"trained again, {final['split']} {final['mean']:.3f}",
        f"model: {result['champion']['model']}",
    ]
    finish(result, as_json, "\n".join(lines))


@app.command()
def ablate(
    experiment: ExperimentFile,
    overrides: Overrides = None,
    growing: Annotated[
        bool,
        typer.Option("--growing", help="instead: every way to choose among the first one, two, ... teachers"),
    ] = False,
    as_json: Json = False,
) -> None:
    """Which teacher helped: label only, each alone, all, all but one, shuffled; with paired intervals."""
    with session_of(experiment, overrides, writes=True) as session:
        result = stages.ablate(session, growing=growing)
    lines = [text_of_methods(result["methods"]), *([text_of_growth(result["growth"])] if growing else [])]
    finish(result, as_json, "\n".join([*lines, result["conclusion"]]))


@app.command()
def report(experiment: ExperimentFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Remake the HTML page and the figures from MLflow and the stores."""
    with session_of(experiment, overrides) as session:
        result = stages.report(session)
    finish(result, as_json, f"report: {result['report']}")


@app.command()
def run(experiment: ExperimentFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Teachers, methods, search and report: the whole pipeline."""
    with session_of(experiment, overrides, writes=True) as session:
        result = stages.run(session)
    finish(result, as_json, text_of_run(result))


@app.command()
def clean(
    experiment: ExperimentFile,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what can be freed, and free nothing")] = False,
    as_json: Json = False,
) -> None:
    """Free what can be made again: checkpoints of ended trainings, features, the state of Ray."""
    from tinyllm_ray.tuning import clean as cleaning

    with session_of(experiment, overrides, writes=not dry_run) as session:
        spare = cleaning.find_spare(session.dir)
        if not dry_run:
            cleaning.remove(spare)
    result = {"freed": not dry_run, "bytes": sum(item.bytes for item in spare), "kinds": [asdict(s) for s in spare]}
    finish(result, as_json, "\n".join(cleaning.describe(spare, removed=not dry_run)))


@app.command()
def submit(
    experiment: ExperimentFile,
    overrides: Overrides = None,
    address: Annotated[str, typer.Option(help="the cluster's dashboard, such as http://127.0.0.1:8265")] = "",
    as_json: Json = False,
) -> None:
    """Run the pipeline as a job on a cluster and follow it."""
    from tinyllm_ray.cluster.submit import submit as submit_job

    with session_of(experiment, overrides) as session:
        check(session, "submit")
    result = submit_job(experiment, overrides or [], address=address)
    finish(result, as_json, f"job {result['job_id']}: {result['status']}")
    if result["status"] != "SUCCEEDED":
        raise typer.Exit(1)
