"""In-context examples with rationales: the configuration in, question id -> rationale out.

They come from a file, or from the teacher itself: `bootstrap` lets it write rationales for some training questions from
examples without any, and keeps those that no flag speaks against.
"""

import json
import random
from collections.abc import Mapping, Sequence

from tinyllm_ray import storage
from tinyllm_ray.config import UserError, digest
from tinyllm_ray.data import store
from tinyllm_ray.data.questions import QuestionFile
from tinyllm_ray.rows import Question, to_table
from tinyllm_ray.schema import Prompts
from tinyllm_ray.teachers.pending import Target

BOOTSTRAP, FILE = "bootstrap", "file:"
BOOTSTRAP_QUESTIONS = 64
KEY = "prompts.in_context.rationales"


def read_rationales(prompts: Prompts) -> dict[str, str]:
    """Those of the file that the configuration names; JSON lines of `question_id` and `rationale`."""
    named = prompts.in_context.rationales
    if not named.startswith(FILE):
        return {}
    path = named.removeprefix(FILE)
    found: dict[str, str] = {}
    try:
        lines = storage.read_bytes(path).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{KEY}: {path} cannot be read as UTF-8 text: {error}") from None
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            question_id, text = row["question_id"], row["rationale"]
        except (ValueError, KeyError, TypeError, RecursionError):
            question_id = text = None
        if not isinstance(question_id, str | int) or not isinstance(text, str) or not text.strip():
            raise UserError(f'{KEY}: {path}, line {number}: a line is {{"question_id": ..., "rationale": "..."}}')
        found[str(question_id)] = text.strip()
    return found


def without_rationales(prompts: Prompts) -> Prompts:
    """The prompts of the first pass."""
    return prompts.model_copy(update={"in_context": prompts.in_context.model_copy(update={"rationales": "none"})})


def bootstrap_target(
    prompts: Prompts, candidates: Sequence[Question], *, manifest: Mapping[str, object], output_dir: str
) -> Target:
    """The store of the first pass, and the same questions in every run."""
    draw = random.Random(f"{prompts.seed}/bootstrap")
    chosen = draw.sample(list(candidates), min(BOOTSTRAP_QUESTIONS, len(candidates)))
    own = {**manifest, "bootstrap": len(chosen)}
    folder = store.store_folder(output_dir, own)
    store.open_store(folder, own)
    path = storage.join(folder, "questions.parquet")
    storage.write_table(path, to_table(chosen, Question))
    file = QuestionFile(path=path, rows=len(chosen), rejected=0, rejected_path="", digest=digest(own))
    return Target("train", folder, False, digest(own), bool(manifest["teacher_forcing"]), file)


def clean_rationales(target: Target, *, wanted: int, teacher: str) -> dict[str, str]:
    """What the first pass wrote without a flag."""
    rows = store.read(target.folder, target.split, ["question_id", "rationale", "flags"]).to_pylist()
    clean = {row["question_id"]: row["rationale"] for row in rows if not row["flags"]}
    if len(clean) <= wanted:
        raise UserError(
            f"{KEY}=bootstrap: teacher {teacher} wrote {len(clean)} rationales without a flag for "
            f"{target.questions.rows} questions, too few for {wanted} examples; set it to none or {FILE}PATH"
        )
    return clean
