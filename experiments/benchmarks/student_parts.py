"""What student_step.py needs the whole package for: features of OBQA and of many rows, ranking, Ray Train around it."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import measuring

ROOT = Path(__file__).resolve().parents[2]
MANY_ROWS, TURN = 100_000, 64
STEPS, EVERY = 100, 25
ASK = "Which of these is the best answer to question {i}: {words}?"
WORDS = ["sun", "plants", "light", "turns", "into", "sugar", "while", "animals", "eat", "what", "grows", "near"]


def obqa_features() -> Any:
    """Features of OBQA with both published teachers; None where the reference data is not on this machine."""
    from tinyllm_ray.data.features import build_features, open_features
    from tinyllm_ray.data.questions import prepare_questions
    from tinyllm_ray.data.reference import import_reference
    from tinyllm_ray.data.store import StoreId
    from tinyllm_ray.student.model import prepare_tokenizer

    source = Path(os.environ.get("TINYLLM_REFERENCE_DATA", ROOT.parent / "shared" / "reference_data")) / "obqa"
    if not source.is_dir():
        return None
    folder = tempfile.mkdtemp(prefix="student-step-")
    import_reference(str(source), dataset="obqa", out=f"{folder}/import")
    experiment = _experiment("obqa", str(source), {n: f"{folder}/import/obqa/{n}" for n in ("flan_t5", "llama2")})
    stores = {teacher.name: teacher.store for teacher in experiment.teachers}
    files = {
        "questions": prepare_questions(experiment.dataset, output_dir=folder),
        "stores": {StoreId(name): uri for name, uri in stores.items()},
        "output_dir": folder,
    }
    tokenizer = prepare_tokenizer(experiment, **files)
    return open_features(build_features(experiment, tokenizer_folder=tokenizer, **files), "train")


def features_of_many_rows() -> dict[str, Any]:
    """Rows per minute and peak memory of building features of 100,000 generated rows with two teachers, in a process
    of its own."""
    with tempfile.TemporaryDirectory(prefix="student-step-") as folder:
        _make(folder, MANY_ROWS)
        code = f"import student_parts; student_parts.build_many({folder!r})"
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{Path(__file__).parent}", "TOKENIZERS_PARALLELISM": "true"}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return {
        "figures": {
            "feature_rows_per_minute": measuring.figure([60 * MANY_ROWS / found["build_s"]]),
            "features_peak_gib": measuring.figure([found["peak_gib"]]),
        },
        "rows": MANY_ROWS,
        **found,
    }


def build_many(folder: str) -> None:
    """Prints the seconds and the peak memory of this process."""
    from tinyllm_ray.data.features import build_features
    from tinyllm_ray.student.model import prepare_tokenizer

    experiment, files = _generated(folder)
    tokenizer = prepare_tokenizer(experiment, **files)
    started, cpu = time.perf_counter(), time.process_time()
    build_features(experiment, tokenizer_folder=tokenizer, **files)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak_gib = int(status["VmHWM"].split()[0]) / 2**20
    print(json.dumps({"build_s": seconds, "cpu_seconds": cpu, "peak_gib": peak_gib}))


def ranking_of_questions(model: Any, repeats: int) -> dict[str, Any]:
    """Processor seconds to rank the choices of questions, against padded passes over (question, choice) pairs; by
    turns, of which the first only warms up."""
    import torch

    from tinyllm_ray.student.evaluate import choice_scores

    with tempfile.TemporaryDirectory(prefix="student-step-") as folder:
        prepare_scoring(folder, (repeats + 1) * TURN)
        reader, questions = open_scoring(folder, model)
    seconds: dict[str, list[float]] = {"ours": [], "plain": []}
    for start in range(0, len(questions), TURN):
        asked = questions[start : start + TURN]
        started = time.process_time()
        scores = choice_scores(reader, asked)
        between = time.process_time()
        plain = [score for i in range(0, TURN, 8) for score in _plain_scores(reader, asked[i : i + 8])]
        ended = time.process_time()
        torch.testing.assert_close(torch.tensor(scores), torch.tensor(plain), rtol=1e-4, atol=1e-4)
        if start:
            seconds["ours"].append(between - started)
            seconds["plain"].append(ended - between)
    return {
        "figures": {
            "ranking_speedup": measuring.ratios(seconds["plain"], seconds["ours"]),
            "ranking_ms_per_question": measuring.figure([1000 * spent / TURN for spent in seconds["ours"]]),
        },
        "questions_of_a_turn": TURN,
        "processor_s": seconds,
    }


def prepare_scoring(folder: str, rows: int) -> None:
    """Write questions and a tokenizer that is trained on them."""
    from tinyllm_ray.student.model import prepare_tokenizer

    _make(folder, rows)
    experiment, files = _generated(folder)
    prepare_tokenizer(experiment, **files)


def open_scoring(folder: str, model: Any) -> tuple[Any, list[Any]]:
    """A Reader of the model, and the questions; of a prepared folder."""
    from tinyllm_ray.data.questions import read_questions
    from tinyllm_ray.data.tokenizer import StudentTokenizer
    from tinyllm_ray.student.evaluate import Reader
    from tinyllm_ray.student.model import prepare_tokenizer

    experiment, files = _generated(folder)
    tokenizer = StudentTokenizer.open(prepare_tokenizer(experiment, **files))
    return Reader(model.eval(), tokenizer, experiment.student, batch_size=32), read_questions(
        files["questions"]["train"].path
    )


def _plain_scores(reader: Any, questions: list[Any]) -> list[list[float]]:
    """Eight questions at once, each choice with a source of its own; [questions, choices]."""
    import torch
    from torch.nn.functional import cross_entropy
    from torch.nn.utils.rnn import pad_sequence

    sources = [ids for q, ids in zip(questions, reader.sources("predict: ", questions), strict=True) for _ in q.choices]
    ids = pad_sequence([torch.tensor(row) for row in sources], batch_first=True)
    targets = reader.tokenizer.targets([choice for q in questions for choice in q.choices])
    labels = pad_sequence([torch.tensor(row) for row in targets], batch_first=True, padding_value=-100)
    with torch.inference_mode():
        logits = reader.model(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).logits
    losses = cross_entropy(logits.transpose(1, 2), labels, reduction="none").sum(1)
    means = (-losses / (labels != -100).sum(1)).tolist()
    return [means[4 * i : 4 * i + 4] for i in range(len(questions))]


def wrapper_overhead() -> dict[str, Any]:
    """Step time under Ray Train with reports, checkpoints and MLflow over that of the bare loop, less one."""
    import ray

    from tinyllm_ray.cluster import connect

    with tempfile.TemporaryDirectory(prefix="student-step-") as folder:
        _make(folder, 512)
        experiment, files = _generated(folder)
        os.makedirs(f"{folder}/logs")
        connect.connect(experiment.pools, log_dir=f"{folder}/logs")
        pairs = [(_bare(folder, files), _wrapped(folder, files, number)) for number in range(3)]
        ray.shutdown()
    return {
        "figures": {"wrapper_overhead": measuring.figure([wrapped / bare - 1 for bare, wrapped in pairs])},
        "seconds_bare_and_wrapped": pairs,
        "steps": STEPS - EVERY,
    }


def _bare(folder: str, files: dict[str, Any]) -> float:
    """Seconds of the steps after the first `EVERY` in a process with nothing but the loop."""
    code = f"import student_parts; student_parts.run_bare({folder!r})"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{Path(__file__).parent}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def run_bare(folder: str) -> None:
    import torch

    from tinyllm_ray.data.features import build_features, open_features
    from tinyllm_ray.student.loop import Hooks, make_optimizer, train
    from tinyllm_ray.student.model import load_student, prepare_tokenizer
    from tinyllm_ray.student.objective import Term

    torch.set_num_threads(1)
    experiment, files = _generated(folder)
    tokenizer = prepare_tokenizer(experiment, **files)
    features = open_features(build_features(experiment, tokenizer_folder=tokenizer, **files), "train")
    model, _ = load_student(experiment.student, tokenizer_folder=tokenizer, seed=0)
    stamps: dict[int, float] = {}
    hooks = Hooks(on_log=lambda step, values: stamps.update({step: time.time()}), on_step=lambda step, optimizer: None)
    optimizer = make_optimizer(model, experiment.training)
    terms = [Term(name, 1.0, (i,)) for i, name in enumerate(features.components)]
    settings = {"training": experiment.training, "terms": terms, "seed": 0, "dtype": "float32"}
    train(model, features, optimizer=optimizer, first_step=0, hooks=hooks, **settings)
    print(stamps[STEPS] - stamps[EVERY])


def _wrapped(folder: str, files: dict[str, Any], number: int) -> float:
    """The same under Ray Train, by the times in the trial's own metrics."""
    from tinyllm_ray import storage
    from tinyllm_ray.student.ranks import run_trial_ddp
    from tinyllm_ray.tracking.tracker import Tracker
    from tinyllm_ray.tuning.training import Inputs, TrainingSpec, resolve

    experiment, _ = _generated(folder)
    spec = TrainingSpec(variant=f"bench{number}", experiment=experiment, seed=0, ranks=1, score_test=False)
    trial = resolve(spec, Inputs(**files)).trial
    with Tracker(experiment, output_dir=folder, lineage={}) as tracker:
        tracker.watch(trial.key, folder=trial.dir, name="bench", config=experiment, seed=0, tags={})
        run_trial_ddp(trial, ranks=1)
    parts = storage.list_files(storage.join(trial.dir, "metrics"), ".jsonl")
    lines = [json.loads(line) for uri in parts for line in storage.read_bytes(uri).splitlines()]
    stamps = {line["step"]: line["time"] / 1000 for line in lines if "train/loss" in line}
    return stamps[STEPS] - stamps[EVERY]


def _experiment(name: str, path: str, stores: dict[str, str]) -> Any:
    from tinyllm_ray.config import validate

    sizes = {"width": 256, "layers": 3, "heads": 4, "ff_width": 512, "vocabulary_size": 4096}
    every = {"eval_every_steps": EVERY, "checkpoint_every_steps": EVERY, "log_every_steps": 5}
    prefixes = ["explain: ", "rationale: "][: len(stores)]
    return validate(
        {
            "name": "student-step",
            "dataset": {"name": name, "path": path},
            "teachers": [
                {"name": n, "store": s, "task_prefix": p} for (n, s), p in zip(stores.items(), prefixes, strict=True)
            ],
            "student": {"model": "middle", "from_scratch": {"middle": sizes}},
            "loss": {"rationale_weights": dict.fromkeys(stores, 1.0)},
            "training": {"steps": STEPS, "batch_size": 8, **every},
        }
    )


def _generated(folder: str) -> tuple[Any, dict[str, Any]]:
    from tinyllm_ray.config import with_overrides
    from tinyllm_ray.data.questions import prepare_questions
    from tinyllm_ray.data.store import StoreId

    stores = {name: f"{folder}/stores/{name}" for name in ("one", "two")}
    experiment = with_overrides(_experiment("generated", folder, stores), {"dataset.format": "jsonl"})
    questions = prepare_questions(experiment.dataset, output_dir=folder)
    by_id = {StoreId(name): uri for name, uri in stores.items()}
    return experiment, {"questions": questions, "stores": by_id, "output_dir": folder}


def _make(folder: str, rows: int) -> None:
    """Questions and stores with texts about as long as OBQA's; no validation split, so that no time goes to scoring."""
    import random

    from tinyllm_ray.data import store
    from tinyllm_ray.data.questions import iterate_questions
    from tinyllm_ray.rows import Rationale

    draw = random.Random(0)
    with open(f"{folder}/train.jsonl", "w", encoding="utf-8") as file:
        for i in range(rows):
            choices = [" ".join(draw.choices(WORDS, k=3)) + f" {k}" for k in range(4)]
            asked = ASK.format(i=i, words=" ".join(draw.choices(WORDS, k=10)))
            file.write(json.dumps({"question": asked, "choices": choices, "answer": choices[i % 4]}) + "\n")
    for name, length in (("one", 20), ("two", 75)):
        store.open_store(f"{folder}/stores/{name}", {"teacher": name, "dataset": "generated"})
        for split, file in _generated(folder)[1]["questions"].items():
            for number, batch in enumerate(iterate_questions(file.path, 10_000)):
                part = [
                    Rationale(
                        key=f"{name}-{split}-{number}-{i}",
                        question_id=question.question_id,
                        sample=0,
                        rationale=" ".join(draw.choices(WORDS, k=length)),
                        predicted_answer=question.answer,
                        finish_reason="stop",
                        failure="",
                        dropped_examples=0,
                        input_tokens=1,
                        output_tokens=length,
                    )
                    for i, question in enumerate(batch)
                ]
                store.append(f"{folder}/stores/{name}", split, part)
