"""A served student under load against transformers' own loop, in one run.

    python experiments/benchmarks/serve.py
    python experiments/benchmarks/serve.py --model FOLDER --questions FILE.jsonl

Served: `tinyllm-ray serve` on loopback, one thread for each replica, and a client that keeps `--at-once` questions
under way until `--requests` are answered, as often as --repeats says. The plain loop asks the same model one question
after the other, in this process, with one padded forward pass for all choices of a question; on one thread and on as
many as there are replicas, by turns, and the faster of the two counts. Without --model the student has FLAN-T5-small's
shape and random weights, since speed does not depend on their values. Both answer the same questions, so their answers
are compared too.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import measuring
import torch
import transformers

from tinyllm_ray import storage
from tinyllm_ray.data.prompts import student_input
from tinyllm_ray.rows import Question
from tinyllm_ray.student.predict import open_student, read_rows

ROOT = Path(__file__).resolve().parents[2]
COMMAND = str(Path(sys.executable).with_name("tinyllm-ray"))
START_S = 300


def main() -> None:
    parser = measuring.make_parser(__doc__)
    parser.add_argument("--model", help="a model folder or a trial's folder")
    parser.add_argument("--questions", help="JSON lines of question and choices")
    parser.add_argument("--requests", type=int, default=700, help="of each repeat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2, help="replicas")
    parser.add_argument("--plain", type=int, default=300, help="questions of the plain loop, over all repeats")
    arguments = parser.parse_args()
    sys.exit(measuring.measure({"load": lambda: measure(arguments)}, arguments))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or make_student(f"{folder}/student")
        model = f"{model}/model" if (Path(model) / "model").is_dir() else model
        rows = read_questions(arguments.questions) if arguments.questions else drawn_questions(500)
        plain = plain_turns(model, rows[: arguments.plain], arguments)
        with served(model, workers=arguments.workers) as url:
            asyncio.run(ask_all(url, rows, requests=200, at_once=arguments.at_once))  # warms up
            loads = [
                asyncio.run(ask_all(url, rows, requests=arguments.requests, at_once=arguments.at_once))
                for _ in range(arguments.repeats)
            ]
    best = max(plain, key=lambda threads: statistics.median(run["per_s"] for run in plain[threads]))
    served_answers = {place: answer for load in loads for place, answer in load.pop("answers").items()}
    plain_answers = [answer for run in plain[best] for answer in run.pop("answers")]
    compared = [(answer, served_answers[i]) for i, answer in enumerate(plain_answers) if i in served_answers]
    return {
        "figures": {
            "throughput_vs_plain": measuring.ratios(
                [load["per_s"] for load in loads], [run["per_s"] for run in plain[best]]
            ),
            **{name: measuring.figure([load[name] for load in loads]) for name in ("per_s", "ms_p50", "ms_p95")},
            "plain_per_s": measuring.figure([run["per_s"] for run in plain[best]]),
            "plain_ms_p50": measuring.figure([run["ms_p50"] for run in plain[best]]),
            "lost": measuring.figure([load["lost"] for load in loads], middle=max),
            "other_answers": measuring.figure([sum(a != b for a, b in compared)]),
        },
        "plain_threads": best,
        "plain_per_s_by_threads": {threads: [run["per_s"] for run in runs] for threads, runs in plain.items()},
        "parameters": plain[best][0]["parameters"],
        "compared": len(compared),
    }


def plain_turns(
    model: str, rows: list[dict[str, Any]], arguments: argparse.Namespace
) -> dict[int, list[dict[str, Any]]]:
    """Each repeat asks a share of the questions with every number of threads."""
    runs: dict[int, list[dict[str, Any]]] = {threads: [] for threads in sorted({1, arguments.workers})}
    cuts = [turn * len(rows) // arguments.repeats for turn in range(arguments.repeats + 1)]
    for start, end in pairwise(cuts):
        for threads, found in runs.items():
            found.append(plain_loop(model, rows[start:end], threads=threads))
    return runs


@contextmanager
def served(model: str, *, workers: int) -> Iterator[str]:
    command = [COMMAND, "serve", model, "--port", "8765", "--workers", str(workers), "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=START_S)


async def ask_all(url: str, rows: list[dict[str, Any]], *, requests: int, at_once: int) -> dict[str, Any]:
    """Seconds of each request, how many were lost, and the answer to each row that was asked."""
    places, times, lost, answers = iter(range(requests)), [], 0, {}

    async def ask(session: aiohttp.ClientSession) -> None:
        nonlocal lost
        for place in places:
            began = time.perf_counter()
            try:
                async with session.post(f"{url}/answer", json=rows[place % len(rows)]) as response:
                    response.raise_for_status()
                    answers[place % len(rows)] = (await response.json())["answer"]
            except (TimeoutError, aiohttp.ClientError):
                lost += 1
            times.append(time.perf_counter() - began)

    began = time.perf_counter()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        await asyncio.gather(*(ask(session) for _ in range(at_once)))
    wall_s = time.perf_counter() - began
    cuts = statistics.quantiles(times, n=20)
    return {
        "lost": lost,
        "per_s": requests / wall_s,
        "ms_p50": 1000 * statistics.median(times),
        "ms_p95": 1000 * cuts[18],
        "answers": answers,
    }


@torch.inference_mode()
def plain_loop(model: str, rows: list[dict[str, Any]], *, threads: int) -> dict[str, Any]:
    """As transformers' users write it: the choices of one question are a batch, padded by the tokenizer."""
    torch.set_num_threads(threads)
    saved = open_student(model)
    settings, tokenizer = saved.reader.student, transformers.AutoTokenizer.from_pretrained(model)
    pairs = saved.reader.model.config.is_encoder_decoder
    loader = transformers.AutoModelForSeq2SeqLM if pairs else transformers.AutoModelForCausalLM
    loaded = loader.from_pretrained(model).eval()
    times, answers = [], []
    for question in read_rows(rows, task=saved.task, labels=saved.labels):
        began = time.perf_counter()
        scores = plain_scores(loaded, tokenizer, student_input(settings.label_prefix, question), question)
        answers.append(question.choices[int(scores.argmax())])
        times.append(time.perf_counter() - began)
    return {
        "per_s": len(times) / sum(times),
        "ms_p50": 1000 * statistics.median(times),
        "answers": answers,
        "parameters": sum(parameter.numel() for parameter in loaded.parameters()),
    }


def plain_scores(model: Any, tokenizer: Any, text: str, question: Question) -> torch.Tensor:
    """[choices]"""
    end = tokenizer.eos_token_id
    targets = [[*tokenizer(choice, add_special_tokens=False).input_ids, end] for choice in question.choices]
    source = tokenizer(text, add_special_tokens=False).input_ids
    if model.config.is_encoder_decoder:
        inputs = {"input_ids": torch.tensor([[*source, end]] * len(targets)), "labels": padded(targets, -100)}
        logits, labels = model(**inputs).logits, inputs["labels"]
    else:
        source = tokenizer(f"{text}\n", add_special_tokens=False).input_ids
        ids = padded([[*source, *target] for target in targets], end)
        labels = padded([[-100] * len(source) + target for target in targets], -100)[:, 1:]
        logits = model(input_ids=ids).logits[:, :-1]
    real = labels >= 0
    found = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return (found * real).sum(-1) / real.sum(-1)


def padded(rows: list[list[int]], fill: int) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [fill] * (longest - len(row)) for row in rows])


def make_student(folder: str) -> str:
    """FLAN-T5-small's shape, with a tokenizer that knows the words of the drawn questions."""
    import student_shapes
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS, *":?()", *"abcd"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    student_shapes.make_student("flan-t5-small").save_pretrained(folder)
    storage.write_json(f"{folder}/student.json", {"student": {}, "evaluation": {}, "dataset": {}, "task_prefixes": {}})
    return folder


WORDS = [f"word{number}" for number in range(1000)]


def drawn_questions(count: int) -> list[dict[str, Any]]:
    """As long as OBQA's: about 45 tokens with four choices of one to seven words."""
    import random

    draw = random.Random(0)
    return [
        {
            "question": f"{' '.join(draw.choices(WORDS, k=draw.randint(6, 18)))}?",
            "choices": [" ".join(draw.choices(WORDS, k=draw.randint(1, 7))) for _ in range(4)],
        }
        for _ in range(count)
    ]


def read_questions(path: str) -> list[dict[str, Any]]:
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [{"question": row["question"], "choices": row["choices"]} for row in rows]


if __name__ == "__main__":
    main()
