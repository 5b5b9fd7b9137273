"""The step against the plain way: what it imports on a GPU, and that both ways compute the same."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import student_shapes
import torch

ROOT = Path(__file__).resolve().parents[2]
# Packages that a machine with torch and transformers alone does not have.
ABSENT = ["ray", "pyarrow", "pydantic", "psutil", "mlflow", "typer", "rich", "peft", "pandas", "sklearn", "datasets"]
TINY = {"d_model": 32, "d_ff": 64, "num_layers": 1, "num_heads": 2}
ON_A_GPU = f"""
import sys
sys.modules |= dict.fromkeys({ABSENT}, None)  # an import of them fails
sys.argv = ["student_step.py", "--device", "cuda"]
import json
import student_gpu, student_shapes, student_step
student_shapes.SHAPES["tiny"], student_gpu.PLAIN_ROWS["tiny"] = {TINY}, 3
settings = dict(batch_size=4, micro_batch_tokens=4096, repeats=3, peak_tflops=2.0)
print(json.dumps(student_gpu.compare("tiny", device="cpu", **settings)))
"""


def test_the_comparison_for_a_gpu_needs_torch_and_transformers_alone() -> None:
    folder = ROOT / "experiments" / "benchmarks"
    done = subprocess.run([sys.executable, "-c", ON_A_GPU], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    figures = found["figures"]
    assert {figure["n"] for figure in figures.values()} == {3}
    assert figures["gpu_share_of_peak"]["value"] == pytest.approx(figures["gpu_tflops"]["value"] / 2)
    # bfloat16 keeps eight bits, and both losses are means over the same tokens.
    assert figures["gpu_loss_relative_difference"]["value"] < 2**-8
    assert found["step_s"]["ours"] > 0 and found["step_s"]["plain"] > 0


def test_the_plain_way_in_small_batches_has_the_loss_and_gradient_of_the_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(student_shapes.SHAPES, "tiny", TINY)
    model, features = student_shapes.make_student("tiny"), student_shapes.drawn_features(4)

    def loss_of(ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return model(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).loss

    found = {}
    for rows in (0, 3):
        model.zero_grad()
        loss = student_shapes.plain_gradients(loss_of, features, np.arange(12), longest=0, rows=rows)
        found[rows] = loss, model.lm_head.weight.grad.clone()
    # Three components with at most 330 tokens each, summed in two orders in float32.
    assert found[3][0] == pytest.approx(found[0][0], rel=1e-5)
    torch.testing.assert_close(found[3][1], found[0][1], rtol=1e-4, atol=1e-6)


def test_padding_fills_to_the_longest_or_to_what_is_asked() -> None:
    rows = [np.array([5, 6]), np.array([7])]
    assert student_shapes.padded(rows, 0, 0).tolist() == [[5, 6], [7, 0]]
    assert student_shapes.padded(rows, -100, 3).tolist() == [[5, 6, -100], [7, -100, -100]]
