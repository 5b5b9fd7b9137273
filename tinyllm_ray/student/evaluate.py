"""Scoring a student: questions in, metrics and Prediction rows out.

Ranking takes the choice with the highest mean token log-likelihood; one encoder pass serves all choices of a question.
Generation is batched by length, read and compared as the question's task does it. Every rank calls these functions
with the same arguments, computes its share of the batches and gets the whole; the batches do not depend on the ranks.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from tinyllm_ray.data.arrays import Features
from tinyllm_ray.data.prompts import student_input
from tinyllm_ray.data.tokenizer import StudentTokenizer
from tinyllm_ray.rows import Prediction, Question
from tinyllm_ray.schema import Evaluation, Student, Training
from tinyllm_ray.schema.base import UserError
from tinyllm_ray.student.batches import active_examples, collate, micro_batches, pack
from tinyllm_ray.student.objective import Term, cross_entropy, term_sums, token_counts
from tinyllm_ray.student.packed import decoder_start, padded_attention, target_logits
from tinyllm_ray.student.shards import gather_dict, gather_rows, rank, share_between, world_size
from tinyllm_ray.tasks.registry import task_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CALIBRATION_BINS = 10
LATENCY_QUESTIONS, WARM_UP_QUESTIONS = 30, 5
FEWEST_BATCHES, SMALLEST_BATCH = 8, 16  # enough batches that ranks finish together, none so small that it is slow


@dataclass(frozen=True)
class Reader:
    """A student ready to answer."""

    model: "PreTrainedModel"
    tokenizer: StudentTokenizer
    student: Student
    batch_size: int
    on_batch: Callable[[int], object] = lambda questions: None  # called after each batch, for progress

    def sources(self, prefix: str, questions: Sequence[Question]) -> list[list[int]]:
        encoded = self.tokenizer.sources([student_input(prefix, question) for question in questions])
        return [self.tokenizer.cut(ids, self.student.max_input_tokens, target=False) for ids in encoded]

    def batches(self, sources: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Positions of `sources`, longest first, in batches: those that this rank computes."""
        order = sorted(range(len(sources)), key=lambda i: -len(sources[i]))
        size = min(self.batch_size, max(SMALLEST_BATCH, math.ceil(len(order) / FEWEST_BATCHES)))
        parts = [order[first : first + size] for first in range(0, len(order), size)]
        owner = share_between([sum(len(sources[i]) for i in part) for part in parts], world_size())
        yield from (part for part, owned_by in zip(parts, owner, strict=True) if owned_by == rank())

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.student.dtype == "bfloat16")

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device


def evaluate(
    model: nn.Module,
    tokenizer: StudentTokenizer,
    *,
    questions: Sequence[Question],
    student: Student,
    evaluation: Evaluation,
    rationale_prefixes: Mapping[str, str] | None = None,
    rationale_questions: int = 0,
    on_batch: Callable[[int], object] = lambda questions: None,
) -> tuple[dict[str, float], list[Prediction]]:
    """Metrics `eval/...` and a prediction for each question; the first `rationale_questions` with the student's own
    rationales, one for each entry of `rationale_prefixes` (teacher -> task prefix)."""
    reader = Reader(model, tokenizer, student, evaluation.batch_size, on_batch)
    predictions = answer_questions(
        reader,
        questions,
        evaluation=evaluation,
        rationale_prefixes=rationale_prefixes or {},
        rationale_questions=rationale_questions,
    )
    return _metrics(predictions, questions, evaluation), predictions


def answer_questions(
    reader: Reader,
    questions: Sequence[Question],
    *,
    evaluation: Evaluation,
    rationale_prefixes: Mapping[str, str],
    rationale_questions: int,
) -> list[Prediction]:
    """A prediction for each question, whether its gold answer is known or not."""
    reader.model.eval()
    student = reader.student
    scores: list[list[float]] = [[] for _ in questions]
    generated = [""] * len(questions)
    if evaluation.by != "generation":
        scores = choice_scores(reader, questions)
    if evaluation.by != "ranking":
        generated = generate(reader, questions, prefix=student.label_prefix, max_new_tokens=evaluation.max_new_tokens)
    explained = questions[:rationale_questions]
    written = {
        teacher: generate(reader, explained, prefix=prefix, max_new_tokens=student.max_rationale_tokens)
        for teacher, prefix in rationale_prefixes.items()
        if explained
    }
    return [
        _prediction(
            question, scores[i], generated[i], {name: texts[i] for name, texts in written.items() if i < len(texts)}
        )
        for i, question in enumerate(questions)
    ]


def confidence(scores: Sequence[float]) -> float:
    """Of the choice with the highest score, among the choices."""
    return float(torch.tensor(scores).softmax(0).max())


@torch.inference_mode()
def choice_scores(reader: Reader, questions: Sequence[Question]) -> list[list[float]]:
    """Mean token log-likelihood of each choice's text, with its end mark, as an answer."""
    sources = reader.sources(reader.student.label_prefix, questions)
    scores: dict[int, list[float]] = {}
    start = decoder_start(reader.model)
    for places in reader.batches(sources):
        texts = [choice for place in places for choice in questions[place].choices]
        which = [i for i, place in enumerate(places) for _ in questions[place].choices]
        targets = reader.tokenizer.targets(texts)
        batch = pack([sources[place] for place in places], which, targets, [0] * len(targets), decoder_start=start)
        batch = batch.to(reader.device)
        with reader.autocast():
            losses = cross_entropy(target_logits(reader.model, batch), batch)
        sums = torch.zeros(len(targets), device=reader.device).index_add(0, batch.examples, losses)
        counts = torch.bincount(batch.examples, minlength=len(targets))
        means = (-sums / counts).tolist()
        first = {
            (source, *target): i for i, (source, target) in reversed(list(enumerate(zip(which, targets, strict=True))))
        }
        for source, target in zip(which, targets, strict=True):  # choices of the same tokens have the same score
            scores.setdefault(places[source], []).append(means[first[source, *target]])
        reader.on_batch(len(places))
    every = gather_dict(scores)
    for i, question in enumerate(questions):
        if not np.isfinite(every[i]).all():
            raise UserError(
                f"the student's scores of question {question.question_id} are not finite ({every[i]}), so no choice "
                "can be said to be the best; its weights are damaged, or its training diverged"
            )
    return [every[i] for i in range(len(questions))]


@torch.inference_mode()
def generate(reader: Reader, questions: Sequence[Question], *, prefix: str, max_new_tokens: int) -> list[str]:
    """Greedy continuation of each question's input."""
    sources = reader.sources(prefix, questions)
    texts: dict[int, str] = {}
    tokenizer = reader.tokenizer
    for places in reader.batches(sources):
        longest = len(sources[places[0]])
        ids = torch.full((len(places), longest), tokenizer.pad)  # [B, S]
        mask = torch.zeros_like(ids)
        for row, place in enumerate(places):
            length = len(sources[place])
            span = slice(0, length) if tokenizer.encoder_decoder else slice(longest - length, longest)
            ids[row, span] = torch.tensor(sources[place])
            mask[row, span] = 1
        with reader.autocast(), padded_attention(reader.model):
            output = reader.model.generate(
                input_ids=ids.to(reader.device),
                attention_mask=mask.to(reader.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=1,
                eos_token_id=tokenizer.eos,
                pad_token_id=tokenizer.pad,
            )
        new = output if tokenizer.encoder_decoder else output[:, longest:]
        for place, row in zip(places, new.tolist(), strict=True):
            texts[place] = tokenizer.decode(row)
        reader.on_batch(len(places))
    every = gather_dict(texts)
    return [every[i] for i in range(len(questions))]


@torch.inference_mode()
def validation_losses(
    model: nn.Module,
    features: Features,
    *,
    terms: Sequence[Term],
    training: Training,
    dtype: str,
    max_rows: int | None,
) -> dict[str, float]:
    """`eval/loss/<term>` of every term that has targets here; this split's targets are gold answers."""
    model.eval()
    device = next(model.parameters()).device
    rows = np.arange(len(features.question_ids))[:max_rows]
    indices = active_examples(features, rows, sorted({i for term in terms for i in term.components}))
    parts = micro_batches(
        features, indices, max_tokens=training.micro_batch_tokens, max_examples=training.micro_batch_examples
    )
    owner = share_between([float(features.examples[part][:, [3, 5]].sum()) for part in parts], world_size())
    sums = torch.zeros(len(parts), len(terms), dtype=torch.float64, device=device)
    for number in np.flatnonzero(owner == rank()):
        batch = collate(features, parts[number], decoder_start=decoder_start(model)).to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            sums[number] = term_sums(target_logits(model, batch), batch, terms)
    totals, counts = gather_rows(sums).sum(0).tolist(), token_counts(features, indices, terms)
    return {f"eval/loss/{t.name}": total / n for t, total, n in zip(terms, totals, counts, strict=True) if n}


def latency(reader: Reader, questions: Sequence[Question], evaluation: Evaluation) -> dict[str, float]:
    """Milliseconds to answer one question on its own, the way that counts: median and 10% and 90% quantiles."""
    times = []
    for question in [*questions[:WARM_UP_QUESTIONS], *questions[:LATENCY_QUESTIONS]]:
        started = time.perf_counter()
        if evaluation.by == "generation":
            generate(reader, [question], prefix=reader.student.label_prefix, max_new_tokens=evaluation.max_new_tokens)
        else:
            choice_scores(reader, [question])
        times.append(1000 * (time.perf_counter() - started))
    low, middle, high = np.quantile(times[min(WARM_UP_QUESTIONS, len(questions)) :], [0.1, 0.5, 0.9]).tolist()
    return {"time/latency_ms": middle, "time/latency_ms_p10": low, "time/latency_ms_p90": high}


def calibration_error(confidences: Sequence[float], correct: Sequence[bool]) -> float:
    """Expected calibration error over ten equal bins: mean distance between confidence and accuracy."""
    confidence, right = np.array(confidences), np.array(correct, dtype=float)
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    return float(sum(abs((confidence - right)[bins == b].sum()) for b in range(CALIBRATION_BINS)) / len(confidence))


def best_choice(question: Question, scores: Sequence[float]) -> str:
    """The choice with the highest score; empty where several have it, since then nothing was chosen."""
    best = [choice for choice, score in zip(question.choices, scores, strict=True) if score == max(scores)]
    return best[0] if len(best) == 1 else ""


def _prediction(question: Question, scores: list[float], generated: str, rationales: dict[str, str]) -> Prediction:
    task = task_of(question.task)
    predicted = best_choice(question, scores) if scores else task.read(generated, question) or generated
    return Prediction(
        question_id=question.question_id,
        question=question.question,
        answer=question.answer,
        predicted=predicted,
        correct=predicted != "" and task.is_right(predicted, question),
        choice_scores=scores,
        generated=generated,
        rationales=rationales,
    )


def _metrics(
    predictions: Sequence[Prediction], questions: Sequence[Question], evaluation: Evaluation
) -> dict[str, float]:
    metrics = {"eval/accuracy": float(np.mean([row.correct for row in predictions]))}
    if evaluation.by != "generation":
        confidences = [confidence(row.choice_scores) for row in predictions]
        metrics["eval/tied"] = float(np.mean([row.predicted == "" for row in predictions]))
        metrics["eval/calibration_error"] = calibration_error(confidences, [row.correct for row in predictions])
    if evaluation.by != "ranking":
        metrics |= _generation_metrics([row.generated for row in predictions], questions)
    return metrics


def _generation_metrics(texts: Sequence[str], questions: Sequence[Question]) -> dict[str, float]:
    """Of the generated texts as they are: nothing but a right answer; no answer in them; the task's partial scores."""
    rows = []
    for text, question in zip(texts, questions, strict=True):
        task = task_of(question.task)
        row = {"exact_match": float(task.is_right(text, question)), "unparsable": float(not task.read(text, question))}
        rows.append(row | task.partial_scores(text, question))
    return {f"eval/{name}": float(np.mean([row[name] for row in rows])) for name in rows[0]}
