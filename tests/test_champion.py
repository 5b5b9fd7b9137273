"""The winner is registered, loads by mlflow.transformers.load_model, and generates what the trained model did."""

from dataclasses import dataclass
from typing import Any

import mlflow
import pytest
import torch
import transformers
from trial_folders import make_experiment, make_questions, write_questions, write_trial

from tinyllm_ray.champion import log_champion
from tinyllm_ray.data.questions import QuestionFile
from tinyllm_ray.tracking import Tracker

SMALL = {"vocab_size": 40, "pad_token_id": 0, "eos_token_id": 1}


@dataclass
class Won:
    key: str
    dir: str
    experiment: dict[str, Any]


def save_model(folder: str, shape: str) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<pad>", "</s>", "<unk>", "predict", ":", "?", "What", "colour", "is", "thing", "red", "green"]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    torch.manual_seed(0)
    if shape == "t5":
        sizes = {"d_model": 16, "d_ff": 32, "d_kv": 8, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
        model = transformers.T5ForConditionalGeneration(transformers.T5Config(**SMALL, **sizes))
    else:
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, **sizes))
    model.eval().save_pretrained(folder)


def generate(model: Any, tokenizer: Any) -> list[int]:
    inputs = tokenizer("predict : What colour is thing ?", return_tensors="pt", return_token_type_ids=False)
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
    assert str(example).startswith("predict: What colour is thing 0?")
    parts = mlflow.transformers.load_model(made["uri"], return_type="components")
    saved = transformers.AutoTokenizer.from_pretrained(f"{folder}/model")
    kind = transformers.AutoModelForSeq2SeqLM if shape == "t5" else transformers.AutoModelForCausalLM
    expected = generate(kind.from_pretrained(f"{folder}/model"), saved)
    assert generate(parts["model"], parts["tokenizer"]) == expected
    whole = mlflow.transformers.load_model(made["uri"])
    assert generate(whole.model, whole.tokenizer) == expected
