"""The report: an experiment in, its page and PNGs below <output_dir>/report/ and in MLflow out.

What the page shows has a digest, kept beside it in report.json. A run that changed nothing finds its page by it.
"""

import dataclasses
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tinyllm_ray import storage
from tinyllm_ray.config import digest
from tinyllm_ray.redact import redact_text
from tinyllm_ray.report.data import ReportData, read_report
from tinyllm_ray.schema import Experiment
from tinyllm_ray.tracking.read import Records
from tinyllm_ray.tracking.shown import NOTE, parent_note

FOLDER = "report"
PAGE = "report.html"
SUMMARY = "report.json"  # what make_report returns, and the digest of what the page shows


def make_report(experiment: Experiment, *, output_dir: str, uri: str, redraw: bool = True) -> dict[str, Any]:
    """Write the page and its figures, here and as artifacts of the parent run.

    Without `redraw`, a page that shows the same data is left as it is. Returns {"report": path, "headline": sentence,
    "comparison": address, "effects": rows, "growth": rows}. Raises UserError where MLflow has no such run.
    """
    data = read_report(experiment, output_dir=output_dir, uri=uri)
    folder = storage.join(output_dir, FOLDER)
    shown = shown_digest(data)
    found = None if redraw else _summary(folder)
    if found and found["shown"] == shown:
        return found["made"]
    files, headline, rows = _draw(data, uri=uri)
    for name, content in files.items():
        storage.write_bytes(storage.join(folder, name), content)
    _keep_in_mlflow(data, files, uri=uri, headline=headline)
    made = {
        "report": storage.join(folder, PAGE),
        "headline": headline,
        "comparison": data.parent.tags["comparison"],
        **rows,
    }
    storage.write_json(storage.join(folder, SUMMARY), {"shown": shown, "made": made})
    return made


def shown_digest(data: ReportData) -> str:
    """Of all that the page shows and of this package's version, whatever state the parent run is in."""
    parent = dataclasses.replace(
        data.parent, status="", end_ms=None, tags={k: v for k, v in data.parent.tags.items() if k != NOTE}
    )
    return digest([repr(dataclasses.replace(data, parent=parent)), version("tinyllm_ray")])


def _summary(folder: str) -> dict[str, Any] | None:
    """What was made last; None where there is no page or what lies there cannot be read."""
    try:
        found = storage.read_json(storage.join(folder, SUMMARY))
    except (OSError, ValueError):
        return None
    whole = isinstance(found, dict) and found.keys() == {"shown", "made"} and storage.exists(storage.join(folder, PAGE))
    return found if whole else None


def _draw(data: ReportData, *, uri: str) -> tuple[dict[str, bytes], str, dict[str, list[dict[str, Any]]]]:
    """The files by name, the headline, and the rows of paired effects and of growth."""
    from tinyllm_ray.report.effects import conclude, teacher_effects
    from tinyllm_ray.report.figures import draw_all
    from tinyllm_ray.report.growth import grown
    from tinyllm_ray.report.page import render_page, search_summary, winner_sentence

    effects = teacher_effects(data.scores, [teacher.name for teacher in data.experiment.teachers])
    figures = draw_all(data, effects)
    files = {PAGE: render_page(data, effects, figures, uri=uri).encode()}
    files |= {f"{figure.name}.png": figure.light for figure in figures}
    headline = " ".join(filter(None, [conclude(effects), winner_sentence(search_summary(data))]))
    growth = [dataclasses.asdict(row) for row in grown(data.grown_scores)]
    return files, headline, {"effects": [vars(effect) for effect in effects], "growth": growth}


def _keep_in_mlflow(data: ReportData, files: Mapping[str, bytes], *, uri: str, headline: str) -> None:
    records = Records(uri, timeout_s=data.experiment.tracking.connect_timeout_s)
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            Path(folder, name).write_bytes(content)
        records.add_artifacts(data.parent.run_id, folder, FOLDER)
    tags = data.parent.tags
    note = parent_note(headline, command=tags["command"], comparison=tags["comparison"])
    records.set_note(data.parent.run_id, redact_text(note))
