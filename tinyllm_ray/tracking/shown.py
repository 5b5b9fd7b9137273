"""What MLflow's pages show of a run: the parameters that differ, a note in Markdown, answers as a table, a comparison.

In: a trial's experiment and files. Out: plain values that uploads.py and tracker.py log.
"""

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from tinyllm_ray import storage
from tinyllm_ray.config import flatten, public
from tinyllm_ray.schema import Experiment

NOTE = "mlflow.note.content"
TABLES = "mlflow.loggedArtifacts"  # where MLflow's pages look for tables
PRIMARY = "primary"  # the metric by which runs are ordered: validation accuracy
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.experiment.primaryMetric.name": PRIMARY,
    "mlflow.experiment.primaryMetric.greaterIsBetter": "true",
}
ALWAYS = ("student.model", "training.method", "loss.label_weight")
TABLE_ROWS = 500
CARD_HEIGHT = 480  # pixels


def shown_params(config: Experiment, *, seed: int, variant: str) -> dict[str, Any]:
    """What may differ between the trainings of an experiment; everything else is in the parent's config.yaml."""
    flat = flatten(public(config))
    weights = {f"loss.rationale_weights.{name}": weight for name, weight in config.loss.rationale_weights.items()}
    wanted = [*ALWAYS, *config.search.space]
    return {"variant": variant, "seed": seed} | {key: flat[key] for key in wanted if key in flat} | weights


def constants(config: Experiment) -> dict[str, str]:
    """A few tags of the parent."""
    training = config.training
    return {
        "dataset": config.dataset.name,
        "teachers": ", ".join(teacher.name for teacher in config.teachers),
        "steps": str(training.steps),
        "batch_size": str(training.batch_size),
        "learning_rate": str(training.learning_rate),
    }


def child_note(outcome: Mapping[str, Any], *, variant: str, seed: int, differs: Mapping[str, str], command: str) -> str:
    """What the run's page opens with."""
    names = {"eval/accuracy": "validation accuracy", "test/accuracy": "test accuracy"}
    scores = [f"{text} **{outcome[name]:.4g}**" for name, text in names.items() if name in outcome]
    scores += [f"**{outcome['parameters']:,.0f}** parameters"] if "parameters" in outcome else []
    sampled = "".join(f"\n- `{key}` = {value}" for key, value in differs.items())
    return (
        f"Training of **{variant}**, seed {seed}: {', '.join(scores) or 'no score'}.\n{sampled}\n\n```\n{command}\n```"
    )


def parent_note(headline: str, *, command: str, comparison: str) -> str:
    return f"{headline}\n\n[All trainings side by side]({comparison})\n\n```\n{command}\n```"


def answer_table(predictions: str, questions: str) -> dict[str, Any]:
    """Question, choices and answers of the first questions, as MLflow's tables are written.

    In: addresses of a predictions file and of the split's question file.
    """
    choices = {
        row["question_id"]: row["choices"]
        for row in storage.read_table(questions, ["question_id", "choices"]).to_pylist()
    }
    rows = []
    for row in storage.read_table(predictions).slice(0, TABLE_ROWS).to_pylist():
        shown = {"question": row["question"], "choices": " | ".join(choices.get(row["question_id"], []))}
        shown |= {"answer": row["answer"], "student": row["predicted"], "correct": row["correct"]}
        scores = row.get("choice_scores") or []
        shown["scores"] = " | ".join(f"{score:.2f}" for score in scores)
        rows.append(shown | {f"as {name}": text for name, text in row.get("rationales") or []})
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return {"columns": columns, "data": [[row.get(name, "") for name in columns] for row in rows]}


def comparison_view(parent_id: str, *, params: Sequence[str]) -> tuple[str, str]:
    """Key and JSON of a view that MLflow's page of runs opens with: parallel coordinates of what was searched."""
    section = str(uuid.uuid5(uuid.NAMESPACE_URL, parent_id))
    chart = {
        "type": "PARALLEL",
        "uuid": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{parent_id}/parallel")),
        "metricSectionId": section,
        "runsCountToCompare": 10,
        "deleted": False,
        "isGenerated": False,
        "selectedParams": list(params),
        "selectedMetrics": [PRIMARY],
        "showAllRuns": True,
    }
    shown = {"uuid": section, "name": "Comparison", "display": True, "isReordered": False, "deleted": False}
    shown |= {"columns": 1, "cardHeight": CARD_HEIGHT, "isGenerated": False}  # axes need the page's whole width
    view = {
        "searchFilter": "",
        "orderByKey": f"metrics.`{PRIMARY}`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": ["attributes.`Source`", f"metrics.`{PRIMARY}`", *(f"params.`{name}`" for name in params)],
        "runsExpanded": {parent_id: True},
        "runsHiddenMode": "SHOWALL",
        "compareRunCharts": [chart],
        "compareRunSections": [shown],
        "hideEmptyCharts": True,
    }
    text = json.dumps(view, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest(), text


def comparison_url(uri: str, *, experiment_id: str, key: str) -> str:
    """A store in SQLite is shown by `make ui` or `mlflow ui`, whose page is at port 5000.

    MLflow's pages open in their GenAI view unless the address says otherwise.
    """
    base = uri.rstrip("/") if uri.startswith("http") else "http://127.0.0.1:5000"
    page = f"{base}/#/experiments/{experiment_id}/runs"
    return f"{page}?workflowType=machine_learning&viewStateShareKey={key}&compareRunsMode=CHART"
