"""A student of multiple choice as ONNX files for CPUs: one in float32, one with weights in eight bits.

torch's exporter writes the graph, ONNX Runtime's dynamic quantization the second file. The graph holds the scoring too:
token ids of a question and of its choices in, the mean token log-likelihood of each choice out.
Legend: S source tokens, C choices, T tokens of the longest choice, L of source and choice, V vocabulary.
"""

import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tinyllm_ray.config import UserError
from tinyllm_ray.data.text_tokens import find_marks, text_tokenizer
from tinyllm_ray.student.predict import SavedStudent, open_student
from tinyllm_ray.terminal.progress import step
from tinyllm_ray.tracking.find import name_of_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

EXAMPLE = {"question": "What floats?", "choices": ["iron", "cork"]}
LARGEST_FILE = 2**31  # bytes that one ONNX file holds; weights of larger models lie in a file of their own


class _RanksPairs(nn.Module):
    """An encoder-decoder that reads a question once and scores its choices."""

    def __init__(self, model: "PreTrainedModel") -> None:
        super().__init__()
        self.model = model

    def forward(self, source: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """[1, S], [C, T] -> [C]"""
        encoded = self.model.encoder(input_ids=source).last_hidden_state.expand(labels.shape[0], -1, -1)
        start = torch.full_like(labels[:, :1], self.model.config.decoder_start_token_id)
        shifted = torch.cat([start, labels.clamp(min=0)[:, :-1]], 1)
        hidden = self.model.decoder(input_ids=shifted, encoder_hidden_states=encoded, use_cache=False).last_hidden_state
        if getattr(self.model.config, "scale_decoder_outputs", False):
            hidden = hidden * self.model.config.d_model**-0.5
        return _mean_log_likelihood(self.model.lm_head(hidden), labels)


class _RanksSequences(nn.Module):
    """A decoder-only student that reads the question before each choice."""

    def __init__(self, model: "PreTrainedModel") -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """[C, L], [C, L] -> [C]; padding follows the real tokens, so no causal position reads it."""
        logits = self.model(input_ids=ids, use_cache=False).logits
        return _mean_log_likelihood(logits[:, :-1], labels[:, 1:])


def _mean_log_likelihood(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """[C, T, V], [C, T] -> [C], over the labels that are not -100."""
    real = labels >= 0
    found = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return (found * real).sum(-1) / real.sum(-1)


def export_onnx(model: str, out: str) -> dict[str, Any]:
    """Files of the folder `out` and their sizes. Raises UserError where the student does not choose between answers."""
    student = open_student(model)
    if student.task != "choice":
        raise UserError(
            f"--to onnx writes students of multiple choice; this one answers questions of the kind {student.task}. Use "
            "--to gguf, or serve it"
        )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with step("exporting the graph"):
            _write_graph(student, folder / "model.onnx")
        with step("quantizing to int8"):
            _quantize(folder / "model.onnx", folder / "model.int8.onnx")
        _write_beside(student, model, folder)
        shutil.copytree(folder, out, dirs_exist_ok=True)
    sizes = {path.name: path.stat().st_size for path in sorted(Path(out).iterdir())}
    return {"out": out, "files": sizes}


def _write_graph(student: SavedStudent, path: Path) -> None:
    model = student.reader.model.to("cpu").eval()
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    example = torch.randint(3, 30, (3, 7))
    if student.reader.tokenizer.encoder_decoder:
        ranks: nn.Module = _RanksPairs(model)
        inputs = {"source": torch.randint(3, 30, (1, 17)), "labels": example}
        shapes = {"source": {1: torch.export.Dim.DYNAMIC}, "labels": dynamic}
    else:
        model.set_attn_implementation("sdpa")
        ranks, inputs = _RanksSequences(model), {"ids": example, "labels": example.clone()}
        shapes = {"ids": dynamic, "labels": dynamic}
    large = sum(parameter.nbytes for parameter in model.parameters()) > LARGEST_FILE
    with torch.inference_mode(), _quiet():
        program = torch.onnx.export(
            ranks,
            tuple(inputs.values()),
            dynamo=True,
            input_names=list(inputs),
            output_names=["scores"],
            dynamic_shapes=shapes,
            verbose=False,
        )
        assert program is not None, "torch.onnx.export returns a program unless it is given a path"
        program.save(str(path), external_data=large)


def _quantize(source: Path, target: Path) -> None:
    """All matrices and the embedding; not the small tables of relative positions, whose errors fall on every score."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    nodes = onnx.load(str(source), load_external_data=False).graph.node
    tables = [node.name for node in nodes if any("relative_attention_bias" in name for name in node.input)]
    large = source.with_name(f"{source.name}.data").exists()
    with _quiet():
        quantize_dynamic(
            source,
            target,
            weight_type=QuantType.QInt8,
            per_channel=True,
            nodes_to_exclude=tables,
            use_external_data_format=large,
        )


def _write_beside(student: SavedStudent, model: str, folder: Path) -> None:
    """What the graph alone does not say: the tokenizer, the form of the input, and code that runs the whole."""
    tokenizer = student.reader.tokenizer
    texts = text_tokenizer(tokenizer.backend, find_marks(tokenizer.backend))
    (texts.backend if texts else tokenizer.backend).save(str(folder / "tokenizer.json"))
    settings = student.reader.student
    layout: dict[str, Any] = {"encoder_decoder": tokenizer.encoder_decoder, "bos": tokenizer.bos, "eos": tokenizer.eos}
    layout |= {"prefix": settings.label_prefix, "max_input_tokens": settings.max_input_tokens}
    (folder / "layout.json").write_text(json.dumps(layout, indent=2), encoding="utf-8")
    shutil.copyfile(Path(__file__).with_name("onnx_answer.py"), folder / "answer.py")
    (folder / "README.md").write_text(_card(model), encoding="utf-8")


def _card(model: str) -> str:
    return "\n".join(
        [
            f"# `{name_of_model(model)}` as ONNX",
            "",
            "`model.onnx` has the student's weights in float32, `model.int8.onnx` in eight bits, for CPUs. Both take "
            "token ids and return the mean token log-likelihood of each choice. `answer.py` shows how, and answers:",
            "",
            "```",
            "pip install onnxruntime tokenizers numpy",
            f"python answer.py '{json.dumps(EXAMPLE)}'",
            "```",
            "",
        ]
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' remarks on what they leave out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
