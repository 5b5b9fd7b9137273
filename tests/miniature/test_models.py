"""The teachers: trained from scratch for a few steps, saved, loaded like any other model."""

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from tinyllm_ray.config import load_experiment
from tinyllm_ray.data.prompts import load_template
from tinyllm_ray.miniature.models import make_teachers, prepare_teachers
from tinyllm_ray.schema import InContext, Miniature

SIZES = {"entities": 8, "kinds": 2, "attributes": 2, "values": 4, "train": 6, "validation": 4, "test": 4}


@pytest.mark.engine
def test_the_teachers_are_ordinary_folders_and_are_made_once(tmp_path: Path, repository: Path) -> None:
    steps = {"teacher_steps": 2, "teacher_batch_size": 4}
    sizes = [f"dataset.miniature.{key}={value}" for key, value in {**SIZES, **steps}.items()]
    overrides = [f"output.dir={tmp_path}", *sizes]
    experiment = load_experiment(repository / "experiments" / "miniature.yaml", overrides)
    made = prepare_teachers(experiment, output_dir=str(tmp_path))
    weights = [Path(teacher.model) / "model.safetensors" for teacher in experiment.teachers]
    times = [path.stat().st_mtime_ns for path in weights]

    for loader, teacher in zip((AutoModelForCausalLM, AutoModelForSeq2SeqLM), experiment.teachers, strict=True):
        model, tokenizer = loader.from_pretrained(teacher.model), AutoTokenizer.from_pretrained(teacher.model)
        assert model.config.vocab_size == len(tokenizer)
        assert model.config.eos_token_id == tokenizer.eos_token_id is not None
        assert model.config.pad_token_id == tokenizer.pad_token_id is not None
        assert model.generation_config.eos_token_id == tokenizer.eos_token_id
        assert (
            tokenizer.decode(tokenizer("It is a grazer.", add_special_tokens=False)["input_ids"]) == "It is a grazer."
        )

    assert prepare_teachers(experiment, output_dir=str(tmp_path)) == made
    assert [path.stat().st_mtime_ns for path in weights] == times


@pytest.mark.engine
def test_why_a_teachers_process_failed_is_told_where_its_failure_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    sizes = Miniature(**SIZES, teacher_steps=1, teacher_batch_size=4)
    template = load_template("paper")
    with pytest.raises(RuntimeError, match=r"the training of the teacher north_llama failed: \w*Error: .*file"):
        make_teachers(str(tmp_path / "file"), ["north_llama"], sizes, template=template, in_context=InContext())
