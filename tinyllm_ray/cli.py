"""The commands: parse, call one function each, print. A user's mistake is one message and exit code 2."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import rich
import typer

from tinyllm_ray import stages, storage
from tinyllm_ray.checks import check
from tinyllm_ray.config import UserError, load_experiment, output_dir
from tinyllm_ray.lock import hold
from tinyllm_ray.session import Session
from tinyllm_ray.terminal.command import OUTPUT, run_command
from tinyllm_ray.terminal.output import send_chatter_to
from tinyllm_ray.terminal.progress import say
from tinyllm_ray.terminal.texts import text_of_methods, text_of_run

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Distill several teachers into one small student, on Ray.",
)
ExperimentFile = Annotated[
    Path, typer.Argument(help="experiment file, such as experiments/miniature.yaml", show_default=False)
]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="key.path=value, such as loss.label_weight=0.5", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="write one JSON object to stdout, and nothing else")]


@app.callback(invoke_without_command=True)
def versions(version: Annotated[bool, typer.Option("--version", help="print the version and exit")] = False) -> None:
    if version:
        from importlib.metadata import version as version_of

        OUTPUT.write_result(f"tinyllm-ray {version_of('tinyllm-ray')}")
        raise typer.Exit


@app.command()
def demo(overrides: Overrides = None, as_json: Json = False) -> None:
    """The whole pipeline on the embedded miniature world (experiments/miniature.yaml)."""
    from importlib import resources

    with resources.as_file(resources.files("tinyllm_ray.miniature") / "miniature.yaml") as experiment:
        run(experiment, overrides, as_json)


@app.command()
def config(
    section: Annotated[str, typer.Argument(help="a section or key, such as training or teachers.sampling")] = "",
    json_schema: Annotated[bool, typer.Option("--json-schema", help="print a JSON schema for editors")] = False,
    as_json: Json = False,
) -> None:
    """Every key of an experiment file: what is allowed, its default and its meaning."""
    from tinyllm_ray.schema import describe

    if json_schema:
        print(json.dumps(describe.json_schema(), ensure_ascii=False))
    elif as_json:
        print(json.dumps({"keys": [asdict(key) for key in describe.list_keys(section)]}, ensure_ascii=False))
    else:
        rich.print(describe.rich_table(describe.list_keys(section)))


@app.command()
def plan(experiment: ExperimentFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """What a run would do: questions, teacher rows wanted and found, trainings, pools. Starts no engine."""
    with _session(experiment, overrides) as session:
        result = stages.plan(session)
    _finish(result, as_json, "\n".join(result["lines"]))


@app.command()
def inspect(
    path: Annotated[str, typer.Argument(help="a file or a folder of question files", show_default=False)],
    as_json: Json = False,
) -> None:
    """What is in question files, and the `dataset` section that reads them."""
    from tinyllm_ray.data.inspect import inspect as inspect_files

    result = inspect_files(path)
    _finish(result, as_json, "\n".join(result["lines"]) + result["yaml"])


@app.command("show-prompt")
def show_prompt(
    experiment: ExperimentFile,
    overrides: Overrides = None,
    teacher: Annotated[str, typer.Option(help="the teacher's name")] = "",
    row: Annotated[int, typer.Option(help="row of the training split, from 0")] = 0,
    as_json: Json = False,
) -> None:
    """Print exactly what a teacher gets for one question."""
    with _session(experiment, overrides) as session:
        prompt = stages.show_prompt(session, teacher=teacher, row=row)
    _finish({"teacher": teacher, "row": row, "prompt": prompt}, as_json, prompt)


@app.command()
def generate(experiment: ExperimentFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Let every teacher write the rationales that its store does not hold yet."""
    with _session(experiment, overrides, writes=True) as session:
        reports = stages.generate(session)
    lines = [
        f"{n}: {r['generated']} generated, {r['found']} found, of {r['wanted']} -> {r['store']}"
        for n, r in reports.items()
    ]
    _finish(
        {"teachers": reports, "teacher_rows_generated": sum(r["generated"] for r in reports.values())},
        as_json,
        "\n".join(lines),
    )


@app.command("import-reference")
def import_reference(
    folder: Annotated[str, typer.Argument(help="folder that holds <name>/ of the published repository")],
    dataset: Annotated[str, typer.Option(help="obqa, arc, piqa, riddle, pubmedqa or bioasq; svamp, anli1, ...")],
    out: Annotated[str, typer.Option(help="where the stores are written")],
    layout: Annotated[str, typer.Option(help="tinyllm, or distilling-step-by-step")] = "tinyllm",
    as_json: Json = False,
) -> None:
    """Turn published rationales into stores: TinyLLM's, or those of a folder for each teacher with texts by row."""
    from tinyllm_ray.data.published import import_published

    result = import_published(folder, dataset=dataset, out=out, layout=layout)
    _finish(result, as_json, f"imported {dataset}: {json.dumps(result, ensure_ascii=False)}\nstores: {out}/{dataset}")


@app.command()
def train(experiment: ExperimentFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Train the student by training.method, once per seed, on the whole student pool."""
    with _session(experiment, overrides, writes=True) as session:
        result = stages.train(session)
    lines = [
        f"seed {t['seed']}: validation {t['eval/accuracy']:.3f}"
        + (f", test {t['test/accuracy']:.3f}" if "test/accuracy" in t else "")
        for t in result["trials"]
    ]
    _finish(result, as_json, "\n".join([*lines, *(f"model: {model}" for model in result["models"])]))


@app.command()
def tune(experiment: ExperimentFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Search, train the winner again, score it once on test."""
    with _session(experiment, overrides, writes=True) as session:
        result = stages.tune(session)
    best, final = result["best"], result["final"]
    lines = [
        f"best of {result['trials']} trials: {best['overrides']}, validation {best['validation_accuracy']:.3f}",
        f"trained again, {final['split']} {final['mean']:.3f}",
        f"model: {result['champion']['model']}",
    ]
    _finish(result, as_json, "\n".join(lines))


@app.command()
def ablate(experiment: ExperimentFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Which teacher helped: label only, each alone, all, all but one, shuffled; with paired intervals."""
    with _session(experiment, overrides, writes=True) as session:
        result = stages.ablate(session)
    _finish(result, as_json, f"{text_of_methods(result['methods'])}\n{result['conclusion']}")


@app.command()
def evaluate(
    experiment: ExperimentFile,
    overrides: Overrides = None,
    model: Annotated[str, typer.Option(help="folder of a trained student")] = "",
    split: Annotated[str, typer.Option(help="train, validation or test")] = "validation",
    as_json: Json = False,
) -> None:
    """Score a saved student on one split."""
    if not model:
        raise UserError("evaluate needs --model FOLDER, the folder of a trained student (model/ of a trial)")
    with _session(experiment, overrides) as session:
        result = stages.evaluate(session, model, split)
    figures = {key: value for key, value in result.items() if isinstance(value, int | float)}
    _finish(result, as_json, ", ".join(f"{key} {value:.4g}" for key, value in figures.items()))


@app.command("predict")
def predict_questions(
    model: Annotated[str, typer.Argument(help="a model folder, a trial's folder, models:/NAME@champion or a hub id")],
    file: Annotated[str, typer.Argument(help="questions in a dataset's format; gold answers may be left out")],
    out: Annotated[str, typer.Option(help=".jsonl or .parquet; default: <FILE>.answers.jsonl here")] = "",
    rationales: Annotated[bool, typer.Option(help="also the student's own rationales, as each teacher")] = False,
    format: Annotated[str, typer.Option(help="as dataset.format")] = "jsonl",
    workers: Annotated[int, typer.Option(min=1, help="of the student pool")] = 1,
    address: Annotated[str, typer.Option(help="of a Ray cluster; default: RAY_ADDRESS, or this machine")] = "",
    uri: Annotated[str, typer.Option(help="tracking URI, for models:/")] = "",
    as_json: Json = False,
) -> None:
    """Answer a file of questions with a student, in the student pool; a stopped run goes on from where it was."""
    from tinyllm_ray.student.predict_file import make_job, predict_file, student_pool
    from tinyllm_ray.tracking.find import find_model

    job = make_job(find_model(model, uri=uri), file, out=out, form=format, rationales=rationales)
    with student_pool(workers=workers, address=address) as pool:
        result = predict_file(job, pool=pool)
    scored = f"; accuracy {result['accuracy']:.3f} of {result['known']} with a gold answer" if result["known"] else ""
    bad = f"; {result['rejected']} rows rejected: {result['rejected_path']}" if result["rejected"] else ""
    _finish(result, as_json, f"{result['questions']} answers in {result['out']}{scored}{bad}")


@app.command()
def report(experiment: ExperimentFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Remake the HTML page and the figures from MLflow and the stores."""
    with _session(experiment, overrides) as session:
        result = stages.report(session)
    _finish(result, as_json, f"report: {result['report']}")


@app.command()
def run(experiment: ExperimentFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Teachers, methods, search and report: the whole pipeline."""
    with _session(experiment, overrides, writes=True) as session:
        result = stages.run(session)
    _finish(result, as_json, text_of_run(result))


@app.command()
def clean(
    experiment: ExperimentFile,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what can be freed, and free nothing")] = False,
    as_json: Json = False,
) -> None:
    """Free what can be made again: checkpoints of ended trainings, features, the state of Ray."""
    from tinyllm_ray.tuning import clean as cleaning

    with _session(experiment, overrides, writes=not dry_run) as session:
        spare = cleaning.find_spare(session.dir)
        if not dry_run:
            cleaning.remove(spare)
    result = {"freed": not dry_run, "bytes": sum(item.bytes for item in spare), "kinds": [asdict(s) for s in spare]}
    _finish(result, as_json, "\n".join(cleaning.describe(spare, removed=not dry_run)))


@app.command()
def submit(
    experiment: ExperimentFile,
    overrides: Overrides = None,
    address: Annotated[str, typer.Option(help="the cluster's dashboard, such as http://127.0.0.1:8265")] = "",
    as_json: Json = False,
) -> None:
    """Run the pipeline as a job on a cluster and follow it."""
    from tinyllm_ray.cluster.submit import submit as submit_job

    with _session(experiment, overrides) as session:
        check(session, "submit")
    result = submit_job(experiment, overrides or [], address=address)
    _finish(result, as_json, f"job {result['job_id']}: {result['status']}")
    if result["status"] != "SUCCEEDED":
        raise typer.Exit(1)


@app.command()
def reproduce(
    run_id: Annotated[str, typer.Argument(help="MLflow run id")],
    uri: Annotated[str, typer.Option(help="tracking URI")] = "",
    as_json: Json = False,
) -> None:
    """The exact command and config of a run, and what differs today."""
    from tinyllm_ray.report.reproduce import reproduce as reproduce_run

    result = reproduce_run(run_id, uri=uri)
    _finish(result, as_json, "\n".join(result["lines"]))


def main() -> None:
    """Entry point of `tinyllm-ray`, of `python -m tinyllm_ray.cli` and of jobs/."""
    run_command(app)


@contextmanager
def _session(experiment: Path, overrides: list[str] | None, *, writes: bool = False) -> Iterator[Session]:
    """The session of one command; one that `writes` sends its engines' chatter to a file and has the folder alone."""
    loaded = load_experiment(experiment, overrides or [])
    folder = output_dir(loaded)
    with Session(loaded, say=say) as session, hold(folder, command=sys.argv[1], say=say) if writes else nullcontext():
        if writes and storage.is_local(folder):
            send_chatter_to(storage.local_path(folder) / "logs" / "engines.log")
        yield session


def _finish(result: dict[str, Any], as_json: bool, text: str) -> None:
    OUTPUT.write_result(json.dumps(result, ensure_ascii=False) if as_json else text)


if __name__ == "__main__":
    main()
