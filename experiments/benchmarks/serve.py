"""A served student under load against transformers' own loop, in one run.

    python experiments/benchmarks/serve.py --json
    python experiments/benchmarks/serve.py --model FOLDER --questions FILE.jsonl

Served: `tinyllm-ray serve` on loopback, one thread for each replica, and a client that keeps `--at-once` questions
under way until `--requests` are answered. The plain loop asks the same model one question after the other, in this
process, with one padded forward pass for all choices of a question; on one thread and on as many as there are replicas,
and the faster of the two counts. Without --model the student has FLAN-T5-small's shape and random weights, since speed
does not depend on their values. Both answer the same questions, so their answers are compared too.
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
from pathlib import Path
from typing import Any

import aiohttp
import torch
import transformers

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from tinyllm_ray import storage  # noqa: E402
from tinyllm_ray.data.prompts import student_input  # noqa: E402
from tinyllm_ray.rows import Question  # noqa: E402
from tinyllm_ray.student.predict import open_student, read_rows  # noqa: E402

COMMAND = str(Path(sys.executable).with_name("tinyllm-ray"))
START_S = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="only the result, as the last line")
    parser.add_argument("--model", help="a model folder or a trial's folder")
    parser.add_argument("--questions", help="JSON lines of question and choices")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2, help="replicas")
    parser.add_argument("--plain", type=int, default=300, help="questions of the plain loop")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or make_student(f"{folder}/student")
        rows = read_questions(arguments.questions) if arguments.questions else drawn_questions(500)
        result = measure(model, rows, arguments)
    print(json.dumps(result, indent=None if arguments.json else 2))


def measure(model: str, rows: list[dict[str, Any]], arguments: argparse.Namespace) -> dict[str, Any]:
    model = f"{model}/model" if (Path(model) / "model").is_dir() else model
    asked = rows[: arguments.plain]
    plain = {threads: plain_loop(model, asked, threads=threads) for threads in {1, arguments.workers}}
    with served(model, workers=arguments.workers) as url:
        asyncio.run(ask_all(url, rows, requests=200, at_once=arguments.at_once))  # warms up
        load = asyncio.run(ask_all(url, rows, requests=arguments.requests, at_once=arguments.at_once))
    answers, best = load.pop("answers"), max(plain.values(), key=lambda run: run["per_s"])
    return {
        "machine": {"cpus": os.cpu_count()},
        "parameters": best["parameters"],
        "requests": arguments.requests,
        "at_once": arguments.at_once,
        "workers": arguments.workers,
        **load,
        "plain_per_s_by_threads": {str(threads): round(run["per_s"], 1) for threads, run in plain.items()},
        "plain_ms_p50": best["ms_p50"],
        "throughput_vs_plain": round(load["per_s"] / best["per_s"], 2),
        "other_answers": sum(answers.get(place) != answer for place, answer in enumerate(best["answers"])),
        "compared": len(best["answers"]),
    }


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
        "per_s": round(requests / wall_s, 1),
        "ms_p50": round(1000 * statistics.median(times), 1),
        "ms_p95": round(1000 * cuts[18], 1),
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
        "ms_p50": round(1000 * statistics.median(times), 1),
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
    import student_step
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS, *":?()", *"abcd"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    student_step.make_student("flan-t5-small").save_pretrained(folder)
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
