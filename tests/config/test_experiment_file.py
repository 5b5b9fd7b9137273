from pathlib import Path

import pytest

from tinyllm_ray.config import load_experiment
from tinyllm_ray.config.experiment_file import LARGEST_KIB, merge, read_experiment_file
from tinyllm_ray.schema.base import UserError

BASE = """
name: base
dataset: {name: words, path: data, splits: {train: a.jsonl, test: b.jsonl}}
teachers:
  - {name: owl, model: a/owl, sampling: {max_tokens: 9, seed: 1}}
  - {name: fox, model: a/fox}
student: {model: a/student}
seeds: [0, 1]
search: {space: {loss.label_weight: {choice: [1, 2]}, training.steps: {choice: [5]}}}
"""
CHILD = """
extends: ../base.yaml
name: child
dataset: {splits: {test: c.jsonl}}
teachers:
  - {name: bee, model: a/bee}
  - {name: owl, sampling: {max_tokens: 4}}
seeds: [7]
search: {space: {loss.label_weight: {uniform: [0.5, 1]}}}
"""


def write(folder: Path, **texts: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


def test_a_file_extends_another_by_a_path_relative_to_itself(tmp_path: Path) -> None:
    write(tmp_path, base=BASE)
    raw = read_experiment_file(write(tmp_path / "below", child=CHILD) / "child.yaml")
    assert raw == {
        "name": "child",
        "dataset": {"name": "words", "path": "data", "splits": {"train": "a.jsonl", "test": "c.jsonl"}},
        "teachers": [
            {"name": "owl", "model": "a/owl", "sampling": {"max_tokens": 4, "seed": 1}},
            {"name": "fox", "model": "a/fox"},
            {"name": "bee", "model": "a/bee"},
        ],
        "student": {"model": "a/student"},
        "seeds": [7],
        "search": {"space": {"loss.label_weight": {"uniform": [0.5, 1]}, "training.steps": {"choice": [5]}}},
    }
    experiment = load_experiment(tmp_path / "below" / "child.yaml", ["teachers.owl.sampling.max_tokens=3"])
    assert experiment.teacher("owl").sampling.max_tokens == 3


def test_what_a_file_needs_may_come_from_the_one_it_extends_and_chains_are_followed(tmp_path: Path) -> None:
    write(tmp_path, base=BASE, middle="extends: base.yaml\nseeds: [3]", top="extends: middle.yaml\nname: top")
    experiment = load_experiment(tmp_path / "top.yaml")
    assert (experiment.name, experiment.seeds, experiment.student.model) == ("top", [3], "a/student")


def test_a_mapping_of_another_type_replaces_and_one_of_the_same_type_is_merged() -> None:
    base = {"engine": {"type": "vllm", "batch_size": 4}}
    assert merge(base, {"engine": {"type": "seq2seq"}}) == {"engine": {"type": "seq2seq"}}
    assert merge(base, {"engine": {"type": "vllm", "seed": 1}})["engine"] == {
        "type": "vllm",
        "batch_size": 4,
        "seed": 1,
    }
    assert merge(base, {"engine": None}) == {"engine": None}
    assert base == {"engine": {"type": "vllm", "batch_size": 4}}


def test_teachers_without_names_or_of_one_name_twice_are_left_for_the_schema_to_refuse() -> None:
    base = {"teachers": [{"name": "owl"}]}
    for given in ([{"model": "x"}], [{"name": "fox"}, {"name": "fox"}], ["owl"], [{"name": ["owl"]}], "owl", None):
        assert merge(base, {"teachers": given}) == {"teachers": given}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a": "extends: a.yaml"}, r"a\.yaml extends a\.yaml, which leads back to itself"),
        (
            {"a": "extends: b.yaml", "b": "extends: ./a.yaml"},
            r"b\.yaml extends \./a\.yaml, which leads back to itself: .*a",
        ),
        ({"a": "extends: none.yaml"}, r"a\.yaml extends .*none\.yaml, which is not there; there is: .*a\.yaml"),
        ({"a": "extends: [b.yaml]"}, r"extends takes the path of one file"),
        ({"a": "extends: s3://bucket/b.yaml"}, r"extends takes the path of one file on this machine"),
        ({"a": "extends: ''"}, r"extends takes the path of one file"),
        ({"a": "extends: ."}, r"cannot be read as an experiment file"),
        ({"a": "extends: b.yaml", "b": "a: 1\na: 2"}, r"b\.yaml: line 2: the key 'a' stands on line 1"),
        ({"a": "extends: b.yaml", "b": "[]"}, r"b\.yaml holds list"),
        ({"a": "#" * (LARGEST_KIB * 1024 + 1)}, r"larger than 1024 KiB"),
    ],
)
def test_a_base_that_cannot_be_is_one_message(tmp_path: Path, files: dict[str, str], message: str) -> None:
    write(tmp_path, **files)
    with pytest.raises(UserError, match=message):
        load_experiment(tmp_path / "a.yaml")


def test_extends_is_no_override(tmp_path: Path) -> None:
    write(tmp_path, base=BASE)
    with pytest.raises(UserError, match="extends is a key of the experiment file"):
        load_experiment(tmp_path / "base.yaml", ["extends=other.yaml"])
