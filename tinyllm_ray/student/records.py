"""What a trial writes while it runs: metrics in parts, evaluations, predictions, the model folder and the result.

<dir>/metrics/part-<number>-<last step>.jsonl: {"step": 20, "time": 1767225600000, "train/loss": 2.31, ...}
<dir>/first_epoch/part-...jsonl, from a stream: {"step": 1, "time": ..., "waited_s": 0.5, "parts": 2,
  "shards": [["q7", "q3"], ["q1"]]}
<dir>/evaluations.json: [{"step": 200, "eval/accuracy": 0.41, ...}]
"""

import json
import logging
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from transformers.utils.logging import disable_progress_bar

from tinyllm_ray import storage
from tinyllm_ray.data.prompts import student_input
from tinyllm_ray.rows import Prediction, Question, to_table
from tinyllm_ray.schema import Experiment

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)
Kind = TypeVar("Kind")
PART_S = 5.0
PART = re.compile(r"part-(\d+)-\d+\.jsonl$")
ANSWERING = "student.json"  # in a model folder
INPUT_FORMAT = (
    "Input: rows of `question` (text), `choices` (2 to 26 texts; not for labels, numbers and free text) and, where "
    "there is one, `context` (text), as a DataFrame or a list of dicts; or plain strings that hold the question, a "
    "line `Answer Choices:` and the choices as lines `(a) ...`. Output: `answer` (the choice with the highest score, "
    "or generated text where that was asked for), `confidence` (0 to 1, among the choices), `scores` (mean token "
    "log-likelihood of each choice, in their order) and `rationales` (the student's own, by teacher; empty unless "
    "asked for)."
)


class Lines:
    """Rows with a step, in parts of a folder; when a trial resumes, those of the steps that it repeats are removed."""

    def __init__(self, folder: str, *, first_step: int) -> None:
        self.folder = folder
        self.rows: list[dict[str, Any]] = []
        self.next_part = 0  # a number of its own for each part: two may hold lines of one step
        for uri in storage.list_files(folder, ".jsonl"):
            match = PART.search(uri)
            self.next_part = max(self.next_part, int(match[1]) + 1 if match else 0)
            self._forget(uri, first_step)

    def flush(self) -> None:
        if self.rows:
            name = f"part-{self.next_part:06d}-{self.rows[-1]['step']:09d}.jsonl"
            storage.write_bytes(storage.join(self.folder, name), _as_lines(self.rows))
            self.next_part += 1
        self.rows = []

    def _forget(self, uri: str, first_step: int) -> None:
        data = storage.read_bytes(uri)
        lines = [line for text in data.splitlines() for line in _read_line(text, uri)]
        kept = [line for line in lines if line["step"] <= first_step]
        if not kept:
            storage.remove(uri)
        elif _as_lines(kept) != data:
            storage.write_bytes(uri, _as_lines(kept))


class Recorder:
    """Metrics, evaluations and, from a stream, the rows of the first epoch of one trial."""

    def __init__(self, folder: str, *, first_step: int) -> None:
        self.folder = folder
        self.flushed = time.monotonic()
        self.evaluations = [row for row in read_evaluations(folder) if row["step"] <= first_step]
        self._metrics = Lines(storage.join(folder, "metrics"), first_step=first_step)
        self._rows = Lines(storage.join(folder, "first_epoch"), first_step=first_step)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        self._metrics.rows.append({"step": step, "time": int(time.time() * 1000), **values})
        if time.monotonic() - self.flushed > PART_S:
            self.flush()

    def rows(self, step: int, *, parts: int, waited_s: float, shards: list[list[str]]) -> None:
        """Question ids by shard; how many parts of the stream were known at the step; what was waited until then."""
        row = {"step": step, "time": int(time.time() * 1000), "waited_s": round(waited_s, 3), "parts": parts}
        self._rows.rows.append({**row, "shards": shards})

    def evaluation(self, step: int, values: dict[str, float]) -> None:
        self.metrics(step, values)
        self.evaluations.append({"step": step, **values})
        storage.write_json(storage.join(self.folder, "evaluations.json"), self.evaluations)

    def flush(self) -> None:
        self._rows.flush()
        self._metrics.flush()
        self.flushed = time.monotonic()


def read_evaluations(folder: str) -> list[dict[str, Any]]:
    return read_whole(storage.join(folder, "evaluations.json"), list) or []


def read_whole(uri: str, kind: type[Kind]) -> Kind | None:
    """The list or mapping of a JSON file; None where it is not there, or damaged, which is said."""
    if not storage.exists(uri):
        return None
    try:
        found = storage.read_json(uri)
    except ValueError as error:
        log.warning("%s is damaged and not used: %s", uri, error)
        return None
    if isinstance(found, kind):
        return found
    log.warning("%s is damaged and not used: it holds %s", uri, type(found).__name__)
    return None


def write_predictions(folder: str, split: str, predictions: Sequence[Prediction]) -> None:
    storage.write_table(storage.join(folder, "predictions", f"{split}.parquet"), to_table(predictions, Prediction))


def write_model(
    folder: str, model: "PreTrainedModel", *, tokenizer_folder: str, card: str, answering: dict[str, Any]
) -> None:
    """A Hugging Face folder: config, safetensors, tokenizer, model card, and what `student.predict` needs beside."""
    with tempfile.TemporaryDirectory() as temporary:
        disable_progress_bar()
        model.save_pretrained(temporary)
        for path in storage.local_folder(tokenizer_folder).iterdir():
            if path.name != "layout.json":
                (Path(temporary) / path.name).write_bytes(path.read_bytes())
        (Path(temporary) / "README.md").write_text(card, encoding="utf-8")
        storage.write_json(str(Path(temporary) / ANSWERING), answering)
        storage.upload_folder(temporary, storage.join(folder, "model"))


def model_card(experiment: Experiment, *, seed: int, made_from: dict[str, Any], result: dict[str, Any]) -> str:
    """Names what the model was made of: teachers, weights, digests, settings, scores."""
    loss, training = experiment.loss, experiment.training
    weights = dict.fromkeys((teacher.name for teacher in experiment.teachers), 0.0) | loss.rationale_weights
    stores = dict.fromkeys(weights, "-") | made_from["stores"]
    rows: list[tuple[str, str | None, float, str]] = [("label", "-", loss.label_weight, "-")]
    rows += [(t.name, t.model or t.store, weights[t.name], stores[t.name]) for t in experiment.teachers]
    scores = {name: value for name, value in result.items() if name.startswith(("eval/", "test/"))}
    lines = [
        "---",
        "library_name: transformers",
        "tags: [distillation, multiple-choice]",
        "---",
        f"# {experiment.name}: {training.method}, seed {seed}",
        "",
        f"`{experiment.student.model}`, distilled by tinyllm_ray on the dataset `{experiment.dataset.name}`.",
        "",
        "| component | teacher | weight | rationale store |",
        "|---|---|---|---|",
        *(f"| {component} | {model} | {weight} | {digest} |" for component, model, weight, digest in rows),
        *([] if loss.weighting == "fixed" else ["", f"The weights varied during training: {loss.weighting}."]),
        "",
        "## Use",
        "",
        f"`tinyllm-ray predict FOLDER QUESTIONS` answers a question file with this folder. {INPUT_FORMAT}",
        "",
        "What the model itself reads, followed by its end mark (a line break for a decoder-only student):",
        "",
        "```",
        student_input(experiment.student.label_prefix, Question("", "<question>", ["<choice>", "<choice>"], "")),
        "```",
        "",
        "## Training",
        "",
        f"Label source: {training.label_source}. Steps: {result['steps']}, batch {training.batch_size}, "
        f"learning rate {training.learning_rate}.",
        "",
        f"Data digests: questions {json.dumps(made_from['questions'])}, tokenizer {made_from['tokenizer']}.",
        "",
        "| metric | value |",
        "|---|---|",
        *(f"| {name} | {value:.4f} |" for name, value in sorted(scores.items())),
        "",
    ]
    return "\n".join(lines)


def _read_line(text: bytes, uri: str) -> list[dict[str, Any]]:
    """One line of a part; none where it is damaged, which is said."""
    try:
        line = json.loads(text)
        if isinstance(line.get("step"), int):
            return [line]
    except (ValueError, AttributeError):
        pass
    log.warning("%s holds a damaged line, which is left out: %.80r", uri, text)
    return []


def _as_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
