"""What is left to do: question files and stores in, prompt rows as small Parquet files out.

Questions stream through in batches, so memory does not grow with their number. A prompt that is over the model's
length loses its in-context examples one by one, never its question; one that is still too long fails here, before any
engine starts.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tinyllm_ray import storage
from tinyllm_ray.config import UserError, digest
from tinyllm_ray.data import store
from tinyllm_ray.data.prompts import build_prompt, choose_examples, example_set, load_template
from tinyllm_ray.data.questions import QuestionFile, iterate_questions
from tinyllm_ray.rows import PromptRow, Question, Rationale, from_table, to_table
from tinyllm_ray.schema import Prompts, Teacher
from tinyllm_ray.teachers.engines.base import Encoded, Engine

READ_ROWS = 2048
MAX_CANDIDATES = 20_000  # in-context examples are drawn from the first so many training questions, held in memory


@dataclass(frozen=True)
class Target:
    """One split of one store, and the questions that it is to hold rows for."""

    split: str
    folder: str
    answers: bool  # the teacher's own answers, else rationales
    settings: str  # digest of the store's manifest
    teacher_forcing: bool
    questions: QuestionFile


@dataclass
class Pending:
    """Where the prompts to run are, and what was found on the way."""

    files: list[str] = field(default_factory=list)
    rows: int = 0
    wanted: int = 0
    found: int = 0
    shortened: int = 0  # prompts that lost in-context examples
    longest_prompt: int = 0  # tokens
    failed: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Todo:
    """A row that its store lacks."""

    key: str
    sample: int
    question: Question
    examples: list[Question]


@dataclass(frozen=True)
class _Prompt:
    """What the teacher is asked for one row."""

    text: str
    encoded: Encoded
    dropped_examples: int


def write_pending(
    targets: Sequence[Target],
    *,
    folder: str,
    teacher: Teacher,
    prompts: Prompts,
    candidates: Sequence[Question],
    engine: Engine,
    rationales: Mapping[str, str] | None = None,
) -> Pending:
    """Write the prompts of all rows that the stores lack; record the ones that are too long as failed."""
    storage.remove_folder(folder)
    pending = Pending()
    template, known = load_template(prompts.template), with_rationales(candidates, rationales or {})
    writer = _Writer(folder, rows_per_file=teacher.batch_size)
    for number, target in enumerate(targets):
        for rows in _missing(target, teacher=teacher, prompts=prompts, candidates=known, pending=pending):
            fitted = _fit(
                rows,
                template=template,
                teacher_forcing=target.teacher_forcing,
                engine=engine,
                rationales=rationales or {},
            )
            failures = []
            for todo, prompt in zip(rows, fitted, strict=True):
                reason = _why_not(prompt, limit=engine.prompt_limit())
                if reason:
                    failures.append(_failure(todo, prompt, reason))
                    pending.failed[reason.partition(":")[0]] += 1
                    continue
                pending.shortened += prompt.dropped_examples > 0
                pending.longest_prompt = max(pending.longest_prompt, len(prompt.encoded.ids))
                row = _row(todo, prompt, target=number, seed=_seed(teacher.sampling.seed, todo.key))
                writer.add((number, _example_set(todo.question, prompts)), row)
            if failures:
                store.append(target.folder, target.split, failures)
    pending.files, pending.rows = writer.close()
    return pending


def read_candidates(questions: dict[str, QuestionFile], *, examples: int) -> list[Question]:
    """The training questions that in-context examples are drawn from."""
    if not examples:
        return []
    if "train" not in questions:
        raise UserError(
            "in-context examples come from the training split, which is missing; set prompts.in_context.examples=0"
        )
    found: list[Question] = []
    for batch in iterate_questions(questions["train"].path, READ_ROWS):
        found.extend(batch)
        if len(found) >= MAX_CANDIDATES:
            break
    return found[:MAX_CANDIDATES]


def with_rationales(candidates: Sequence[Question], rationales: Mapping[str, str]) -> list[Question]:
    """The candidates that can be examples: all, or those that have a rationale where there are any."""
    return [question for question in candidates if not rationales or question.question_id in rationales]


def prompt_of(
    question: Question,
    *,
    prompts: Prompts,
    candidates: Sequence[Question],
    engine: Engine,
    rationales: Mapping[str, str],
) -> str:
    """What the teacher is given for one question, fitted to its length: its tokens as text, or what is sent to it."""
    known = with_rationales(candidates, rationales)
    examples = choose_examples(question, candidates=known, in_context=prompts.in_context, seed=prompts.seed)
    template = load_template(prompts.template)
    todo = _Todo("", 0, question, examples)
    forced = prompts.teacher_forcing
    prompt = _fit([todo], template=template, teacher_forcing=forced, engine=engine, rationales=rationales)[0]
    reason = _why_not(prompt, limit=engine.prompt_limit())
    if reason:
        raise UserError(
            f"question {question.question_id} cannot be asked of teacher {engine.teacher.name}, and `generate` records "
            f"it as failed: {reason}"
        )
    return engine.show(prompt.text)


def rewrite(files: Sequence[str], keys: Collection[str], *, folder: str, rows_per_file: int) -> list[str]:
    """The prompts of some keys only, for another try."""
    writer = _Writer(folder, rows_per_file=rows_per_file)
    for uri in files:
        for row in from_table(storage.read_table(uri), PromptRow):
            if row.key in keys:
                writer.add((row.target, 0), row)
    return writer.close()[0]


def _missing(
    target: Target, *, teacher: Teacher, prompts: Prompts, candidates: Sequence[Question], pending: Pending
) -> Iterator[list[_Todo]]:
    """Batches of what the target's store has no rationale for."""
    there = set(store.read(target.folder, target.split, ["key"])["key"].to_pylist())
    for questions in iterate_questions(target.questions.path, READ_ROWS):
        todo = []
        for question in questions:
            examples = None
            for sample in range(teacher.samples_per_question):
                key = store.row_key(question, sample, settings=target.settings, teacher_forcing=target.teacher_forcing)
                pending.wanted += 1
                if key in there:
                    pending.found += 1
                    continue
                if examples is None:
                    examples = choose_examples(
                        question, candidates=candidates, in_context=prompts.in_context, seed=prompts.seed
                    )
                todo.append(_Todo(key, sample, question, examples))
        if todo:
            yield todo


def _fit(
    rows: Sequence[_Todo], *, template: str, teacher_forcing: bool, engine: Engine, rationales: Mapping[str, str]
) -> list[_Prompt]:
    """A prompt for each row with as many of its examples as the model's length takes, else with none."""

    def write(numbers: Sequence[int], *, dropped: int) -> dict[int, _Prompt]:
        texts = [
            build_prompt(
                rows[i].question,
                template=template,
                examples=rows[i].examples[: len(rows[i].examples) - dropped],
                teacher_forcing=teacher_forcing,
                rationales=rationales,
            )
            for i in numbers
        ]
        encoded = engine.encode(texts)
        return {i: _Prompt(text, code, dropped) for i, text, code in zip(numbers, texts, encoded, strict=True)}

    limit = engine.prompt_limit()
    prompts = write(range(len(rows)), dropped=0)
    for dropped in range(1, max(len(row.examples) for row in rows) + 1):
        over = [i for i, row in enumerate(rows) if dropped <= len(row.examples) and _too_long(prompts[i], limit)]
        if over:
            prompts |= write(over, dropped=dropped)
    return [prompts[i] for i in range(len(rows))]


def _too_long(prompt: _Prompt, limit: int | None) -> bool:
    return limit is not None and len(prompt.encoded.ids) > limit


def _why_not(prompt: _Prompt, *, limit: int | None) -> str:
    """Why a prompt cannot be run; empty where it can."""
    if prompt.encoded.refused:
        return prompt.encoded.refused
    if _too_long(prompt, limit):
        tokens = len(prompt.encoded.ids)
        return f"prompt too long: {tokens} tokens without in-context examples, the model takes {limit}"
    return ""


def _example_set(question: Question, prompts: Prompts) -> int:
    pool = prompts.in_context.pool
    return 0 if pool is None else example_set(question.question_id, pool=pool, seed=prompts.seed)


def _row(todo: _Todo, prompt: _Prompt, *, target: int, seed: int) -> PromptRow:
    return PromptRow(
        key=todo.key,
        target=target,
        sample=todo.sample,
        question=todo.question,
        dropped_examples=prompt.dropped_examples,
        seed=seed,
        prompt=prompt.text,
        prompt_ids=prompt.encoded.ids,
    )


def _failure(todo: _Todo, prompt: _Prompt, reason: str) -> Rationale:
    return Rationale(
        key=todo.key,
        question_id=todo.question.question_id,
        sample=todo.sample,
        rationale="",
        predicted_answer="",
        finish_reason="failed",
        failure=reason,
        dropped_examples=prompt.dropped_examples,
        input_tokens=len(prompt.encoded.ids),
        output_tokens=0,
    )


def _seed(seed: int, key: str) -> int:
    """Each row its own random numbers, the same ones in every run."""
    return int(hashlib.blake2b(digest([seed, key]).encode(), digest_size=4).hexdigest(), 16) >> 1


class _Writer:
    """Rows of one group (target, example set) lie together, in files of one engine batch each."""

    def __init__(self, folder: str, *, rows_per_file: int) -> None:
        self._folder = folder
        self._rows_per_file = rows_per_file
        self._groups: dict[tuple[int, int], list[PromptRow]] = {}
        self._files: list[str] = []
        self._rows = 0

    def add(self, group: tuple[int, int], row: PromptRow) -> None:
        rows = self._groups.setdefault(group, [])
        rows.append(row)
        self._rows += 1
        if len(rows) == self._rows_per_file:
            self._flush(group)

    def close(self) -> tuple[list[str], int]:
        for group in list(self._groups):
            self._flush(group)
        return sorted(self._files), self._rows

    def _flush(self, group: tuple[int, int]) -> None:
        rows = self._groups.pop(group)
        uri = storage.join(self._folder, f"{group[0]:03d}-{group[1]:05d}-{len(self._files):07d}.parquet")
        storage.write_table(uri, to_table(rows, PromptRow))
        self._files.append(uri)
