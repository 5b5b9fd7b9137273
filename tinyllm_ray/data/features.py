"""Token features of a dataset: question files and rationale stores in, memory-mapped arrays out, built once and shared.

<output_dir>/features/<digest>/meta.json and per split
  tokens.npy        int32, flat: every source and target, one after another
  examples.npy      int64 [examples, 6] by row: row, component, start and length of the source, then of the target
  question_ids.npy  text, by row
  selection.parquet which teacher each training question is learned from (Selection rows), where one is chosen
Component 0 is the label, component i the i-th teacher. Several rationales of one question are several examples.
One example row: [17, 1, 52310, 48, 52358, 96]
"""

import json
import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tinyllm_ray import storage
from tinyllm_ray.config import UserError, digest
from tinyllm_ray.data import store
from tinyllm_ray.data.arrays import ARRAYS, COLUMNS, ArrayWriter, Features
from tinyllm_ray.data.encode import encode_chunk
from tinyllm_ray.data.fit import (
    ROWS_AT_ONCE,
    Counts,
    as_plain,
    check_counts,
    count_scored,
    new_counts,
)
from tinyllm_ray.data.join import Asked, Targets, Wanted, join_targets, read_asked
from tinyllm_ray.data.quality import FLAGS
from tinyllm_ray.data.questions import QuestionFile, iterate_questions
from tinyllm_ray.data.selection import select_teachers
from tinyllm_ray.data.soft_targets import SoftWriter, open_soft
from tinyllm_ray.data.store import StoreId
from tinyllm_ray.data.tokenizer import StudentTokenizer, TokenWriter
from tinyllm_ray.data.vocabulary import soft_components
from tinyllm_ray.rows import SPLITS, Selection, to_table
from tinyllm_ray.schema import LABEL, Experiment
from tinyllm_ray.schema.rationales import NEEDS_OWN_ANSWERS
from tinyllm_ray.terminal.progress import Step, step

FORMAT = 4
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FeatureInputs:
    """What features are made from; all but the questions are folders."""

    questions: Mapping[str, QuestionFile]
    stores: Mapping[StoreId, str]
    tokenizer_folder: str
    router: str | None = None
    judged: str | None = None


def build_features(
    experiment: Experiment,
    *,
    questions: Mapping[str, QuestionFile],
    stores: Mapping[StoreId, str],
    tokenizer_folder: str,
    output_dir: str,
    router: str | None = None,
    judged: str | None = None,
) -> str:
    """The folder of the features, built unless it is there. `stores`, `router`, `judged`: their folders.

    Raises UserError where inputs or labels would be cut, choices cannot be told apart, or a store holds rows of other
    questions; the test split is held to the same rules.
    """
    plan = make_plan(experiment, questions, stores, tokenizer_folder) | {
        "router": router and router.rpartition("/")[2],
        "judged": judged and judged.rpartition("/")[2],
    }
    folder = storage.join(output_dir, "features", digest(plan))
    if not storage.exists(storage.join(folder, "meta.json")):
        total = sum(questions[split].rows for split in plan["questions"])
        with step("features", total=total, unit="rows") as bar:
            write_features(folder, plan, bar, FeatureInputs(questions, stores, tokenizer_folder, router, judged))
    for split, counts in read_meta(folder)["splits"].items():
        check_counts(counts, split, experiment)
    return folder


def open_features(folder: str, split: str) -> Features:
    """Raises UserError where the folder is damaged."""
    return load_arrays(folder, read_meta(folder)["plan"]["components"], below=split)


def load_arrays(folder: str, components: list[str], *, below: str = "") -> Features:
    """The memory-mapped arrays of a folder, or of one below it. Raises UserError where it is damaged."""
    local = storage.local_folder(folder) / below
    try:
        arrays = {name: np.load(local / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(folder, error) from None
    return Features(**arrays, components=components, soft=open_soft(local))


def read_meta(folder: str) -> dict[str, Any]:
    """What the features were made from (`plan`) and counts by split (`splits`)."""
    try:
        meta = storage.read_json(storage.join(folder, "meta.json"))
    except ValueError as error:
        raise _damaged(folder, error) from None
    if not isinstance(meta, dict) or not {"plan", "splits"} <= meta.keys():
        raise _damaged(folder, "meta.json holds no plan and counts")
    return meta


def _damaged(folder: str, reason: object) -> UserError:
    return UserError(f"the features in {folder} are damaged ({reason}); remove this folder, and they are made again")


def make_plan(
    experiment: Experiment, questions: Mapping[str, QuestionFile], stores: Mapping[StoreId, str], tokenizer_folder: str
) -> dict[str, Any]:
    """Everything that the features depend on; its digest names their folder."""
    teachers = [teacher for teacher in experiment.teachers if StoreId(teacher.name) in stores]
    student = experiment.student
    source = experiment.training.label_source
    if source != "gold" and _answers_of(source) not in stores:
        raise UserError(
            f"training.label_source is {source!r}, but that teacher has no answers for the train split; "
            "add `train` to prompts.answer_splits and generate them"
        )
    unknown = sorted(set(experiment.training.use_rationales.drop) - set(FLAGS))
    if unknown:
        raise UserError(f"training.use_rationales.drop: no flag is named {unknown[0]!r}; there is {', '.join(FLAGS)}")
    used = [StoreId(teacher.name) for teacher in teachers] + ([] if source == "gold" else [_answers_of(source)])
    soft = soft_components(experiment, stores, tokenizer_folder)
    if experiment.rationales.select in NEEDS_OWN_ANSWERS:
        used += [StoreId(teacher.name, answers=True) for teacher in teachers]
    return {
        "format": FORMAT,
        "questions": {split: questions[split].digest for split in SPLITS if split in questions},
        "tokenizer": tokenizer_digest(tokenizer_folder),
        "stores": {str(i): store.content_digest(stores[i]) for i in used},
        "components": [LABEL, *(teacher.name for teacher in teachers)],
        "prefixes": [student.label_prefix, *(teacher.task_prefix for teacher in teachers)],
        "max_input_tokens": student.max_input_tokens,
        "max_label_tokens": student.max_label_tokens,
        "max_rationale_tokens": student.max_rationale_tokens,
        "rationales": _chosen(experiment),
        "drop": sorted(experiment.training.use_rationales.drop),
        "label_source": source,
        **({"soft_targets": soft} if soft else {}),
    }


def _chosen(experiment: Experiment) -> dict[str, Any]:
    """The router and what the judge wrote have digests of their own."""
    chosen = experiment.rationales.model_dump(exclude={"router", "judge"})
    judge = experiment.rationales.judge
    return chosen | {"judge": {"threshold": judge.threshold} if judge else None}


def tokenizer_digest(folder: str) -> str:
    names = storage.list_files(folder)
    return digest([[name.removeprefix(folder), digest(storage.read_bytes(name).hex())] for name in names])


def _answers_of(label_source: str) -> StoreId:
    """The store that `training.label_source: teacher:NAME` takes its labels from."""
    return StoreId(label_source.removeprefix("teacher:"), answers=True)


def write_features(folder: str, plan: dict[str, Any], bar: Step, inputs: FeatureInputs) -> None:
    """Write beside the final folder (in a temporary one for cloud storage), then move: readers see all or nothing."""
    target = storage.local_path(folder) if storage.is_local(folder) else None
    partial = target.with_name(f".tmp-{uuid.uuid4().hex}") if target else Path(tempfile.mkdtemp())
    tokenizer, questions = StudentTokenizer.open(inputs.tokenizer_folder), inputs.questions
    counts = {}
    for split in plan["questions"]:
        (partial / split).mkdir(parents=True)
        if split == "test" or (split == "train" and "arrivals" in plan):  # read, and not learned from here
            found = count_scored(questions[split].path, plan, tokenizer)
            bar.advance(questions[split].rows)
        else:
            found = build_split(partial / split, split, plan, inputs, tokenizer, bar)
        counts[split] = {"rows": questions[split].rows, **as_plain(found, ["input", *plan["components"]])}
        log.info("features of %s: %s", split, counts[split])
    (partial / "meta.json").write_text(json.dumps({"plan": plan, "splits": counts}, indent=2))
    if target is None:
        meta = partial / "meta.json"
        content = meta.read_bytes()
        meta.unlink()
        storage.upload_folder(partial, folder)
        storage.write_bytes(storage.join(folder, "meta.json"), content)
        shutil.rmtree(partial)
        return
    try:
        os.rename(partial, target)
    except OSError:  # another process was first
        shutil.rmtree(partial)
        assert target.is_dir()


def build_split(
    folder: Path, split: str, plan: dict[str, Any], inputs: FeatureInputs, tokenizer: StudentTokenizer, bar: Step
) -> Counts:
    """Write one split chunk by chunk."""
    questions, stores = inputs.questions, inputs.stores
    file = questions[split]
    asked = read_asked(file.path, [other.path for name, other in questions.items() if name != split])
    _save_ids(folder / "question_ids.npy", asked.ids.combine_chunks())
    counts = new_counts()
    targets = _teachers_targets(split, plan, asked, inputs, counts)
    if split == "train" and plan["rationales"]["select"] != "all":
        chosen, names = plan["rationales"], plan["components"][1:]
        choices = select_teachers(
            chosen["select"], names, asked, targets, counts, stores=stores, router=inputs.router, seed=chosen["seed"]
        )
        storage.write_table(str(folder / "selection.parquet"), to_table(choices, Selection))
    if plan["label_source"] != "gold" and split == "train":
        answers = stores[_answers_of(plan["label_source"])]
        targets[0] = join_targets(
            answers,
            split,
            asked,
            column="predicted_answer",
            name=LABEL,
            wanted=Wanted(),
            counts=counts,
            top_k=_top_k(plan, LABEL),
        )
    tokens = TokenWriter(folder / "tokens.npy")
    examples = ArrayWriter(folder / "examples.npy", np.int64, (len(COLUMNS),))
    soft = _soft_writer(folder, plan, tokenizer)
    first = 0
    for chunk in iterate_questions(file.path, ROWS_AT_ONCE):
        table = encode_chunk(chunk, first, plan, targets, tokenizer, tokens, counts, soft)
        examples.add(table[:, : len(COLUMNS)])
        if soft:
            soft.place(table[:, len(COLUMNS) :])
        first += len(chunk)
        bar.advance(len(chunk))
    tokens.finish()
    examples.finish()
    if soft:
        soft.finish()
    return counts


def _soft_writer(folder: Path, plan: Mapping[str, Any], tokenizer: StudentTokenizer) -> SoftWriter | None:
    if "soft_targets" not in plan:
        return None
    size = max(tokenizer.backend.get_vocab().values()) + 1
    return SoftWriter(folder, width=max(plan["soft_targets"].values()), vocabulary_size=size)


def _top_k(plan: Mapping[str, Any], component: str) -> int | None:
    """Tokens kept for each of a component's; None where it has no soft targets."""
    return plan["soft_targets"].get(component) if "soft_targets" in plan else None


def _teachers_targets(
    split: str, plan: Mapping[str, Any], asked: Asked, inputs: FeatureInputs, counts: Counts
) -> dict[int, Targets]:
    """The usable rationales of each teacher, by its component."""
    chosen = plan["rationales"]
    wanted = Wanted(frozenset(plan["drop"]), chosen["keep"], chosen["pick"], chosen["per_question"])
    targets = {}
    for component, name in enumerate(plan["components"][1:], start=1):
        if inputs.judged and split == "train":
            scores = read_judged(inputs.judged, name)
            wanted = replace(wanted, scores=scores, threshold=chosen["judge"]["threshold"])
        targets[component] = join_targets(
            inputs.stores[StoreId(name)],
            split,
            asked,
            column="rationale",
            name=name,
            wanted=wanted,
            counts=counts,
            top_k=_top_k(plan, name),
        )
    return targets


def read_judged(folder: str, teacher: str) -> dict[str, int]:
    """Key of each of a teacher's rationales -> the judge's score, from 1 to 5, or 0 where it wrote none."""
    table = storage.read_table(storage.join(folder, "judged.parquet"))
    rows = table.filter(pc.equal(table["teacher"], teacher))
    return dict(zip(rows["key"].to_pylist(), rows["score"].to_pylist(), strict=True))


def _save_ids(path: Path, ids: pa.Array) -> None:
    longest = pc.max(pc.utf8_length(ids)).as_py() or 1
    writer = ArrayWriter(path, np.dtype(f"<U{longest}"))
    for start in range(0, len(ids), ROWS_AT_ONCE):
        writer.add(np.array(ids.slice(start, ROWS_AT_ONCE).to_pylist(), writer.dtype))
    writer.finish()
