"""Trials on a small world: what they write, how they stop and go on."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.rounding import STUDENT_TERMS, rounding
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from tinyllm_ray import storage
from tinyllm_ray.config import UserError, validate
from tinyllm_ray.data.store import StoreId
from tinyllm_ray.student import records
from tinyllm_ray.student.predict import evaluate_folder
from tinyllm_ray.student.train import run_trial


def test_a_trial_writes_all_its_files_and_returns_its_result(world):
    reports = []
    trial = world.trial(score_test=True)
    result = run_trial(trial, report=reports.append)
    folder = Path(trial.dir)

    assert [row["step"] for row in reports] == [3, 6]
    assert 0 <= result["eval/accuracy"] <= 1 and 0 <= result["test/accuracy"] <= 1
    assert json.loads((folder / "result.json").read_text()) == result
    lines = [
        json.loads(x) for part in sorted((folder / "metrics").glob("*.jsonl")) for x in part.read_text().splitlines()
    ]
    assert {"train/loss", "train/loss/label", "train/loss/long", "train/gradient_norm"} <= set(lines[0])
    predictions = pq.read_table(folder / "predictions" / "test.parquet").to_pylist()
    assert len(predictions) == 8
    assert dict(predictions[0]["rationales"]).keys() == {"long", "short"}
    assert "| long | unused | 0.5 |" in (folder / "model" / "README.md").read_text()
    model = AutoModelForSeq2SeqLM.from_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    assert model.config.vocab_size == len(tokenizer)


def test_a_finished_trial_reports_again_and_trains_nothing(world):
    trial = world.trial()
    first = run_trial(trial, report=lambda row: None)
    reports = []
    assert run_trial(trial, report=reports.append) == first
    assert [row["step"] for row in reports] == [3, 6]


def test_a_run_stopped_in_mid_epoch_and_resumed_ends_with_the_same_weights_to_the_bit(world):
    training = {"steps": 7, "checkpoint_every_steps": 2, "eval_every_steps": 3}
    dropout = {"from_scratch": {"tiny": {"width": 32, "ff_width": 64, "vocabulary_size": 400, "dropout": 0.3}}}
    whole = world.trial("whole", training=training, student=dropout)
    run_trial(whole, report=lambda row: None)

    stopped = world.trial("stopped", training=training, student=dropout)
    with pytest.raises(KeyboardInterrupt):
        run_trial(stopped, report=_interrupt)
    assert (Path(stopped.dir) / "checkpoints" / "000000002").is_dir()
    reports = []
    run_trial(stopped, report=reports.append)

    assert [row["step"] for row in reports] == [3, 6, 7]
    weights = [storage.read_bytes(f"{t.dir}/checkpoints/000000007/model.safetensors") for t in (whole, stopped)]
    assert weights[0] == weights[1]
    steps = [line["step"] for line in _metric_lines(stopped) if "train/loss" in line or "eval/accuracy" in line]
    assert steps == sorted(steps)


def test_a_finished_training_keeps_no_checkpoint_unless_told(world):
    trial = world.trial(training={"keep_checkpoints": False})
    run_trial(trial, report=lambda row: None)
    assert (Path(trial.dir) / "result.json").is_file()
    assert not (Path(trial.dir) / "checkpoints").exists()


def test_two_checkpoints_are_kept(world):
    trial = world.trial(training={"steps": 5, "checkpoint_every_steps": 1})
    run_trial(trial, report=lambda row: None)
    assert sorted(path.name for path in (Path(trial.dir) / "checkpoints").iterdir()) == ["000000004", "000000005"]


def test_inference_scores_without_training(world):
    result = run_trial(world.trial(training={"steps": 0}), report=lambda row: None)
    assert result["trained_tokens"] == 0
    assert "eval/accuracy" in result


def test_a_checkpoint_of_another_shape_is_refused(world):
    trial = world.trial(training={"steps": 2, "checkpoint_every_steps": 1, "eval_every_steps": 1})
    with pytest.raises(KeyboardInterrupt):
        run_trial(trial, report=_interrupt)
    wider = {"from_scratch": {"tiny": {"width": 48, "ff_width": 64, "vocabulary_size": 400}}}
    other = world.trial(training={"steps": 2}, student=wider)
    with pytest.raises(
        UserError, match=r"is of another student: .* is \(.*32.*\) there and \(.*48.*\) in student.model"
    ):
        run_trial(other, report=lambda row: None)


def test_a_weight_for_a_teacher_without_a_store_is_refused(world):
    del world.stores[StoreId("short")]
    with pytest.raises(
        UserError, match=r"loss.rationale_weights.short is 2.0, but there is no rationale store of short"
    ):
        run_trial(world.trial(), report=lambda row: None)


def test_a_teacher_without_weight_needs_no_store(world):
    del world.stores[StoreId("short")]
    loss = {"rationale_weights": {"long": 1.0, "short": 0.0}}
    assert run_trial(world.trial(loss=loss, training={"steps": 1}), report=lambda row: None)["steps"] == 1


def test_a_decoder_only_student_trains_and_answers(world):
    evaluation = {"by": "both", "max_new_tokens": 3}
    trial = world.trial(student={"model": "decoder"}, evaluation=evaluation, score_test=True)
    result = run_trial(trial, report=lambda row: None)
    assert {"test/accuracy", "test/exact_match", "test/unparsable"} <= set(result)
    AutoModelForCausalLM.from_pretrained(Path(trial.dir) / "model")


@pytest.mark.parametrize("model", ["tiny", "decoder"])
def test_lora_trains_only_adapters_and_saves_a_plain_model(world, model):
    trial = world.trial(student={"model": model, "lora": {"rank": 2}})
    result = run_trial(trial, report=lambda row: None)
    loader = AutoModelForSeq2SeqLM if model == "tiny" else AutoModelForCausalLM
    loaded = loader.from_pretrained(Path(trial.dir) / "model")
    assert not any("lora" in name for name, _ in loaded.named_parameters())
    scores = evaluate_folder(f"{trial.dir}/model", validate(trial.experiment), questions=trial.questions["validation"])
    assert scores["eval/accuracy"] == result["eval/accuracy"]
    # A confidence moves by at most as much as the score that it is made of; the scores of this world are below 10.
    close = 10 * rounding(STUDENT_TERMS)
    assert scores["eval/calibration_error"] == pytest.approx(result["eval/calibration_error"], abs=close)


def losses(trial):
    """The validation losses of the label after steps 3 and 6."""
    run_trial(trial, report=lambda row: None)
    return [row["eval/loss/label"] for row in records.read_evaluations(trial.dir)]


@pytest.mark.parametrize("model", ["tiny", "decoder"])
def test_gradient_checkpointing_computes_the_same_again_and_so_the_same_loss_to_the_bit(world, model):
    plain = losses(world.trial("plain", student={"model": model}))
    switched = world.trial("switched", student={"model": model}, training={"gradient_checkpointing": True})
    assert losses(switched) == plain


@pytest.mark.parametrize("model", ["tiny", "decoder"])
def test_bfloat16_trains_as_float32_does(world, model):
    """A training that lagged by one step in three would be off by a third of the fall; rounding must cost less."""
    before, after = losses(world.trial("plain", student={"model": model}))
    rounded = losses(world.trial("rounded", student={"model": model, "dtype": "bfloat16"}))
    assert before > after
    assert abs(rounded[1] - after) < (before - after) / 4


def _interrupt(row):
    raise KeyboardInterrupt


def _metric_lines(trial):
    parts = sorted((Path(trial.dir) / "metrics").glob("*.jsonl"))
    return [json.loads(line) for part in parts for line in part.read_text().splitlines()]


@pytest.mark.parametrize("spoil", ["cut", "changed", "gone", "no state"])
def test_a_damaged_checkpoint_is_passed_over_for_the_older_whole_one(world, caplog, spoil):
    training = {"steps": 6, "checkpoint_every_steps": 2, "eval_every_steps": 4}
    whole = world.trial("whole", training=training)
    run_trial(whole, report=lambda row: None)
    stopped = world.trial("stopped", training=training)
    with pytest.raises(KeyboardInterrupt):
        run_trial(stopped, report=_interrupt)
    newest = Path(stopped.dir, "checkpoints", "000000004")
    weights, state = newest / "optimizer.safetensors", newest / "state.json"
    data = weights.read_bytes()
    match spoil:
        case "cut":
            weights.write_bytes(data[:-9])
        case "changed":
            weights.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
        case "gone":
            weights.unlink()
        case "no state":
            state.write_text("{")
    run_trial(stopped, report=lambda row: None)
    assert f"the checkpoint {newest} is damaged" in caplog.text
    files = [Path(t.dir, "checkpoints", "000000006", "model.safetensors").read_bytes() for t in (whole, stopped)]
    assert files[0] == files[1]


def test_with_no_whole_checkpoint_a_trial_starts_again(world, caplog):
    training = {"steps": 4, "checkpoint_every_steps": 2, "eval_every_steps": 2}
    trial = world.trial(training=training)
    with pytest.raises(KeyboardInterrupt):
        run_trial(trial, report=_interrupt)
    Path(trial.dir, "checkpoints", "000000002", "model.safetensors").write_bytes(b"")
    reports = []
    run_trial(trial, report=reports.append)
    assert [row["step"] for row in reports] == [2, 4]
    assert "is damaged" in caplog.text


def test_a_damaged_result_is_made_again_from_the_checkpoint(world):
    trial = world.trial()
    first = run_trial(trial, report=lambda row: None)
    Path(trial.dir, "result.json").write_text("{")
    again = run_trial(trial, report=lambda row: None)
    assert again["eval/accuracy"] == first["eval/accuracy"]
    assert json.loads(Path(trial.dir, "result.json").read_text()) == again


def test_a_removed_model_is_made_again_from_the_checkpoint(world):
    trial = world.trial()
    first = run_trial(trial, report=lambda row: None)
    weights = Path(trial.dir, "model", "model.safetensors")
    before = weights.read_bytes()
    shutil.rmtree(weights.parent)
    again = run_trial(trial, report=lambda row: None)
    assert weights.read_bytes() == before
    assert again["eval/accuracy"] == first["eval/accuracy"]


@pytest.mark.parametrize("rate", [1e38, 1e39])
def test_a_training_that_diverges_is_one_message_and_saves_no_model(world, rate):
    trial = world.trial(training={"steps": 1, "learning_rate": rate, "max_gradient_norm": None, "eval_every_steps": 1})
    with pytest.raises(UserError, match=r"the training trial diverged: .*lower training.learning_rate"):
        run_trial(trial, report=lambda row: None)
    assert not list(Path(trial.dir).glob("**/*.safetensors"))


def test_an_infinite_number_is_refused_in_the_configuration(make):
    with pytest.raises(UserError, match=r"training.learning_rate: .*finite"):
        make.make_experiment(training={"learning_rate": float("inf")})
