"""Commands that look and make no experiment's results: config, inspect, show-prompt, import-reference, reproduce."""

import json
from dataclasses import asdict
from typing import Annotated

import rich
import typer

from tinyllm_ray import stages
from tinyllm_ray.cli.base import ExperimentFile, Json, Overrides, app, finish, session_of


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
def inspect(
    path: Annotated[str, typer.Argument(help="a file or a folder of question files", show_default=False)],
    as_json: Json = False,
) -> None:
    """What is in question files, and the `dataset` section that reads them."""
    from tinyllm_ray.data.inspect import inspect as inspect_files

    result = inspect_files(path)
    finish(result, as_json, "\n".join(result["lines"]) + result["yaml"])


@app.command("show-prompt")
def show_prompt(
    experiment: ExperimentFile,
    overrides: Overrides = None,
    teacher: Annotated[str, typer.Option(help="the teacher's name")] = "",
    row: Annotated[int, typer.Option(help="row of the training split, from 0")] = 0,
    as_json: Json = False,
) -> None:
    """Print exactly what a teacher gets for one question."""
    with session_of(experiment, overrides) as session:
        prompt = stages.show_prompt(session, teacher=teacher, row=row)
    finish({"teacher": teacher, "row": row, "prompt": prompt}, as_json, prompt)


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
    finish(result, as_json, f"imported {dataset}: {json.dumps(result, ensure_ascii=False)}\nstores: {out}/{dataset}")


@app.command()
def reproduce(
    run_id: Annotated[str, typer.Argument(help="MLflow run id")],
    uri: Annotated[str, typer.Option(help="tracking URI")] = "",
    as_json: Json = False,
) -> None:
    """The exact command and config of a run, and what differs today."""
    from tinyllm_ray.report.reproduce import reproduce as reproduce_run

    result = reproduce_run(run_id, uri=uri)
    finish(result, as_json, "\n".join(result["lines"]))
