"""Features that grow: parts of arrivals in, the same arrays as in features.py out, one folder for each part.

<output_dir>/features/<digest>/ holds meta.json and validation/, which do not change, and beside it
<output_dir>/features/<digest>.parts/
  <number>/      the arrays of features.py, rows.npy (int64: rows of the question file) and, written last, counts.json
  closed.json    that of the arrivals, written when all parts are there
  stopped.json   why no more parts come: {"message": "..."}
The digest counts the first part's content: nothing that comes later changes what is there.
"""

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinyllm_ray import storage
from tinyllm_ray.config import digest
from tinyllm_ray.data import features
from tinyllm_ray.data.arrivals import CLOSED, Arrivals
from tinyllm_ray.data.fit import as_plain, check_counts
from tinyllm_ray.data.questions import QuestionFile
from tinyllm_ray.data.tokenizer import StudentTokenizer
from tinyllm_ray.schema import Experiment
from tinyllm_ray.schema.rationales import NEEDS_OWN_ANSWERS
from tinyllm_ray.terminal.progress import step

COUNTS, STOPPED = "counts.json", "stopped.json"


def can_follow(experiment: Experiment) -> bool:
    """Whether a training can start before the teachers end: nothing in it needs all their answers or soft targets."""
    select, source = experiment.rationales.select, experiment.training.label_source
    softened = any(teacher.soft_targets for teacher in experiment.teachers)
    return select not in NEEDS_OWN_ANSWERS and source == "gold" and not softened


def plan_parts(
    experiment: Experiment,
    *,
    questions: Mapping[str, QuestionFile],
    arrivals: Arrivals,
    tokenizer_folder: str,
    output_dir: str,
) -> str:
    """The folder in which the features of the arrivals are built; validation is built here and now, labels alone.

    Inputs and labels of all splits are checked before a row is trained on. Raises UserError as build_features does.
    """
    stores = arrivals.stores(0, [teacher.name for teacher in experiment.teachers])
    plan = features.make_plan(experiment, questions, stores, tokenizer_folder)
    plan["arrivals"] = arrivals.folder.rpartition("/")[2]
    plan["window_rows"] = experiment.pools.overlap.window_rows
    folder = storage.join(output_dir, "features", digest(plan))
    if not storage.exists(storage.join(folder, "meta.json")):
        with step("features", total=sum(questions[split].rows for split in plan["questions"]), unit="rows") as bar:
            features.write_features(folder, plan, bar, features.FeatureInputs(questions, stores, tokenizer_folder))
    for split, counts in features.read_meta(folder)["splits"].items():
        check_counts(counts, split, experiment)
    return folder


def part_folder(folder: str, number: int) -> str:
    return storage.join(f"{folder}.parts", f"{number:06d}")


def closed(folder: str) -> dict[str, int] | None:
    uri = storage.join(f"{folder}.parts", CLOSED)
    return storage.read_json(uri) if storage.exists(uri) else None


def stopped(folder: str) -> str | None:
    uri = storage.join(f"{folder}.parts", STOPPED)
    return storage.read_json(uri)["message"] if storage.exists(uri) else None


def is_built(folder: str, number: int) -> bool:
    return storage.exists(storage.join(part_folder(folder, number), COUNTS))


def build_part(folder: str, arrivals_folder: str, number: int, tokenizer_folder: str) -> int:
    """Write one part's arrays; returns its number. Two that build the same part write the same."""
    plan, arrivals = features.read_meta(folder)["plan"], Arrivals(arrivals_folder)
    file = arrivals.questions(number)
    with tempfile.TemporaryDirectory() as scratch:
        with step("features", total=file.rows, unit="rows") as bar:
            stores = arrivals.stores(number, plan["components"][1:])
            inputs = features.FeatureInputs({"train": file}, stores, tokenizer_folder)
            tokenizer = StudentTokenizer.open(tokenizer_folder)
            counts = features.build_split(Path(scratch), "train", plan, inputs, tokenizer, bar)
        np.save(Path(scratch, "rows.npy"), np.array(arrivals.rows(number), np.int64))
        found = {"rows": file.rows, **as_plain(counts, ["input", *plan["components"]])}
        _publish(Path(scratch), part_folder(folder, number), found)
    return number


def close_parts(folder: str, arrivals: Arrivals) -> None:
    """Say that all parts are there."""
    storage.write_json(storage.join(f"{folder}.parts", CLOSED), arrivals.closed())


def stop_parts(folder: str, message: str) -> None:
    """Say to who waits for the next part that none will come."""
    storage.write_json(storage.join(f"{folder}.parts", STOPPED), {"message": message})


def allow_parts(folder: str) -> None:
    storage.remove(storage.join(f"{folder}.parts", STOPPED))


def _publish(scratch: Path, target: str, counts: dict[str, Any]) -> None:
    """Readers see all of a part or none: its counts come last."""
    if storage.is_local(target):
        place = storage.local_path(target)
        partial = place.with_name(f".tmp-{uuid.uuid4().hex}")
        shutil.copytree(scratch, partial)
        (partial / COUNTS).write_text(json.dumps(counts))
        try:
            os.rename(partial, place)
        except OSError:  # another process was first
            shutil.rmtree(partial)
        return
    storage.upload_folder(scratch, target)
    storage.write_json(storage.join(target, COUNTS), counts)
