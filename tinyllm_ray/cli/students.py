"""Commands that use a trained student: evaluate, predict, serve and export."""

import signal
from typing import Annotated

import typer

from tinyllm_ray import stages
from tinyllm_ray.cli.base import ExperimentFile, Json, Overrides, app, finish, session_of
from tinyllm_ray.config import UserError
from tinyllm_ray.schema.base import counted

Model = Annotated[str, typer.Argument(help="a model folder, a trial's folder, models:/NAME@champion or a hub id")]
Address = Annotated[str, typer.Option(help="of a Ray cluster; default: RAY_ADDRESS, or this machine")]
Workers = Annotated[int, typer.Option(min=1, help="of the student pool")]
Uri = Annotated[str, typer.Option(help="tracking URI, for models:/")]


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
    model: Model,
    file: Annotated[str, typer.Argument(help="questions in a dataset's format; gold answers may be left out")],
    out: Annotated[str, typer.Option(help=".jsonl or .parquet; default: <FILE>.answers.jsonl here")] = "",
    rationales: Annotated[bool, typer.Option(help="also the student's own rationales, as each teacher")] = False,
    format: Annotated[str, typer.Option(help="as dataset.format")] = "jsonl",
    workers: Workers = 1,
    address: Address = "",
    uri: Uri = "",
    as_json: Json = False,
) -> None:
    """Answer a file of questions with a student, in the student pool; a stopped run goes on from where it was."""
    from tinyllm_ray.student.predict_file import make_job, predict_file, student_pool
    from tinyllm_ray.tracking.find import find_model

    job = make_job(find_model(model, uri=uri), file, out=out, form=format, rationales=rationales)
    with student_pool(workers=workers, address=address) as pool:
        result = predict_file(job, pool=pool)
    scored = f"; accuracy {result['accuracy']:.3f} of {result['known']} with a gold answer" if result["known"] else ""
    bad = f"; {counted(result['rejected'], 'row')} rejected: {result['rejected_path']}" if result["rejected"] else ""
    finish(result, as_json, f"{counted(result['questions'], 'answer')} in {result['out']}{scored}{bad}")


@app.command("serve")
def serve_student(
    model: Model,
    host: Annotated[str, typer.Option(help="anyone who reaches it may ask: there is no password")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    workers: Workers = 1,
    address: Address = "",
    uri: Uri = "",
    as_json: Json = False,
) -> None:
    """Answer questions over HTTP until Ctrl-C: Ray Serve, a replica for each worker of the student pool."""
    from tinyllm_ray.deploy.server import check_server, openai_command, serving
    from tinyllm_ray.student.predict_file import student_pool
    from tinyllm_ray.tracking.find import find_model

    check_server(host, port)
    found = find_model(model, uri=uri)
    openai = openai_command(found)
    with student_pool(workers=workers, address=address) as pool, serving(found, pool=pool, host=host, port=port) as url:
        lines = [f"{model} answers at {url}/answer, health at {url}/health; to try it in a browser: {url}/docs"]
        lines += [f"an OpenAI-compatible server for it is vLLM's own: {openai}"] if openai else []
        finish({"url": url, "workers": workers, "openai_command": openai}, as_json, "\n".join(lines))
        signal.pause()


@app.command("export")
def export_student(
    model: Annotated[str, typer.Argument(help="as for predict; for a hub also a store of rationales")],
    to: Annotated[str, typer.Option(help="onnx, gguf or hub", show_default=False)],
    out: Annotated[str, typer.Option(help="folder (onnx) or file (gguf); default: the trial's name, here")] = "",
    repo: Annotated[str, typer.Option(help="OWNER/NAME on the hub")] = "",
    public: Annotated[bool, typer.Option("--public", help="a new repository that everyone sees; else private")] = False,
    uri: Uri = "",
    as_json: Json = False,
) -> None:
    """Write a student as ONNX for CPUs or as GGUF for llama.cpp, or upload it, or a store, to a hub."""
    from tinyllm_ray.deploy.export import check_export, export
    from tinyllm_ray.deploy.hub import is_store
    from tinyllm_ray.tracking.find import find_model

    check_export(to, out=out, repo=repo)
    found = model if to == "hub" and is_store(model) else find_model(model, uri=uri)
    result = export(found, to, out=out, repo=repo, public=public)
    finish(result, as_json, f"exported to {result.get('out') or result['url']}")
