"""Our encoder-decoder actor against the plain way, fixed batches of 8 in file order; ways of teacher_ways.py.

The plain way is `generate` on batches that are padded to their longest prompt and run until the last row's text ends.
Both ways sample at temperature 1, and rationales stop by themselves.
"""

import functools
import statistics
import time
from typing import Any

from teacher_parts import file_batch, make_teacher, read_column, write_prompts

FIXED = 8
KINDS = {  # the teacher of each kind
    "": "stopping_t5",  # 23 tokens in the mean, every step with the same chance to be the last
    "spread_": "spread_t5",  # 23 in the mean, spread as FLAN-T5's published ones on OBQA
    "long_": "stopping_long_t5",  # 42 in the mean
    "forced_": "t5",  # all have 64
}


def seq2seq(folder: str, rows: int, repeats: int) -> dict[str, Any]:
    """The rows once a repeat, the ways in turn."""
    results: dict[str, Any] = {}
    for kind, name in KINDS.items():
        files, _ = write_prompts(folder, name, rows, examples=2)
        results |= {f"{kind}{key}": value for key, value in _Ways(folder, name).compare([files] * repeats).items()}
    return results


def seq2seq_many(folder: str, rows: int, repeats: int) -> dict[str, Any]:
    """The rows once, at FLAN-T5's spread of lengths; the ways take turns at each file."""
    files, _ = write_prompts(folder, "spread_t5", rows, examples=2)
    return _Ways(folder, "spread_t5").compare([[file] for file in files])


class _Ways:
    def __init__(self, folder: str, name: str) -> None:
        import torch
        from transformers import AutoModelForSeq2SeqLM

        from tinyllm_ray.schema import Seq2SeqSettings
        from tinyllm_ray.teachers.engines.seq2seq import Seq2SeqActor

        self._teacher = make_teacher(folder, name)
        self._settings = Seq2SeqSettings(type="seq2seq")
        self._ours = Seq2SeqActor(teacher=self._teacher, settings=self._settings, gpu=False, log_file=None)
        self._plain = AutoModelForSeq2SeqLM.from_pretrained(self._teacher.model, dtype=torch.float32).eval()

    def compare(self, turns: list[list[str]]) -> dict[str, Any]:
        """Rates of both ways, one for each turn's prompt files, and ours against the arithmetic limit."""
        results: dict[str, Any] = {}
        for files in turns:
            prompts = [row for file in files for row in read_column(file, "prompt_ids")]
            speed = _machine_speed()
            for way, run in (("ours", self._run_ours), ("fixed", self._run_fixed)):
                began = time.perf_counter()
                lengths = run(files, prompts)
                seconds = time.perf_counter() - began
                for key, value in (
                    ("rows_per_second", len(prompts) / seconds),
                    ("tokens_per_second", sum(lengths) / seconds),
                    ("mean_tokens", statistics.mean(lengths)),
                ):
                    results.setdefault(f"{way}_{key}", []).append(value)
                if way == "ours":
                    limit = sum(lengths) / self._least_seconds(list(map(len, prompts)), lengths, *speed)
                    results.setdefault("limit_tokens_per_second", []).append(limit)
                    results.setdefault("share_of_limit", []).append(sum(lengths) / seconds / limit)
        results["ratios"] = [
            ours / fixed
            for ours, fixed in zip(results["ours_rows_per_second"], results["fixed_rows_per_second"], strict=True)
        ]
        return results

    def _run_ours(self, files: list[str], prompts: list[list[int]]) -> list[int]:
        tables = [self._ours(file_batch(file)) for file in files]
        return [tokens for table in tables for tokens in table["output_tokens"].to_pylist()]

    def _run_fixed(self, files: list[str], prompts: list[list[int]]) -> list[int]:
        import torch

        lengths: list[int] = []
        for start in range(0, len(prompts), FIXED):
            inputs = self._ours._tokenizer.pad({"input_ids": prompts[start : start + FIXED]}, return_tensors="pt")
            with torch.inference_mode():
                made = self._plain.generate(
                    **inputs,
                    max_new_tokens=self._teacher.sampling.max_tokens,
                    do_sample=self._teacher.sampling.temperature > 0,
                    top_k=0,
                )
            lengths += (made[:, 1:] != 0).sum(1).tolist()
        return lengths

    def _least_seconds(self, sources: list[int], lengths: list[int], rate: float, bandwidth: float) -> float:
        """The arithmetic limit: seconds that rows of S source and T written tokens take at least, without padding, at R
        floating-point operations and M bytes a second. With E, C and N weights of the encoder, of the decoder's
        projections of the source, and of all else in the decoder with the output layer, and attention of width I in
        L layers of encoder and decoder each, a row takes the sum of

            (2 S (E + C) + 4 S^2 I L) / R        encoder and source: products of matrices
            T max(2 N / R, 4 N / (M B))          a step's products, or its weights read once for a batch of B rows
            8 T L I (S + T / 2) / M              a step's keys and values, of the source and of the text, read

        where float32 has 4 bytes, and B is the rows of mean length that fill the engine's `batch_tokens`.
        """
        config = self._plain.config
        width, layers = config.num_heads * config.d_kv, config.num_layers
        crossing = 2 * config.d_model * width * layers

        def weights(module: Any) -> int:
            return sum(value.numel() for name, value in module.named_parameters() if "embed" not in name)

        reading = weights(self._plain.encoder) + crossing
        writing = weights(self._plain.decoder) - crossing + self._plain.lm_head.weight.numel()
        batch = min(len(sources), self._settings.batch_tokens / statistics.mean(sources))
        step = max(2 * writing / rate, 4 * writing / bandwidth / batch)
        return sum(
            (2 * s * reading + 4 * s * s * width * layers) / rate
            + t * (step + 8 * layers * width * (s + t / 2) / bandwidth)
            for s, t in zip(sources, lengths, strict=True)
        )


def _machine_speed() -> tuple[float, float]:
    """Floating-point operations a second of a product [2048, 512] x [512, 1024], by oneDNN or MKL, and bytes a second
    that are read of 256 MiB; the best of 20 each and of 5."""
    import torch
    from torch.utils.mkldnn import to_mkldnn

    rows, much, plain = torch.randn(2048, 512), torch.ones(2**26), torch.nn.Linear(512, 1024)
    layers = [plain, to_mkldnn(plain)] if torch.backends.mkldnn.is_available() else [plain]

    def least(work: Any, times: int) -> float:
        seconds = []
        for _ in range(times):
            began = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - began)
        return min(seconds)

    with torch.inference_mode():
        product = min(least(functools.partial(layer, rows), 20) for layer in layers)
    return 2 * 2048 * 512 * 1024 / product, 4 * 2**26 / least(much.sum, 5)
