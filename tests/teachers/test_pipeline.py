"""What stops `generate` before any engine, and before Ray, is needed."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import echo_engine
from support.tiny_teachers import experiment, question_files, questions

from tinyllm_ray import storage
from tinyllm_ray.config import UserError
from tinyllm_ray.data import store
from tinyllm_ray.rows import Rationale
from tinyllm_ray.schema import Experiment
from tinyllm_ray.teachers import pipeline
from tinyllm_ray.teachers.manifest import rationale_store, store_manifest
from tinyllm_ray.teachers.pipeline import generate


@pytest.fixture
def model(tmp_path: Path) -> str:
    """The looks of a decoder-only model, without weights that could be run."""
    folder = tmp_path / "model"
    folder.mkdir()
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "max_position_embeddings": 64}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"")
    return str(folder)


def manifest(model: str, **changes: object) -> dict:
    spec = experiment({"name": "t", "model": model, **changes.pop("teacher", {})}, **changes)
    return store_manifest(spec, spec.teachers[0], output_dir="out")


def test_one_missing_model_stops_all_teachers_before_the_first_starts(model: str, tmp_path: Path) -> None:
    spec = experiment({"name": "good", "model": model}, {"name": "bad", "model": str(tmp_path / "none")})
    with pytest.raises(UserError, match=r"teachers\.bad\.model: there is no folder"):
        generate(spec, output_dir=str(tmp_path / "out"), questions=question_files(tmp_path, train=3))


def test_a_template_without_a_question_is_refused(model: str, tmp_path: Path) -> None:
    (tmp_path / "template.txt").write_text("Say something wise.\n")
    spec = experiment({"name": "t", "model": model}, prompts={"template": str(tmp_path / "template.txt")})
    with pytest.raises(UserError, match=r"prompts\.template: .* has no \{question\}"):
        generate(spec, output_dir=str(tmp_path / "out"), questions=question_files(tmp_path, train=3))


def test_two_teachers_of_one_name_are_refused(model: str) -> None:
    with pytest.raises(UserError, match="two teachers are named 't'"):
        experiment({"name": "t", "model": model}, {"name": "t", "model": model})


def test_no_room_for_a_prompt_is_said(model: str, tmp_path: Path) -> None:
    spec = experiment({"name": "t", "model": model, "sampling": {"max_tokens": 64}})
    with pytest.raises(UserError, match=r"max_tokens=64 leaves no room for a prompt: the model takes 64"):
        generate(spec, output_dir=str(tmp_path / "out"), questions=question_files(tmp_path, train=3))


def test_a_store_of_another_configuration_is_refused_with_the_difference(model: str, tmp_path: Path) -> None:
    spec = experiment({"name": "t", "model": model})
    folder = rationale_store(spec, "t", output_dir=str(tmp_path / "out"))
    storage.write_json(f"{folder}/manifest.json", manifest(model) | {"prompt_seed": 7})
    with pytest.raises(UserError, match=r"written by another configuration:\n  prompt_seed: stored 7, configured 0"):
        generate(spec, output_dir=str(tmp_path / "out"), questions=question_files(tmp_path, train=3))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"teacher": {"sampling": {"max_tokens": 9}}}, "sampling"),
        ({"teacher": {"engine": {"type": "vllm", "engine_kwargs": {"quantization": "fp8"}}}}, "engine_kwargs"),
        ({"prompts": {"in_context": {"pool": 8}}}, "in_context"),
        ({"prompts": {"seed": 1}}, "prompt_seed"),
        ({"prompts": {"template": "answer"}}, "template"),
        ({"prompts": {"chat_template": "never"}}, "chat_template"),
    ],
)
def test_what_changes_the_text_changes_the_store(model: str, changes: dict, key: str) -> None:
    before, after = manifest(model), manifest(model, **changes)
    assert [name for name in before if before[name] != after[name]] == [key]


@pytest.mark.parametrize(
    "change",
    [{"batch_size": 3}, {"engine": {"type": "vllm", "engine_kwargs": {"max_num_seqs": 8}}}, {"max_attempts": 5}],
)
def test_what_changes_only_the_speed_or_the_tries_leaves_the_store(model: str, change: dict) -> None:
    assert manifest(model) == manifest(model, teacher=change)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"mounting is not allowed here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_whole_parts_and_another_try_goes_on(small_disk: Path) -> None:
    rows = [
        [Rationale(f"{i}-{j}", "q", 0, f"{i} {j} " * 50, "", "stop", "", 0, 1, 1) for j in range(40)] for i in range(4)
    ]
    store.append(str(small_disk), "train", rows[0])
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space left"):
        filler.write_bytes(b"x" * 400_000)
    with pytest.raises(OSError, match="No space left"):
        store.append(str(small_disk), "train", rows[1])
    assert len(store.read(str(small_disk), "train")) == 40
    assert [path.name for path in small_disk.rglob(".tmp-*")] == []
    filler.unlink()
    store.append(str(small_disk), "train", rows[1])
    assert len(store.read(str(small_disk), "train")) == 80


def test_a_full_disk_is_one_clear_message(small_disk: Path, tmp_path: Path) -> None:
    from support.tiny_teachers import save_t5

    spec = experiment({"name": "t", "model": save_t5(tmp_path / "t5")})
    files = question_files(tmp_path, train=len(questions(3000)))
    with pytest.raises(UserError, match=r"no space is left below output\.dir=.*run again"):
        generate(spec, output_dir=str(small_disk / "out"), questions=files)


def echo(text: str, **prompts: object) -> Experiment:
    engine = {"type": "custom", "path": "support.echo_engine:Echo", "settings": {"text": text}}
    return experiment({"name": "echo", "engine": engine}, prompts=prompts)


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The prompts that the engine was given, without Ray."""
    monkeypatch.setattr(pipeline, "run_files", echo_engine.run_here)
    echo_engine.WRITTEN.clear()
    return echo_engine.WRITTEN


def test_an_engine_from_outside_fills_its_store_once(answered: list[str], tmp_path: Path) -> None:
    files = question_files(tmp_path, train=20)
    spec = echo("Rain is water that falls from the clouds, so things get wet.")
    report = generate(spec, output_dir=str(tmp_path / "out"), questions=files)["echo"]
    assert (report.wanted, report.generated, report.failed) == (20, 20, {})
    assert (report.input_tokens, report.output_tokens, report.saved_tokens) == (100, 180, 60)
    again = generate(spec, output_dir=str(tmp_path / "out"), questions=files)["echo"]
    assert (again.found, again.generated, len(answered)) == (20, 0, 20)


def test_bootstrapped_examples_come_from_a_first_pass_that_is_made_once(answered: list[str], tmp_path: Path) -> None:
    files = question_files(tmp_path, train=20)
    text = "Rain is water that falls from the clouds, so things get wet."
    spec = echo(text, in_context={"examples": 1, "rationales": "bootstrap"})
    report = generate(spec, output_dir=str(tmp_path / "out"), questions=files)["echo"]
    assert (report.wanted, report.generated) == (20, 20)
    assert [text in prompt for prompt in answered] == [False] * 20 + [True] * 20
    generate(spec, output_dir=str(tmp_path / "out"), questions=files)
    assert len(answered) == 40


def test_bootstrapping_from_flagged_rationales_alone_is_refused(answered: list[str], tmp_path: Path) -> None:
    spec = echo("The answer is (a).", in_context={"examples": 1, "rationales": "bootstrap"})
    with pytest.raises(UserError, match=r"teacher echo wrote 0 rationales without a flag for 20 questions"):
        generate(spec, output_dir=str(tmp_path / "out"), questions=question_files(tmp_path, train=20))
