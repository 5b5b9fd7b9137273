"""The router of an experiment, made once beside the stores: questions and own answers in, a folder of Routed rows out.

<output_dir>/routers/<dataset>/vectors-<digest>.npy           what the encoder makes of the training questions
<output_dir>/routers/<dataset>/<digest>/routed.parquet        Routed rows of the training questions
                                       /router.safetensors    projection and keys
                                       /router.json           what made it, and how it does on questions it has not seen
A router that was stopped is made again from the vectors that are there.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from tinyllm_ray import storage
from tinyllm_ray.config import digest
from tinyllm_ray.data import store
from tinyllm_ray.data.questions import QuestionFile, read_questions
from tinyllm_ray.data.store import StoreId
from tinyllm_ray.routing.contrastive import fit
from tinyllm_ray.routing.encoder import encoder_key, question_vectors
from tinyllm_ray.rows import Question, Routed, to_table
from tinyllm_ray.schema import Experiment
from tinyllm_ray.schema import Router as Settings
from tinyllm_ray.tasks.registry import task_of
from tinyllm_ray.terminal.progress import step

HELD_OUT = 0.2  # share of the training questions that a second router, fitted on the others, is measured on


def prepare_router(
    experiment: Experiment,
    *,
    questions: Mapping[str, QuestionFile],
    stores: Mapping[StoreId, str],
    tokenizer_folder: str,
    output_dir: str,
) -> str | None:
    """Folder of the router, made unless it is there; None where `rationales.select` asks for none."""
    chosen = experiment.rationales
    if chosen.select != "router":
        return None
    ids = [StoreId(teacher.name, answers=True) for teacher in experiment.teachers]
    answers = {i.teacher: stores[i] for i in ids if i in stores}  # `stores` may hold those of other teachers too
    read = [encoder_key(experiment, tokenizer_folder=tokenizer_folder), questions["train"].digest]
    made_from = {
        "vectors": digest(read),
        "answers": {name: store.content_digest(folder) for name, folder in answers.items()},
        "settings": chosen.router.model_dump(),
        "seed": chosen.seed,
    }
    base = storage.join(output_dir, "routers", experiment.dataset.name)
    folder = storage.join(base, digest(made_from))
    if not storage.exists(storage.join(folder, "router.json")):
        asked = read_questions(questions["train"].path)
        uri = storage.join(base, f"vectors-{made_from['vectors']}.npy")
        vectors = _vectors(uri, asked, experiment, tokenizer_folder=tokenizer_folder)
        scores = own_scores(asked, {name: store.every_answer(path, "train") for name, path in answers.items()})
        with step("router"):
            _make(folder, made_from, asked, vectors, scores, settings=chosen.router, seed=chosen.seed)
    return folder


def own_scores(asked: Sequence[Question], answers: Mapping[str, Mapping[str, Sequence[str]]]) -> np.ndarray:
    """[questions, teachers]: the share of a teacher's samples that answer a question rightly; a missing one is wrong.

    `answers`: teacher -> question id -> its own answers.
    """
    scores = np.zeros((len(asked), len(answers)), dtype=np.float32)
    for teacher, own in enumerate(answers.values()):
        samples = max(map(len, own.values()), default=1)
        for row, question in enumerate(asked):
            said = own.get(question.question_id, [])
            scores[row, teacher] = sum(task_of(question.task).is_right(text, question) for text in said) / samples
    return scores


def measure_held_out(
    vectors: np.ndarray, scores: np.ndarray, teachers: Sequence[str], *, settings: Settings, seed: int
) -> dict[str, Any]:
    """Mean score, from 0 to 1, on a held-out part: of the teacher that a router fitted on the rest takes, of the single
    teacher that is best on the rest, and of the best one for each question. Empty where there are too few questions."""
    order = np.random.default_rng(seed).permutation(len(vectors))
    count = int(HELD_OUT * len(order))
    if not count:
        return {}
    held, rest = order[:count], order[count:]
    router = fit(torch.from_numpy(vectors[rest]), torch.from_numpy(scores[rest]), settings, seed=seed)
    taken = router.probabilities(torch.from_numpy(vectors[held])).argmax(1).numpy()
    best = int(scores[rest].mean(0).argmax())
    return {
        "questions": count,
        "router": float(scores[held, taken].mean()),
        "best_teacher": float(scores[held, best].mean()),
        "best_teacher_name": teachers[best],
        "oracle": float(scores[held].max(1).mean()),
    }


def _vectors(uri: str, asked: Sequence[Question], experiment: Experiment, *, tokenizer_folder: str) -> np.ndarray:
    if storage.exists(uri):
        return np.load(io.BytesIO(storage.read_bytes(uri)))
    with step("vectors of the questions", total=len(asked), unit="questions") as bar:
        vectors = question_vectors(experiment, asked, tokenizer_folder=tokenizer_folder, advance=bar.advance)
    buffer = io.BytesIO()
    np.save(buffer, vectors)
    storage.write_bytes(uri, buffer.getvalue())
    return vectors


def _make(
    folder: str,
    made_from: dict[str, Any],
    asked: Sequence[Question],
    vectors: np.ndarray,
    scores: np.ndarray,
    *,
    settings: Settings,
    seed: int,
) -> None:
    """router.json comes last, so that a folder that holds it is whole."""
    router = fit(torch.from_numpy(vectors), torch.from_numpy(scores), settings, seed=seed)
    probabilities = router.probabilities(torch.from_numpy(vectors)).tolist()
    rows = [Routed(question.question_id, row) for question, row in zip(asked, probabilities, strict=True)]
    storage.write_table(storage.join(folder, "routed.parquet"), to_table(rows, Routed))
    storage.write_bytes(storage.join(folder, "router.safetensors"), save(router.state_dict()))
    teachers = list(made_from["answers"])
    held_out = measure_held_out(vectors, scores, teachers, settings=settings, seed=seed)
    storage.write_json(storage.join(folder, "router.json"), {"made_from": made_from, "held_out": held_out})
