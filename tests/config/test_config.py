from pathlib import Path

import pytest

from tinyllm_ray.config import UserError, digest, load_experiment, output_dir, with_overrides
from tinyllm_ray.redact import redact_text
from tinyllm_ray.schema import Experiment

BASE = """
name: toy
dataset: {name: toy, path: data}
teachers:
  - {name: owl, model: a/owl}
  - {name: fox, model: a/fox}
student: {model: a/student}
"""


def load(tmp_path: Path, *overrides: str, text: str = BASE) -> Experiment:
    path = tmp_path / "toy.yaml"
    path.write_text(text)
    return load_experiment(path, overrides)


def test_defaults_come_from_the_schema(tmp_path: Path) -> None:
    experiment = load(tmp_path)
    assert (experiment.loss.label_weight, experiment.training.learning_rate) == (1.0, 5e-5)
    assert experiment.pools.teacher.resource == "teacher_pool"
    assert experiment.prompts.in_context.examples == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss.lable_weight=1", r"loss\.lable_weight: unknown key; did you mean loss\.label_weight\?"),
        ("traning.steps=1", r"traning: unknown key; did you mean training\?"),
        ("teachers.owl.modle=x", r"teachers.*modle: unknown key; did you mean teachers.*model\?"),
        ("teachers.owl.sampling.max_token=5", r"max_token: unknown key; did you mean .*max_tokens\?"),
        ("search.scheduler=ashaa", r"search\.scheduler: 'ashaa' was given.*'asha'"),
        ("training.steps=many", r"training\.steps: 'many' was given"),
        ("training.learning_rate=0", r"training\.learning_rate: 0 was given; input should be greater than 0"),
        ("training.batch_size=0", r"training\.batch_size: 0 was given"),
        ("student.dtype=float16", r"float16 overflows .*use bfloat16 or float32"),
        ("loss.rationale_weights.bear=1", r"no teacher is named 'bear'; the teachers are \['owl', 'fox'\]"),
        ("loss.rationale_weights.owl=-1", r"must be numbers of at least 0"),
        ("loss.rationale_weights.owl=.nan", r"loss\.rationale_weights: nan was given; numbers must be finite"),
        ("loss={label_weight: 0, rationale_weights: {owl: 0, fox: 0}}", r"all weights are zero"),
        ("teachers.bear.model=x", r"no entry of teachers is named 'bear'; there is \['owl', 'fox'\]"),
        ("name=../up", r"name: '\.\./up' was given"),
        ("teachers.owl=x", r"teachers\.owl: name a key below it, such as teachers\.owl\.model"),
        ("teachers.0=x", r"teachers\.0: name a key below it"),
        ("teachers.owl.sampling.seed.deep=x", r"sampling\.seed: 'dict' was given"),
        ("name.deep.er=1", r"name is a single value"),
        ("teachers.owl.samples_per_question=3", r"samples_per_question is 3 and temperature 0"),
        ("teachers.owl.engine.type=endpoint", r"engine\.url: missing"),
        (
            "teachers.owl.engine={type: vllm, batch_tokens: 9}",
            r"batch_tokens: unknown key of type vllm; .* type seq2seq",
        ),
        ("teachers.owl.engine={type: vlm}", r"engine\.type: 'vlm' was given; it is one of auto, vllm, "),
        ("teachers.owl.engine={type: vllm, adaptor: x}", r"adaptor: unknown key; did you mean .*adapter\?"),
        ("teachers.owl.engine={adapter: x}", r"engine\.type: None was given"),
        (
            "teachers.owl.engine={type: vllm, engine_kwargs: {trust-remote-code: true}}",
            r"use teachers\[\]\.trust_remote",
        ),
        ("teachers.owl.model=null", r"neither `model` nor `store`"),
        ("seeds=[]", r"seeds"),
        ("seeds=[4294967296]", r"seeds\.0: 4294967296 was given"),
        ("training.steps=true", r"training\.steps: true was given; a number is wanted"),
        ("seeds=[0, true]", r"seeds: true was given; a number is wanted"),
        ("loss.rationale_weights.owl=false", r"loss\.rationale_weights: false was given; a number is wanted"),
        ("training.learning_rate=.inf", r"training\.learning_rate: inf was given; numbers must be finite"),
        (
            "teachers.owl.engine={type: vllm, engine_kwargs: {x: [.nan]}}",
            r"teachers.*: nan was given; numbers must be finite",
        ),
        ("training.steps=010", r"override 'training\.steps=010': 010 can be read in two ways"),
        ("training.steps=1:30", r"override 'training\.steps=1:30': 1:30 can be read in two ways"),
        ("training={steps: 1, steps: 2}", r"the key 'steps' stands on line 1 already"),
        ("a" + ".a" * 5000 + "=1", r"a key of more than 50 parts"),
        ("teachers.²=1", r"no entry of teachers is named '²'"),
        ("no_equals_sign", r"not of the form key\.path=value"),
        ("seeds=[1", r"override 'seeds=\[1': not valid YAML"),
    ],
)
def test_a_mistake_names_the_key_and_what_is_allowed(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(tmp_path, override)


def test_overrides_set_values_of_every_kind(tmp_path: Path) -> None:
    experiment = load(
        tmp_path,
        "loss.label_weight=0.5",
        "loss.rationale_weights.owl=2",
        "seeds=[1, 2]",
        "student.lora={rank: 4}",
        "output.dir=/somewhere=else",
        "student.from_scratch.small.width=32",
        "search.space.loss.label_weight={choice: [1, 2]}",
        "teachers.owl.sampling.seed=3",
    )
    assert experiment.student.from_scratch["small"].width == 32
    assert list(experiment.search.space) == ["loss.label_weight"]
    assert (experiment.loss.label_weight, experiment.loss.rationale_weights) == (0.5, {"owl": 2.0})
    assert (experiment.seeds, experiment.output.dir) == ([1, 2], "/somewhere=else")
    assert experiment.student.lora is not None
    assert experiment.student.lora.rank == 4


def test_teachers_are_meant_by_name_by_place_or_all_at_once(tmp_path: Path) -> None:
    overrides = ["teachers.fox.sampling.max_tokens=9", "teachers.0.store=/s", "teachers.batch_size=7"]
    experiment = load(tmp_path, *overrides)
    owl, fox = experiment.teachers
    assert (owl.sampling.max_tokens, fox.sampling.max_tokens) == (128, 9)
    assert (owl.store, fox.store) == ("/s", None)
    assert (owl.batch_size, fox.batch_size) == (7, 7)
    assert experiment.teacher("fox") == fox


def test_a_teachers_default_prefix_is_its_name_and_no_two_components_share_one(tmp_path: Path) -> None:
    assert [teacher.task_prefix for teacher in load(tmp_path).teachers] == ["owl: ", "fox: "]
    message = r"teachers\.fox\.task_prefix: 'owl:  ' is teachers\.owl\.task_prefix too"
    with pytest.raises(UserError, match=message):
        load(tmp_path, "teachers.fox.task_prefix='owl:  '")
    with pytest.raises(UserError, match=r"teachers\.owl\.task_prefix: 'predict: ' is student\.label_prefix too"):
        load(tmp_path, "teachers.owl.task_prefix='predict: '")


def test_a_teacher_may_carry_the_name_of_a_key_or_a_dot(tmp_path: Path) -> None:
    text = BASE.replace("name: owl", "name: llama-2.7b")
    experiment = load(tmp_path, "loss.rationale_weights.llama-2.7b=3", text=text)
    assert experiment.loss.rationale_weights == {"llama-2.7b": 3.0}
    again = with_overrides(experiment, {"loss.rationale_weights.llama-2.7b": 0.5})
    assert again.loss.rationale_weights == {"llama-2.7b": 0.5}
    assert load(tmp_path, "teachers.llama-2.7b.batch_size=3", text=text).teachers[0].batch_size == 3


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: fox", "name: owl", r"two teachers are named 'owl'"),
        ("name: fox", "name: label", r"the name 'label' is taken"),
        ("student: {model: a/student}", "", r"student: missing"),
        ("name: toy\n", "name: [1\n", r"not valid YAML"),
    ],
)
def test_a_broken_file_is_one_clear_message(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(tmp_path, text=BASE.replace(old, new, 1))


@pytest.mark.parametrize("text", ["- a\n- b\n", "just text", "", "7"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="an experiment is a mapping"):
        load(tmp_path, text=text)


def test_yaml_cannot_execute(tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    code = f"!!python/object/apply:os.system ['touch {planted}']"
    with pytest.raises(UserError, match="not valid YAML"):
        load(tmp_path, text=BASE + f"seeds: {code}\n")
    with pytest.raises(UserError, match="not valid YAML"):
        load(tmp_path, f"seeds={code}")
    assert not planted.exists()


def test_a_missing_file_names_the_ones_that_are_there(tmp_path: Path) -> None:
    load(tmp_path)
    with pytest.raises(UserError, match=r"there is no experiment file .*tory\.yaml; there is: .*toy\.yaml"):
        load_experiment(tmp_path / "tory.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        load_experiment(tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"name: \xff\n")
    with pytest.raises(UserError, match="cannot be read"):
        load_experiment(tmp_path / "bytes.yaml")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("loss.lable_weight: {choice: [1]}", r"search\.space: loss\.lable_weight: .*did you mean loss\.label_weight"),
        ("loss.rationale_weights.bear: {grid: [1]}", r"search\.space: .*no teacher is named 'bear'"),
        ("training.steps: {choice: [10, -1]}", r"search\.space: training\.steps: .*-1 was given"),
        ("training.learning_rate: {loguniform: [0, 1]}", r"search\.space.*loguniform"),
        ("training.steps: {choice: []}", r"search\.space\.training\.steps"),
        ("training.steps: {uniform: [1, 9]}", r"search\.space: training\.steps: .*valid integer"),
        ("loss.label_weight: {uniform: [2, 1]}", r"the lower bound comes first"),
        ("loss.label_weight: {uniform: [0, .inf]}", r"numbers must be finite"),
        ("training.steps: {chose: [1]}", r"search\.space\.training\.steps"),
    ],
)
def test_a_search_path_that_cannot_be_is_refused_at_load(tmp_path: Path, entry: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(tmp_path, text=BASE + f"search:\n  space:\n    {entry}\n")


def test_a_teacher_without_a_weight_counts_with_one(tmp_path: Path) -> None:
    assert load(tmp_path, "loss={label_weight: 0, rationale_weights: {owl: 0}}").loss.label_weight == 0


def test_an_entry_of_a_list_of_values_cannot_be_set_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"seeds is a list of values; give it whole, such as seeds=\[\.\.\.\]"):
        load(tmp_path, "seeds.0=1", text=BASE + "seeds: [1, 2]\n")


def test_overrides_that_go_with_a_searched_model_are_checked_at_load(tmp_path: Path) -> None:
    text = BASE + "search: {by_model: {a/student: {training.stesp: 3}}}\n"
    with pytest.raises(UserError, match=r"search\.by_model: a/student: training\.stesp: unknown key"):
        load(tmp_path, text=text)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "foo://x",
            r"output\.dir: foo: is no storage that is known; allowed is a path on this machine, or file://, s3://",
        ),
        ("http://host/x", r"http: is no storage that is known"),
        ("s3://", r"'s3://' names no bucket; write s3://bucket/folder"),
        ("s3:///x", r"names no bucket"),
        ("s3:/bucket/x", r"would be a folder named 's3:' in this place; write s3://"),
        ("file://x", r"names no absolute path; write file:///absolute/path"),
        ("'s3://bucket/a b'", r"a character that an address cannot"),
        ("~nobody-here/x", r"there is no such user"),
        ("''", r"an empty text was given"),
        ("s3://me:hunter22@bucket/x", r"holds credentials; leave them out and set AWS_ACCESS_KEY_ID"),
    ],
)
def test_an_output_folder_that_no_storage_can_hold_is_refused_at_load(tmp_path: Path, given: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        load(tmp_path, f"output.dir={given}")
    assert "hunter22" not in str(error.value)


@pytest.mark.parametrize(
    "given", ["/a b/ü", "C:x", "a:b/c", "s3://bucket", "s3://bucket/x", "gs://b/x", "file:///x", "~/x"]
)
def test_paths_and_addresses_of_storage_are_taken(tmp_path: Path, given: str) -> None:
    assert load(tmp_path, f"output.dir='{given}'").output.dir == given


@pytest.mark.parametrize(
    ("override", "instead"),
    [
        ("tracking.uri=http://me:hunter22@host", "MLFLOW_TRACKING_PASSWORD"),
        ("dataset.path='https://host/data?sig=hunter22'", r"write \$\{ITS_NAME\} in their place"),
        ("dataset.splits={train: 'https://hunter22@host/a.jsonl'}", "environment variable"),
        ("teachers.owl.store=gs://me:hunter22@bucket/x", "GOOGLE_APPLICATION_CREDENTIALS"),
        (
            "teachers.owl.engine={type: vllm, engine_kwargs: {deep: [{er: 'http://host/x?apiKey=hunter22'}]}}",
            "environment variable",
        ),
    ],
)
def test_credentials_in_any_address_are_refused_with_what_to_set_instead(
    tmp_path: Path, override: str, instead: str
) -> None:
    with pytest.raises(UserError, match=f"the address holds credentials; .*{instead}") as error:
        load(tmp_path, override)
    assert "hunter22" not in str(error.value)


@pytest.mark.parametrize(
    "override",
    [
        "teachers.owl.engine={type: vllm, engine_kwargs: {hf_token: hunter22}}",
        "teachers.owl.engine={type: vllm, engine_kwargs: {a: {dbPwd: hunter22}}}",
        "name=hf_" + "a" * 30,
    ],
)
def test_a_secret_is_no_word_of_a_command(tmp_path: Path, override: str) -> None:
    with pytest.raises(UserError, match="the value is a secret by its name or its shape") as error:
        load(tmp_path, override)
    assert "hunter22" not in str(error.value) and "aaaa" not in str(error.value)


@pytest.mark.parametrize(
    "arguments",
    [
        "{trustRemoteCode: true}",
        "{hf_overrides: {deep: [{trust-remote-code: true}]}}",
        "{tokenizer_kwargs: {TRUST_REMOTE_CODE: 1}}",
        "{options: '--trust-remote-code'}",
        "{config: '{\"trust_remote_code\": true}'}",
    ],
)
def test_engine_arguments_cannot_switch_on_remote_code(tmp_path: Path, arguments: str) -> None:
    with pytest.raises(UserError, match=r"use teachers\[\]\.trust_remote_code"):
        load(tmp_path, f"teachers.owl.engine={{type: vllm, engine_kwargs: {arguments}}}")


def test_variables_that_an_experiment_names_are_kept_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYLLM_SECRET_VARIABLES", "")
    monkeypatch.setenv("DATA_PLACE", "plain-looking-value")
    load(tmp_path, "dataset.path='https://host/data?sig=${DATA_PLACE}'")
    assert redact_text("x plain-looking-value") == "x ***"


def test_credentials_in_an_endpoints_url_are_refused_and_not_shown(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds credentials") as error:
        load(tmp_path, "teachers.owl.engine={type: endpoint, url: 'http://me:hunter2@host/v1'}")
    assert "hunter2" not in str(error.value)


def test_a_resolved_experiment_loads_to_the_same(tmp_path: Path) -> None:
    experiment = load(tmp_path, "loss.rationale_weights.owl=2")
    assert with_overrides(experiment, {}) == experiment
    assert digest(experiment.model_dump(mode="json")) == digest(with_overrides(experiment, {}).model_dump(mode="json"))


def test_the_digest_ignores_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": "é"}) == digest({"b": "é", "a": 1})
    assert digest({"a": 1}) != digest({"a": "1"})
    assert len(digest({}, 24)) == 24


def test_output_lies_below_the_working_folder_or_where_it_is_told(tmp_path: Path) -> None:
    assert output_dir(load(tmp_path)) == str(Path("outputs/toy").resolve())
    assert output_dir(load(tmp_path, "output.dir=s3://bucket/toy")) == "s3://bucket/toy"
    assert output_dir(load(tmp_path, "output.dir=~/toy")) == str(Path("~/toy").expanduser())


@pytest.mark.parametrize("key", ["seeds", "search.final_seeds"])
def test_a_seed_given_twice_would_count_one_training_twice(tmp_path, key):
    with pytest.raises(UserError, match=rf"{key}: .*seed 1 is given twice"):
        load(tmp_path, f"{key}=[0, 1, 2, 1]")
