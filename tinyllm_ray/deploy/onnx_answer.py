"""Answers multiple-choice questions with the ONNX model in this folder; needs onnxruntime, tokenizers and numpy alone.

python answer.py '{"question": "What floats?", "choices": ["iron", "cork"]}'
{"answer": "cork", "scores": [-2.1, -0.2]}
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer


class OnnxStudent:
    """`file`: model.onnx has the student's own weights, model.int8.onnx those in eight bits."""

    def __init__(self, folder: str, file: str = "model.int8.onnx", threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads  # 0: as many as the machine has cores
        self.session = onnxruntime.InferenceSession(str(Path(folder) / file), options)
        self.tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
        self.layout = json.loads((Path(folder) / "layout.json").read_text(encoding="utf-8"))

    def answer(self, row: dict[str, Any]) -> dict[str, Any]:
        """`row`: question, choices and perhaps context."""
        scores = self.scores(row)
        best = [choice for choice, score in zip(row["choices"], scores, strict=True) if score == max(scores)]
        return {"answer": best[0] if len(best) == 1 else "", "scores": scores}  # where several are best, none is

    def scores(self, row: dict[str, Any]) -> list[float]:
        """Mean token log-likelihood of each choice, in their order."""
        source = self._source(row)
        targets = [[*self._encode(choice), self.layout["eos"]] for choice in row["choices"]]
        return self.session.run(["scores"], self._inputs(source, targets))[0].tolist()

    def _source(self, row: dict[str, Any]) -> list[int]:
        """The student's input, cut to the length that it was trained with."""
        layout, context = self.layout, f"{row['context']}\n" if row.get("context") else ""
        listed = "\n".join(f"({chr(97 + number)}) {choice}" for number, choice in enumerate(row["choices"]))
        text = f"{layout['prefix']}{context}{row['question']}\nAnswer Choices:\n{listed}"
        limit = layout["max_input_tokens"]
        if layout["encoder_decoder"]:
            ids = self._encode(text)
            return [*ids[: limit - 1], layout["eos"]]
        first = [] if layout["bos"] is None else [layout["bos"]]
        return [*first, *self._encode(f"{text}\n")][:limit]

    def _inputs(self, source: list[int], targets: list[list[int]]) -> dict[str, np.ndarray]:
        """An encoder-decoder reads the source once; a decoder reads it before each choice. -100: nothing to score."""
        if self.layout["encoder_decoder"]:
            return {"source": np.array([source]), "labels": _padded(targets, -100)}
        ids = [[*source, *target] for target in targets]
        return {"ids": _padded(ids, 0), "labels": _padded([[-100] * len(source) + target for target in targets], -100)}

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids


def _padded(rows: list[list[int]], fill: int) -> np.ndarray:
    longest = max(map(len, rows))
    return np.array([row + [fill] * (longest - len(row)) for row in rows], dtype=np.int64)


if __name__ == "__main__":
    print(json.dumps(OnnxStudent(str(Path(__file__).parent)).answer(json.loads(sys.argv[1])), ensure_ascii=False))
