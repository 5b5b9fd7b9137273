import json
import subprocess
import sys

import pytest
import yaml
from support.fake_endpoint import chat, server

TOY = """
name: toy
dataset: {name: toy, format: jsonl, path: %s, splits: {train: train.jsonl, validation: validation.jsonl}}
teachers: [{name: a, model: any, engine: {type: endpoint, url: "http://127.0.0.1:9/v1"}}]
student: {model: nano, from_scratch: {nano: {}}}
"""


@pytest.fixture
def toy(tmp_path):
    for split, first in {"train": 0, "validation": 4}.items():
        numbers = range(first, first + 4)
        rows = [{"id": str(n), "question": f"is {n} even?", "choices": ["yes", "no"], "answer": "yes"} for n in numbers]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "toy.yaml"
    path.write_text(TOY % tmp_path)
    return path


def command(*words, cwd):
    return subprocess.run(
        [sys.executable, "-c", "from tinyllm_ray.cli import main; main()", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "missing.yaml"], "there is no experiment file missing.yaml"),
        (["run", "toy.yaml", "training.stesp=3"], "did you mean training.steps?"),
        (["run", "toy.yaml", "training.steps=many"], "training.steps: 'many' was given"),
        (["run", "toy.yaml", "steps"], "is not of the form key.path=value"),
        (["evaluate", "toy.yaml"], "evaluate needs --model FOLDER"),
        (["show-prompt", "toy.yaml", "--teacher", "b"], "no teacher is named 'b'"),
        (["train", "toy.yaml", "training.method=tinylm"], "'tinylm' was given; did you mean tinyllm?"),
        (["evaluate", "toy.yaml", "--model", "m", "--split", "vaildation"], "did you mean validation?"),
        (["evaluate", "toy.yaml", "--model", "/no/where"], "/no/where holds no model"),
        (["submit", "toy.yaml", "output.dir=/x", "--address", "auto"], "no address of a dashboard"),
        (["predict", "nothing/here/at/all", "train.jsonl"], "nothing/here/at/all holds no model"),
        (["serve", "nothing/here/at/all"], "nothing/here/at/all holds no model"),
        (["export", "nothing/here/at/all", "--to", "onxx"], "did you mean onnx?"),
        (["show-prompt", "toy.yaml", "--teacher", "a", "--row", "9"], "has rows 0 to 3"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_two(toy, words, message):
    done = command(*words, cwd=toy.parent)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "missing.yaml"], "there is no experiment file missing.yaml; there is: toy.yaml"),
        (["destil"], "No such command 'destil'."),
        (["plan", "toy.yaml", "--jsn"], "No such option: --jsn"),
    ],
)
def test_with_json_an_error_is_one_object_on_stdout(toy, words, message):
    done = command(*words, "--json", cwd=toy.parent)
    assert done.returncode == 2
    told = json.loads(done.stdout)
    assert list(told) == ["error"] and told["error"].startswith(message)


def test_an_output_folder_that_cannot_be_written_is_named_by_its_key(toy):
    (toy.parent / "file").write_text("")
    for folder in ("file", "file/below"):
        done = command("plan", "toy.yaml", f"output.dir={folder}", cwd=toy.parent)
        assert done.returncode == 2
        assert f"output.dir {toy.parent / folder} cannot be written" in done.stderr and "Traceback" not in done.stderr


def test_an_unknown_command_is_refused_without_a_traceback(toy):
    done = command("destil", cwd=toy.parent)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_plan_counts_what_is_wanted_and_shared_and_starts_no_engine(toy, tmp_path):
    with (toy.parent / "validation.jsonl").open("a") as file:
        file.write((toy.parent / "train.jsonl").read_text().splitlines()[0].replace('"0"', '"v0"', 1) + "\n")
    with server(lambda *_: chat("yes"), models=(200, {"data": [{"id": "any"}]})) as (url, _):
        done = command("plan", "toy.yaml", f"teachers.a.engine.url={url}", "--json", cwd=toy.parent)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["questions"] == {"train": 4, "validation": 5}
    assert plan["shared"] == {"train": {}, "validation": {"train": 1}}
    assert "1 of 5 validation questions are in train too; dataset.drop_leaked=true" in done.stderr
    assert plan["teachers"] == {"a": {"wanted": 9, "found": 0}}
    assert plan["trainings"] == 2


def test_inspect_shows_what_is_in_files_and_a_section_to_paste(toy):
    done = command("inspect", toy.parent, cwd=toy.parent)
    assert done.returncode == 0, done.stderr
    assert "the answers are read as text" in done.stdout
    section = yaml.safe_load(done.stdout.partition("the section to paste:")[2])["dataset"]
    assert section["splits"] == {"train": "train.jsonl", "validation": "validation.jsonl"}
    missing = command("inspect", toy.parent / "nothing", "--json", cwd=toy.parent)
    assert (missing.returncode, "there is no file or folder" in json.loads(missing.stdout)["error"]) == (2, True)


def test_a_run_that_could_not_end_well_says_every_mistake_before_it_starts(toy):
    changes = ["training.method=tinylm", "student.model=/no/such", "tracking.uri=http://127.0.0.1:9"]
    done = command("run", "toy.yaml", *changes, "tracking.connect_timeout_s=1", cwd=toy.parent)
    assert done.returncode == 2
    for message in (
        "training.method: 'tinylm' was given",
        "there is no folder /no/such",
        "tracking.uri http://127.0.0.1:9 does not answer",
        "teachers.a.engine.url: no server answers",
    ):
        assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_dataset_without_validation_is_refused_and_one_without_test_is_not(toy):
    done = command("run", "toy.yaml", "dataset.splits={train: train.jsonl}", cwd=toy.parent)
    assert done.returncode == 2
    assert "name its file in dataset.splits.validation" in done.stderr


def test_the_version_is_said(tmp_path):
    done = command("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout.split()[0]) == (0, "tinyllm-ray")
    assert done.stdout.split()[1][0].isdigit()


def test_the_demos_experiment_is_found_from_any_folder(tmp_path):
    """Refused before anything is made, which happens only where the file was found."""
    done = command("demo", "training.stesp=3", cwd=tmp_path)
    assert done.returncode == 2
    assert "did you mean training.steps?" in done.stderr
