"""A student in float32 against its ONNX files: the same top choices, milliseconds a question, size.

    python experiments/benchmarks/export.py --model outputs/miniature/trials/KEY/model \
        --questions outputs/miniature/miniature/test.jsonl --json

All three answer one question at a time on one thread, each question by each in turn, so that whatever else the machine
does falls on all alike.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from tinyllm_ray.deploy.onnx import export_onnx  # noqa: E402
from tinyllm_ray.deploy.onnx_answer import OnnxStudent  # noqa: E402
from tinyllm_ray.student.predict import open_student, predict, read_rows  # noqa: E402

FILES = {"onnx": "model.onnx", "onnx_int8": "model.int8.onnx"}
WARM_UP = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="only the result, as the last line")
    parser.add_argument("--model", required=True, help="a model folder")
    parser.add_argument("--questions", required=True, help="JSON lines of question and choices")
    parser.add_argument("--rows", type=int, default=500)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [json.loads(line) for line in Path(arguments.questions).read_text(encoding="utf-8").splitlines()]
    result = compare(
        arguments.model, [{"question": r["question"], "choices": r["choices"]} for r in rows], arguments.rows
    )
    print(json.dumps(result, indent=None if arguments.json else 2))


def compare(model: str, rows: list[dict[str, Any]], count: int) -> dict[str, Any]:
    student = open_student(model)
    with tempfile.TemporaryDirectory() as folder:
        files = export_onnx(model, folder)["files"]
        exported = {name: OnnxStudent(folder, file, threads=1) for name, file in FILES.items()}
        ways: dict[str, Callable[[dict[str, Any]], str]] = {
            "float": lambda row: predict(student, read_rows([row], task="choice", labels=[]))[0].predicted,
            **{name: (lambda row, one=one: one.answer(row)["answer"]) for name, one in exported.items()},
        }
        answers, times = ask_in_turn(ways, rows[:count])
    sizes = {"float": (Path(model) / "model.safetensors").stat().st_size}
    sizes |= {name: files[file] for name, file in FILES.items()}
    return {
        "questions": len(rows[:count]),
        "same_top_choice": {
            name: sum(a == b for a, b in zip(answers["float"], answers[name], strict=True)) / len(answers["float"])
            for name in FILES
        },
        "ms_p50": {name: round(1000 * statistics.median(each), 2) for name, each in times.items()},
        "bytes": sizes,
        "different_answers_seen": len(set(answers["float"])),
    }


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
