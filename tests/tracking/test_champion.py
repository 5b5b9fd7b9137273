"""The winner is registered, loads by mlflow.transformers.load_model, and generates what the trained model did."""

from dataclasses import dataclass
from typing import Any

import mlflow
import pytest
import transformers
from support.tiny_students import save_model
from support.trial_folders import make_experiment, make_questions, write_questions, write_trial

from tinyllm_ray.data.questions import QuestionFile
from tinyllm_ray.tracking import Tracker
from tinyllm_ray.tracking.champion import log_champion


@dataclass
class Won:
    key: str
    dir: str
    experiment: dict[str, Any]


def generate(model: Any, tokenizer: Any) -> list[int]:
    inputs = tokenizer("predict : What color is thing ?", return_tensors="pt", return_token_type_ids=False)
    return model.eval().generate(**inputs, max_new_tokens=8, do_sample=False)[0].tolist()


@pytest.mark.parametrize("shape", ["t5", "llama"])
def test_the_winner_is_registered_loads_and_generates(tmp_path, shape, capfd):
    experiment = make_experiment(str(tmp_path), name=f"study-{shape}")
    folder = str(tmp_path / "trials" / "won")
    write_trial(folder, key="won", seed=0, accuracy=0.6)
    save_model(f"{folder}/model", shape)
    capfd.readouterr()
    path, digest, rows = write_questions(str(tmp_path), "obqa", make_questions(3))["validation"]
    questions = {"validation": QuestionFile(path=path, rows=rows, rejected=0, rejected_path="", digest=digest)}
    trial, end = Won("won", folder, experiment.model_dump(mode="json")), {"eval/accuracy": 0.6}
    for _ in range(2):  # a repeated run registers nothing new
        with Tracker(experiment, output_dir=str(tmp_path), lineage={}) as tracker:
            tracker.watch("won", folder=folder, name="final", config=experiment, seed=0, tags={"variant": "final"})
            made = log_champion(trial, end, tracker=tracker, name=experiment.name, questions=questions)
    assert capfd.readouterr().err == ""
    assert made["uri"] == f"models:/study-{shape}@champion"
    assert made["version"] == "1"
    client = mlflow.MlflowClient(tracker.uri)
    assert client.get_model_version_by_alias(experiment.name, "champion").run_id == made["run_id"]
    assert client.get_run(tracker.parent_id).data.tags["champion.uri"] == made["uri"]
    assert client.get_run(made["run_id"]).info.status == "FINISHED"
    info = mlflow.models.get_model_info(made["uri"])
    assert info.signature.inputs.input_types() == [mlflow.types.DataType.string]
    example = mlflow.models.Model.load(made["uri"]).load_input_example()
    assert str(example).startswith("predict: What color is thing 0?")
    parts = mlflow.transformers.load_model(made["uri"], return_type="components")
    saved = transformers.AutoTokenizer.from_pretrained(f"{folder}/model")
    kind = transformers.AutoModelForSeq2SeqLM if shape == "t5" else transformers.AutoModelForCausalLM
    expected = generate(kind.from_pretrained(f"{folder}/model"), saved)
    assert generate(parts["model"], parts["tokenizer"]) == expected
    whole = mlflow.transformers.load_model(made["uri"])
    assert generate(whole.model, whole.tokenizer) == expected
