import json
from pathlib import Path

import pytest
from support.small_experiment import write_experiment
from support.tiny_teachers import save_llama
from transformers import AutoTokenizer

from tinyllm_ray.config import load_experiment
from tinyllm_ray.schema import UserError
from tinyllm_ray.session import Session
from tinyllm_ray.stages import show_prompt

CHAT = "{% for message in messages %}<user>{{ message['content'] }}</user>{% endfor %}<teacher>"


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    """An experiment whose teacher wraps its prompts as a chat."""
    path = write_experiment(tmp_path, sizes={"train": 4})
    tokenizer = AutoTokenizer.from_pretrained(save_llama(tmp_path / "llama"))
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(tmp_path / "llama")
    return path


def show(path: Path, *overrides: str) -> str:
    folder = path.parent
    changes = [f"teachers.one.model={folder}/llama", "teachers.one.engine.type=vllm", *overrides]
    with Session(load_experiment(path, changes), say=print) as session:
        return show_prompt(session, teacher="one", row=1)


def test_a_prompt_is_shown_as_the_model_reads_it(asked: Path) -> None:
    question = json.loads((asked.parent / "train.jsonl").read_text().splitlines()[1])
    shown = show(asked)
    assert shown.startswith("<user>Question: ")
    assert shown.endswith("</user><teacher>")
    assert shown.count("Question: ") == 2  # one solved example, then the question itself
    assert f"Question: {question['question']}" in shown


def test_without_the_chat_template_the_tokenizers_own_marks_are_shown(asked: Path) -> None:
    shown = show(asked, "prompts.chat_template=never")
    assert shown.startswith("Question: ")
    assert not shown.endswith("</s>")  # which this tokenizer appends, but a decoder would say nothing after it


def test_an_example_that_does_not_fit_is_not_shown(asked: Path) -> None:
    assert show(asked, "teachers.one.engine.engine_kwargs={max_model_len: 160}").count("Question: ") == 1


def test_a_question_that_does_not_fit_at_all_is_said_to_fail(asked: Path) -> None:
    with pytest.raises(
        UserError, match=r"question q1 cannot be asked of teacher one.*: prompt too long: \d+ tokens .* takes 8"
    ):
        show(asked, "teachers.one.engine.engine_kwargs={max_model_len: 20}")


def test_a_teacher_with_a_store_is_asked_nothing(asked: Path) -> None:
    with pytest.raises(UserError, match="teacher one comes with a store"):
        show(asked, "teachers.one.store=/stores/one")
