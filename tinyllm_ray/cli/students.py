"""Commands that use a trained student: evaluate and predict."""

from typing import Annotated

import typer

from tinyllm_ray import stages
from tinyllm_ray.cli.base import ExperimentFile, Json, Overrides, app, finish, session_of
from tinyllm_ray.config import UserError


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
    with session_of(experiment, overrides) as session:
        result = stages.evaluate(session, model, split)
    figures = {key: value for key, value in result.items() if isinstance(value, int | float)}
    finish(result, as_json, ", ".join(f"{key} {value:.4g}" for key, value in figures.items()))


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
    finish(result, as_json, f"{result['questions']} answers in {result['out']}{scored}{bad}")
