"""A student in float32 against its ONNX files: the same top choices, milliseconds a question, size.

    python experiments/benchmarks/export.py
    python experiments/benchmarks/export.py --model outputs/miniature/trials/KEY/model \
        --questions outputs/miniature/miniature/test.jsonl

All three answer one question at a time on one thread, each question by each in turn, so that whatever else the machine
does falls on all alike; the spread is that of the medians of five blocks of questions. Without --model the student has
FLAN-T5-small's shape and random weights: its speed and size are those of a trained one, its answers are not.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measuring
import torch
from serve import drawn_questions, make_student, read_questions

from tinyllm_ray.deploy.onnx import export_onnx
from tinyllm_ray.deploy.onnx_answer import OnnxStudent
from tinyllm_ray.student.predict import open_student, predict, read_rows

FILES = {"onnx": "model.onnx", "onnx_int8": "model.int8.onnx"}
WARM_UP, BLOCKS = 20, 5


def main() -> None:
    parser = measuring.make_parser(__doc__)
    parser.add_argument("--model", help="a model folder")
    parser.add_argument("--questions", help="JSON lines of question and choices")
    parser.add_argument("--rows", type=int, default=500)
    arguments = parser.parse_args()
    sys.exit(measuring.measure({"forms": lambda: forms(arguments)}, arguments))


def forms(arguments: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)
    rows = read_questions(arguments.questions) if arguments.questions else drawn_questions(arguments.rows)
    with tempfile.TemporaryDirectory() as folder:
        return compare(arguments.model or make_student(f"{folder}/student"), rows[: arguments.rows])


def compare(model: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    student = open_student(model)
    with tempfile.TemporaryDirectory() as folder:
        files = export_onnx(model, folder)["files"]
        exported = {name: OnnxStudent(folder, file, threads=1) for name, file in FILES.items()}
        ways: dict[str, Callable[[dict[str, Any]], str]] = {
            "float": lambda row: predict(student, read_rows([row], task="choice", labels=[]))[0].predicted,
            **{name: (lambda row, one=one: one.answer(row)["answer"]) for name, one in exported.items()},
        }
        answers, times = ask_in_turn(ways, rows)
    same = {
        name: sum(a == b for a, b in zip(answers["float"], answers[name], strict=True)) / len(rows) for name in FILES
    }
    sizes = {"float": (Path(model) / "model.safetensors").stat().st_size} | {
        n: files[file] for n, file in FILES.items()
    }
    return {
        "figures": {
            **{f"{name}_ms": measuring.figure(block_medians(each)) for name, each in times.items()},
            **{f"{name}_same_top_choice": measuring.figure([share]) for name, share in same.items()},
            **{f"{name}_mb": measuring.figure([size / 1e6]) for name, size in sizes.items()},
        },
        "questions": len(rows),
        "different_answers_seen": len(set(answers["float"])),
    }


def block_medians(times: list[float]) -> list[float]:
    """Milliseconds, of five blocks that follow each other."""
    blocks = [times[i * len(times) // BLOCKS : (i + 1) * len(times) // BLOCKS] for i in range(BLOCKS)]
    return [1000 * statistics.median(block) for block in blocks if block]


def ask_in_turn(
    ways: dict[str, Callable[[dict[str, Any]], str]], rows: list[dict[str, Any]]
) -> tuple[dict[str, list[str]], dict[str, list[float]]]:
    answers: dict[str, list[str]] = {name: [] for name in ways}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number, row in enumerate(rows[:WARM_UP] + rows):
        for name, way in ways.items():
            began = time.perf_counter()
            answer = way(row)
            if number >= WARM_UP:
                times[name].append(time.perf_counter() - began)
                answers[name].append(answer)
    return answers, times


if __name__ == "__main__":
    main()
