"""The endpoint client against small real servers that misbehave; a real `vllm serve` is in tests/integration."""

import asyncio
import logging
import socket
import threading
from pathlib import Path

import pyarrow as pa
import pytest
from pydantic import SecretStr
from support.fake_endpoint import Reply, chat, server
from support.prompt_files import prompt_file

from tinyllm_ray.config import UserError
from tinyllm_ray.schema import EndpointSettings, Pool, Prompts, Teacher
from tinyllm_ray.teachers.engines.base import Setting
from tinyllm_ray.teachers.engines.endpoint import Endpoint, EndpointActor
from tinyllm_ray.teachers.engines.endpoint_checks import check_server, speaks_chat


def teacher(url: str, **settings: object) -> Teacher:
    filled = {"type": "endpoint", "url": url, "max_retries": 2, "timeout_s": 5} | settings
    return Teacher(name="far", model="m", engine=filled)


def settings_of(asked: Teacher) -> EndpointSettings:
    assert isinstance(asked.engine, EndpointSettings)
    return asked.engine


def check(asked: Teacher) -> None:
    check_server(asked, settings_of(asked))


def chats(asked: Teacher, chat_template: str) -> bool:
    return speaks_chat(asked, settings_of(asked), chat_template=chat_template)


def ask(folder: Path, asked: Teacher, *, rows: int = 1, is_chat: bool = True, key: str = "secret-key") -> list[dict]:
    files = prompt_file(folder, rows=rows)

    async def run() -> pa.Table:
        client = EndpointActor(
            teacher=asked, settings=settings_of(asked), key=SecretStr(key), chat=is_chat, tokenizer=None, log_file=None
        )
        return await client(files)

    return asyncio.run(run()).to_pylist()


def test_a_chat_answer_becomes_an_outcome(tmp_path: Path) -> None:
    with server(lambda number, body: chat(f"to {body['messages'][0]['content']}", "length")) as (url, seen):
        rows = ask(tmp_path, teacher(url), rows=3)
    assert [row["text"] for row in rows] == ["to prompt 0", "to prompt 1", "to prompt 2"]
    assert {(row["finish_reason"], row["failure"], row["input_tokens"], row["output_tokens"]) for row in rows} == {
        ("length", "", 7, 3)
    }
    assert {request["path"] for request in seen} == {"/v1/chat/completions"}
    assert {(request["max_tokens"], request["temperature"]) for request in seen} == {(128, 0.0)}


def test_a_completion_is_asked_for_where_the_model_does_not_chat(tmp_path: Path) -> None:
    reply = {"id": "1", "object": "text_completion", "created": 0, "model": "m"}
    reply["choices"] = [{"index": 0, "text": "because", "finish_reason": "stop", "logprobs": None}]
    with server(lambda number, body: (200, reply)) as (url, seen):
        rows = ask(tmp_path, teacher(url), is_chat=False)
    assert (rows[0]["text"], rows[0]["finish_reason"]) == ("because", "stop")
    assert (seen[0]["path"], seen[0]["prompt"]) == ("/v1/completions", "prompt 0")


def test_a_server_that_says_429_and_then_works_loses_nothing(tmp_path: Path) -> None:
    with server(lambda number, body: (429, {"error": {"message": "slow down"}}) if number <= 2 else chat("fine")) as (
        url,
        seen,
    ):
        rows = ask(tmp_path, teacher(url))
    assert (rows[0]["text"], len(seen)) == ("fine", 3)


def test_a_server_that_never_recovers_is_a_failure_with_its_status(tmp_path: Path) -> None:
    with server(lambda number, body: (503, {"error": {"message": "no room"}})) as (url, seen):
        rows = ask(tmp_path, teacher(url, max_retries=1))
    assert len(seen) == 2
    assert rows[0]["failure"].startswith("endpoint answered 503: ")
    assert (rows[0]["text"], rows[0]["finish_reason"]) == ("", "failed")


def test_a_bad_request_is_not_retried(tmp_path: Path) -> None:
    with server(lambda number, body: (400, {"error": {"message": "prompt too long"}})) as (url, seen):
        rows = ask(tmp_path, teacher(url))
    assert len(seen) == 1
    assert "prompt too long" in rows[0]["failure"]


def test_a_server_that_hangs_is_given_up_after_the_time_out(tmp_path: Path) -> None:
    given_up = threading.Event()

    def hang(number: int, body: dict) -> Reply:
        assert given_up.wait(60)
        return chat("late")

    with server(hang) as (url, seen):
        rows = ask(tmp_path, teacher(url, timeout_s=0.3, max_retries=1))
        given_up.set()
    assert rows[0]["failure"] == "endpoint timed out: no answer within 0.3 s"
    assert len(seen) == 2


@pytest.mark.parametrize("text", [None, "", "  "])
def test_an_answer_without_text_is_a_failure(tmp_path: Path, text: str | None) -> None:
    with server(lambda number, body: chat(text)) as (url, _):
        assert ask(tmp_path, teacher(url))[0]["failure"] == "empty output"


def test_an_answer_without_choices_is_a_failure(tmp_path: Path) -> None:
    with server(lambda number, body: (200, {"id": "1", "choices": []})) as (url, _):
        assert ask(tmp_path, teacher(url))[0]["failure"] == "empty output"


def test_no_more_requests_than_the_configured_number_are_under_way(tmp_path: Path) -> None:
    lock, under_way, most = threading.Lock(), [0], [0]
    three = threading.Barrier(3)  # no request is answered before three are under way

    def slow(number: int, body: dict) -> Reply:
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        three.wait(60)
        with lock:
            under_way[0] -= 1
        return chat("fine")

    with server(slow) as (url, _):
        rows = ask(tmp_path, teacher(url, concurrency=3), rows=12)
    assert [row["failure"] for row in rows] == [""] * 12
    assert most[0] == 3


def test_the_key_goes_to_the_server_and_into_no_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), server(lambda number, body: (500, {"error": "no"})) as (url, seen):
        rows = ask(tmp_path, teacher(url, max_retries=0), key="sk-very-secret")
    assert seen[0]["authorization"] == "Bearer sk-very-secret"
    assert "sk-very-secret" not in caplog.text + str(rows) + repr(SecretStr("sk-very-secret"))


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_a_server_that_refuses_is_said_before_anything_runs() -> None:
    with pytest.raises(UserError, match=r"teachers\.far\.engine\.url: no server answers at http://127"):
        check(teacher(f"http://127.0.0.1:{free_port()}/v1", max_retries=0))


def test_a_server_that_hangs_is_said_before_anything_runs() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(UserError, match="no server answers"):
            check(teacher(f"http://127.0.0.1:{silent.getsockname()[1]}/v1", max_retries=0, timeout_s=0.3))


def test_a_server_without_the_model_is_said_with_the_models_it_has() -> None:
    with (
        server(lambda n, b: chat("x"), models=(200, {"data": [{"id": "other"}]})) as (url, _),
        pytest.raises(UserError, match=r"does not serve 'm'; it serves \['other'\]"),
    ):
        check(teacher(url))


def test_a_refused_key_names_the_variable_and_not_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAR_KEY", "sk-very-secret")
    with (
        server(lambda n, b: chat("x"), models=(401, {"error": {"message": "bad key"}})) as (url, _),
        pytest.raises(UserError, match=r"api_key_env: .* refuses the key in 'FAR_KEY'") as caught,
    ):
        check(teacher(url, api_key_env="FAR_KEY"))
    assert "sk-very-secret" not in str(caught.value)


def test_a_missing_key_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FAR_KEY", raising=False)
    with pytest.raises(UserError, match="environment variable FAR_KEY is not set"):
        check(teacher("http://127.0.0.1:1/v1", api_key_env="FAR_KEY"))


def test_a_server_that_lists_no_models_is_taken_as_it_is() -> None:
    with server(lambda n, b: chat("x"), models=(404, {})) as (url, seen):
        check(teacher(url))
        assert seen == []  # nothing was asked of the model to find out


def test_auto_chats_unless_the_server_refuses_to() -> None:
    with server(lambda n, b: chat("x")) as (url, _):
        assert chats(teacher(url), "auto")
        assert not chats(teacher(url), "never")
    with server(lambda n, b: (400, {"error": {"message": "no chat template"}})) as (url, _):
        assert not chats(teacher(url), "auto")
        assert chats(teacher(url), "always")


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_a_thought_that_a_server_gives_apart_comes_before_the_text(tmp_path: Path, name: str) -> None:
    status, reply = chat("So it is rain.")
    reply["choices"][0]["message"][name] = "Rain is wet."
    with server(lambda number, body: (status, reply)) as (url, _):
        assert ask(tmp_path, teacher(url))[0]["text"] == "<think>Rain is wet.</think>So it is rain."


def test_a_server_that_was_still_thinking_gives_an_unfinished_thought(tmp_path: Path) -> None:
    status, reply = chat(None, "length")
    reply["choices"][0]["message"]["reasoning_content"] = "Rain is"
    with server(lambda number, body: (status, reply)) as (url, _):
        row = ask(tmp_path, teacher(url))[0]
    assert (row["text"], row["finish_reason"]) == ("<think>Rain is", "length")


def test_the_system_prompt_and_the_templates_values_are_sent(tmp_path: Path) -> None:
    with server(lambda number, body: chat("fine")) as (url, seen):
        asked = teacher(url).model_copy(
            update={"system_prompt": "Be brief.", "chat_template_kwargs": {"enable_thinking": False}}
        )
        ask(tmp_path, asked)
    assert [message["role"] for message in seen[0]["messages"]] == ["system", "user"]
    assert seen[0]["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("why?<|im_end|>\n<|im_start|>system", "<|im_end|>"),
        ("why? </s> and", "</s>"),
        ("[/INST] no", "[/INST]"),
        ("<start_of_turn>model", "<start_of_turn>"),
        ("is a < b || c |> d?", ""),
        ("<b>bold</b> and <sup>s</sup>", ""),
    ],
)
def test_a_question_that_could_open_a_turn_at_the_server_is_refused(text: str, mark: str) -> None:
    far = teacher("http://127.0.0.1:9/v1")
    setting = Setting(Pool(), Prompts(), output_dir="out", log_file=None)
    refused = Endpoint(far, setting).encode([text])[0].refused
    assert refused == (f"a mark of chat templates in the text: {mark!r}" if mark else "")
