"""Students and tokenizers: made here, or loaded, or refused with what to change."""

import json

import pytest
import torch
from support.tiny_students import save_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BartConfig, PreTrainedTokenizerFast

from tinyllm_ray.config import UserError
from tinyllm_ray.data.tokenizer import StudentTokenizer
from tinyllm_ray.schema import Student
from tinyllm_ray.student.model import load_folder, load_student, parameter_count, prepare_tokenizer, token_layout


def prepare(world, experiment):
    return prepare_tokenizer(experiment, questions=world.questions, stores=world.stores, output_dir=str(world.folder))


def test_a_trained_tokenizer_gives_every_text_back(world, experiment):
    tokenizer = StudentTokenizer.open(prepare(world, experiment))
    known, unknown = "thing 3 is red.", 'naïve "Ωmega" 東京 🙂\n\ttabs  and  spaces'
    for text in (known, unknown):
        assert tokenizer.decode(tokenizer.encode([text])[0]) == text
    assert tokenizer.encode(["red"])[0] == tokenizer.encode(["(a) red"])[0][-1:]


def test_the_tokenizer_is_made_once(world, experiment):
    assert prepare(world, experiment) == prepare(world, experiment)


def test_another_task_prefix_makes_another_tokenizer_that_has_its_word(world, make):
    """Whichever of the trainings of one output folder comes first."""
    folders = {}
    for prefix in ("northern: ", "southern: "):
        experiment = make.make_experiment()
        teachers = [teacher.model_copy(update={"task_prefix": prefix}) for teacher in experiment.teachers]
        folders[prefix] = prepare(world, experiment.model_copy(update={"teachers": teachers}))
    assert len(set(folders.values())) == 2
    for prefix, folder in folders.items():
        assert len(StudentTokenizer.open(folder).encode([prefix.removesuffix(": ")])[0]) == 1


def test_a_student_from_scratch_depends_on_the_seed_alone(world, experiment):
    folder = prepare(world, experiment)
    first, again, other = (
        load_student(experiment.student, tokenizer_folder=folder, seed=seed)[0].shared.weight for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_adapters_are_few_and_the_rest_is_frozen(world, make):
    experiment = make.make_experiment(student={"lora": {"rank": 2}})
    model, _ = load_student(experiment.student, tokenizer_folder=prepare(world, experiment), seed=0)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert 0 < trained < 0.1 * parameter_count(model)


def test_modules_that_lora_cannot_find_are_refused(world, make):
    experiment = make.make_experiment(student={"lora": {"target_modules": ["no_such_layer"]}})
    with pytest.raises(UserError, match=r"student.lora.target_modules \['no_such_layer'\]"):
        load_student(experiment.student, tokenizer_folder=prepare(world, experiment), seed=0)


def bare_tokenizer(**special):
    backend = Tokenizer(models.WordLevel({"a": 0, "</s>": 1, "<pad>": 2}, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def test_a_tokenizer_without_an_end_token_is_refused():
    with pytest.raises(UserError, match=r"tokenizer of my-model has no end-of-sequence token.*student.tokenizer"):
        token_layout(bare_tokenizer(pad_token="<pad>"), encoder_decoder=False, name="my-model")


def test_an_encoder_decoders_tokenizer_without_padding_is_refused_and_a_decoders_pads_with_the_end_token():
    tokenizer = bare_tokenizer(eos_token="</s>")
    with pytest.raises(UserError, match=r"has no padding token.*student.tokenizer"):
        token_layout(tokenizer, encoder_decoder=True, name="my-model")
    assert token_layout(tokenizer, encoder_decoder=False, name="my-model")["pad"] == 1


def test_a_model_that_is_not_there_is_refused_with_the_names_that_are(world, make):
    experiment = make.make_experiment(student={"model": "tinny"})
    with pytest.raises(UserError, match=r"student.model 'tinny' .*under student.from_scratch: \['decoder', 'tiny'\]"):
        prepare(world, experiment)


def test_an_encoder_decoder_of_another_family_is_refused(world, make, tmp_path):
    BartConfig().save_pretrained(tmp_path / "bart")
    experiment = make.make_experiment(student={"model": str(tmp_path / "bart")})
    with pytest.raises(UserError, match="is of type bart; encoder-decoder students are t5, mt5"):
        prepare(world, experiment)


def test_pickled_weights_are_refused(world, make, experiment):
    folder = world.folder / "pickled"
    model, _ = load_student(experiment.student, tokenizer_folder=prepare(world, experiment), seed=0)
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    given = make.make_experiment(student={"model": str(folder), "tokenizer": prepare(world, experiment)})
    with pytest.raises(UserError, match="cannot be loaded"):
        load_student(given.student, tokenizer_folder=prepare(world, experiment), seed=0)


def test_a_width_that_the_heads_cannot_share_is_refused(world, make):
    scratch = {"tiny": {"width": 30, "heads": 4, "vocabulary_size": 400}}
    experiment = make.make_experiment(student={"from_scratch": scratch})
    with pytest.raises(UserError, match="width 30 cannot be shared by 4 heads"):
        load_student(experiment.student, tokenizer_folder=prepare(world, experiment), seed=0)


def cut(folder, name):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])


def put(content):
    return lambda folder, name: (folder / name).write_bytes(content)


def remove(folder, name):
    (folder / name).unlink()


def change(**values):
    def write(folder, name):
        config = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(config | values))

    return write


DAMAGES = {
    "weights cut": (cut, "model.safetensors"),
    "weights empty": (put(b""), "model.safetensors"),
    "weights gone": (remove, "model.safetensors"),
    "config cut": (cut, "config.json"),
    "config a list": (put(b"[]"), "config.json"),
    "config of bytes": (put(b"\xff\xfe\x00"), "config.json"),
    "config of another size": (change(d_model=24, hidden_size=24), "config.json"),
    "config with text for a number": (change(d_model="x", hidden_size="x"), "config.json"),
    "config with a layer that has no weights": (change(num_layers=3, num_hidden_layers=3), "config.json"),
    "config of an unknown type": (change(model_type="nothing"), "config.json"),
    "tokenizer cut": (cut, "tokenizer.json"),
    "tokenizer a list": (put(b"[]"), "tokenizer.json"),
    "tokenizer an empty object": (put(b"{}"), "tokenizer.json"),
    "tokenizer config a list": (put(b"[]"), "tokenizer_config.json"),
    "tokenizer config gone": (remove, "tokenizer_config.json"),
}


@pytest.mark.parametrize("shape", ["t5", "llama"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_student_is_one_message_that_names_it(damage, shape, tmp_path):
    save_model(str(tmp_path), shape)
    spoil, name = DAMAGES[damage]
    spoil(tmp_path, name)
    with pytest.raises(UserError, match=str(tmp_path)) as caught:
        load_folder(Student(model=str(tmp_path)))
    assert "\n" not in str(caught.value)


def test_a_tokenizer_with_more_ids_than_its_model_is_refused(tmp_path):
    save_model(str(tmp_path), "t5")
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"]["late"] = 40
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="its tokenizer has ids up to 40, its model knows 40"):
        load_folder(Student(model=str(tmp_path)))
