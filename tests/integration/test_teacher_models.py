"""What users bring as teachers, on the real engine: a .gguf file, a stop text, special tokens in a question."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from support.fake_endpoint import Reply, chat, server
from support.tiny_gguf import save_both
from support.tiny_teachers import experiment, question_file, question_files, questions

from tinyllm_ray.data import store
from tinyllm_ray.teachers.pipeline import TeacherReport, generate

pytestmark = pytest.mark.engine
TOKENS = 40


@pytest.fixture(scope="module")
def running_ray() -> Iterator[None]:
    ray.init("local", num_cpus=4, resources={"teacher_pool": 1, "student_pool": 2}, include_dashboard=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return save_both(tmp_path_factory.mktemp("gguf"))


def write(
    folder: Path, model: str, *, engine: str = "auto", **sampling: Any
) -> tuple[TeacherReport, dict[str, tuple[str, str]]]:
    """What one teacher makes of eight questions, of which one holds the tokenizer's special tokens.

    Question id -> text and finish reason.
    """
    rows = questions(8)
    rows[3] = replace(rows[3], question="3: what </s> falls <s> when the sun is there?")
    files = {"train": question_file(folder / "train.parquet", rows)}
    teacher = {
        "name": "one",
        "model": model,
        "engine": {"type": engine},
        "sampling": {"max_tokens": TOKENS, "stop": []} | sampling,
    }
    report = generate(experiment(teacher), output_dir=str(folder / "out"), questions=files)["one"]
    stored = store.read(report.store, "train", ["question_id", "rationale", "finish_reason"]).to_pylist()
    return report, {row["question_id"]: (row["rationale"], row["finish_reason"]) for row in stored}


@pytest.fixture(scope="module")
def plain(
    running_ray: None, both: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[str, str]]:
    report, texts = write(tmp_path_factory.mktemp("plain"), both[1])
    assert (report.generated, report.failed, report.saved_tokens) == (8, {}, 0)
    return texts


def test_a_gguf_file_writes_the_same_greedy_texts_as_its_weights(
    plain: dict[str, tuple[str, str]], both: tuple[str, str], tmp_path: Path
) -> None:
    assert write(tmp_path, both[0])[1] == plain


@pytest.fixture(scope="module")
def stopped(
    plain: dict[str, tuple[str, str]], both: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[TeacherReport, dict[str, tuple[str, str]], dict[str, Any]]:
    """With a stop text that one of the plain texts holds, and an end to loops; the settings too."""
    texts = [text for text, _ in plain.values()]
    pieces = {text[i : i + 4] for text in texts for i in range(12, len(text) - 4)}
    late = [p for p in sorted(pieces) if p.isascii() and p.isalpha() and not any(0 <= t.find(p) < 12 for t in texts)]
    stop = min(late, key=lambda piece: sum(piece in text for text in texts))
    sampling = {"stop": [stop], "stop_at_repeats": 2}
    return *write(tmp_path_factory.mktemp("stopped"), both[1], **sampling), sampling


def test_a_stop_text_or_a_loop_ends_a_rationale_and_the_tokens_saved_are_reported(
    plain: dict[str, tuple[str, str]], stopped: tuple[TeacherReport, dict[str, tuple[str, str]], dict[str, Any]]
) -> None:
    report, texts, sampling = stopped
    assert {"stop", "repetition"} <= {reason for _, reason in texts.values()}
    for name, (text, reason) in texts.items():
        whole = plain[name][0]
        assert (
            whole.partition(sampling["stop"][0])[0].strip() == text
            if reason == "stop"
            else whole.startswith(text.rstrip("\ufffd"))
        )
    assert report.output_tokens + report.saved_tokens == TOKENS * 8


def test_ray_data_llm_ends_the_same_texts_and_saves_as_many_tokens(
    stopped: tuple[TeacherReport, dict[str, tuple[str, str]], dict[str, Any]], both: tuple[str, str], tmp_path: Path
) -> None:
    report, texts, sampling = stopped
    other, same = write(tmp_path, both[1], engine="ray_data_llm", **sampling)
    assert same == texts
    assert (other.output_tokens, other.saved_tokens) == (report.output_tokens, report.saved_tokens)


def test_bootstrapped_examples_come_from_the_teachers_own_first_pass(running_ray: None, tmp_path: Path) -> None:
    script = tmp_path / "asked"
    script.mkdir()

    def answer(number: int, body: dict) -> Reply:
        (script / str(number)).write_text(body["messages"][0]["content"])
        return chat("Rain is water that falls from the clouds, so things get wet.")

    with server(answer) as (url, _):
        teacher = {"name": "far", "model": "m", "engine": {"type": "endpoint", "url": url}}
        in_context = {"examples": 1, "rationales": "bootstrap"}
        spec = experiment(teacher, prompts={"chat_template": "always", "in_context": in_context})
        files = question_files(tmp_path, train=6)
        first = generate(spec, output_dir=str(tmp_path / "out"), questions=files)["far"]
        assert (first.wanted, first.generated, len(list(script.iterdir()))) == (6, 6, 12)
        again = generate(spec, output_dir=str(tmp_path / "out"), questions=files)["far"]
        assert (again.found, again.generated, len(list(script.iterdir()))) == (6, 0, 12)
    prompts = [path.read_text() for path in script.iterdir()]
    assert sum("Rain is water" in prompt for prompt in prompts) == 6
