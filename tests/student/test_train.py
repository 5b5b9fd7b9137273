"""Trials on a small world: what they write, how they stop and go on."""

import json
from pathlib import Path

import pyarrow.parquet as pq
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from tinyllm_ray.student.train import run_trial


def test_a_trial_writes_all_its_files_and_returns_its_result(world):
    reports = []
    trial = world.trial(score_test=True)
    result = run_trial(trial, report=reports.append)
    folder = Path(trial.dir)

    assert [row["step"] for row in reports] == [3, 6]
    assert 0 <= result["eval/accuracy"] <= 1 and 0 <= result["test/accuracy"] <= 1
    assert json.loads((folder / "result.json").read_text()) == result
    lines = [json.loads(x) for part in (folder / "metrics").glob("*.jsonl") for x in part.read_text().splitlines()]
    assert {"train/loss", "train/loss/label", "train/loss/long", "train/gradient_norm"} <= set(lines[0])
    predictions = pq.read_table(folder / "predictions" / "test.parquet").to_pylist()
    assert len(predictions) == 8
    assert dict(predictions[0]["rationales"]).keys() == {"long", "short"}
    assert "| long | unused | 0.5 |" in (folder / "model" / "README.md").read_text()
    model = AutoModelForSeq2SeqLM.from_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    assert model.config.vocab_size == len(tokenizer)
