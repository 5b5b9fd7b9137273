"""Soft targets from small real servers that give them, give others or give none; a real one is in tests/integration."""

import asyncio
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from support.fake_endpoint import Reply, chat, server
from support.prompt_files import prompt_file
from support.tiny_teachers import save_tokenizer

from tinyllm_ray.config import UserError
from tinyllm_ray.schema import EndpointSettings, Pool, Prompts, Teacher
from tinyllm_ray.teachers.engines.base import Setting
from tinyllm_ray.teachers.engines.endpoint import Endpoint, EndpointActor
from tinyllm_ray.teachers.engines.endpoint_answers import LOGPROB_BYTES
from tinyllm_ray.teachers.engines.endpoint_checks import check_logprobs
from tinyllm_ray.teachers.engines.endpoint_requests import read_key
from tinyllm_ray.teachers.engines.soft import teacher_tokenizer

TEXT, K, END = "the rain", 2, 1
PLACES = [  # of the two tokens of TEXT, A and B; B is written although two others are likelier
    {"A": -0.5, 7: -1.5},
    {"B": -3.0, 8: -0.25, 9: -2.0},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    made = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(made)
    return str(made)


def teacher(url: str, folder: str, *, top_k: int = K, **settings: Any) -> Teacher:
    engine = {"type": "endpoint", "url": url, "tokenizer": folder, "max_retries": 0, "timeout_s": 30} | settings
    return Teacher(name="far", model="m", engine=engine, soft_targets={"top_k": top_k})


def ids_of(folder: str, text: str = TEXT) -> list[int]:
    return teacher_tokenizer(teacher("http://h/v1", folder))(text, add_special_tokens=False)["input_ids"]


def places(folder: str) -> tuple[list[int], list[dict[int, float]]]:
    """The ids of TEXT, and how likely a server says that those and others are at each place."""
    ids = ids_of(folder)
    named = dict(zip("AB", ids, strict=True))
    return ids, [{named.get(token, token): value for token, value in place.items()} for place in PLACES]


def completion(folder: str, change: Callable[[dict], None] = lambda logprobs: None) -> Reply:
    """A completion of TEXT as vLLM's server gives it, after a change of its log-probabilities."""
    ids, tops = places(folder)
    logprobs = {
        "tokens": [f"token_id:{token}" for token in ids],
        "top_logprobs": [{f"token_id:{token}": value for token, value in top.items()} for top in tops],
    }
    change(logprobs)
    choice = {"index": 0, "text": TEXT, "finish_reason": "stop", "logprobs": logprobs}
    return 200, {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": len(ids)}}


def chatted(folder: str, change: Callable[[list], None] = lambda content: None) -> Reply:
    """The same as a chat, where the token that was written stands in for the last of the likeliest."""
    ids, tops = places(folder)
    content = [
        {
            "token": f"token_id:{token}",
            "top_logprobs": [{"token": f"token_id:{i}", "logprob": value} for i, value in list(top.items())[:K]],
        }
        for token, top in zip(ids, tops, strict=True)
    ]
    change(content)
    status, reply = chat(TEXT)
    reply["choices"][0]["logprobs"] = {"content": content}
    reply["usage"]["completion_tokens"] = len(ids)
    return status, reply


def ask(files: Path, asked: Teacher, *, is_chat: bool) -> dict:
    prompts, settings = prompt_file(files, rows=1), asked.engine
    assert isinstance(settings, EndpointSettings)

    async def run() -> pa.Table:
        tokenizer = teacher_tokenizer(asked)
        key = read_key(asked, settings)
        actor = EndpointActor(
            teacher=asked, settings=settings, key=key, chat=is_chat, tokenizer=tokenizer, log_file=None
        )
        return await actor(prompts)

    return asyncio.run(run()).to_pylist()[0]


def test_the_likeliest_of_a_completion_are_kept_without_the_written_token_that_is_none_of_them(
    folder: str, tmp_path: Path
) -> None:
    with server(lambda number, body: completion(folder)) as (url, seen):
        row = ask(tmp_path, teacher(url, folder), is_chat=False)
    first, second = ids_of(folder)
    assert (row["text"], row["failure"], row["token_ids"]) == (TEXT, "", [first, second])
    assert row["top_ids"] == [first, 7, 8, 9]
    assert row["top_logprobs"] == [-0.5, -1.5, -0.25, -2.0]  # all exact in float16
    assert row["token_ends"] == [3, 8]
    assert (seen[0]["logprobs"], seen[0]["return_tokens_as_token_ids"]) == (K, True)


def test_a_chat_gives_the_written_token_among_its_likeliest(folder: str, tmp_path: Path) -> None:
    with server(lambda number, body: chatted(folder)) as (url, seen):
        row = ask(tmp_path, teacher(url, folder), is_chat=True)
    first, second = ids_of(folder)
    assert (row["token_ids"], row["top_ids"]) == ([first, second], [first, 7, 8, second])
    assert row["top_logprobs"] == [-0.5, -1.5, -0.25, -3.0]
    assert (seen[0]["logprobs"], seen[0]["top_logprobs"]) == (True, K)


def test_an_end_token_is_kept_and_a_token_that_cannot_come_has_no_probability(folder: str, tmp_path: Path) -> None:
    def change(logprobs: dict) -> None:
        logprobs["tokens"].append(f"token_id:{END}")
        logprobs["top_logprobs"].append({f"token_id:{END}": 0.0, "token_id:5": -9999.0})

    def answer(number: int, body: dict) -> Reply:
        status, reply = completion(folder, change)
        reply["usage"]["completion_tokens"] = 3
        return status, reply

    with server(answer) as (url, _):
        row = ask(tmp_path, teacher(url, folder), is_chat=False)
    assert row["token_ids"] == [*ids_of(folder), END]
    assert (row["top_ids"][-2:], row["top_logprobs"][-2:]) == ([END, 5], [0.0, -math.inf])


def test_ids_beyond_the_tokenizer_are_kept_as_other_engines_keep_them(folder: str, tmp_path: Path) -> None:
    """A model may have room for more tokens than its tokenizer knows."""

    def change(logprobs: dict) -> None:
        logprobs["top_logprobs"][0] = {"token_id:310": -0.5, "token_id:2147483647": -1.5}

    with server(lambda number, body: completion(folder, change)) as (url, _):
        row = ask(tmp_path, teacher(url, folder), is_chat=False)
    assert row["top_ids"][:K] == [310, 2**31 - 1]


def put(name: str, value: Any) -> Callable[[dict], None]:
    return lambda logprobs: logprobs.update({name: value})


def put_top(top: Any) -> Callable[[dict], None]:
    return lambda logprobs: logprobs["top_logprobs"].__setitem__(0, top)


def with_value(value: Any) -> Callable[[dict], None]:
    return put_top({"token_id:5": value, "token_id:6": -2.0})


def with_token(token: Any) -> Callable[[dict], None]:
    return lambda logprobs: logprobs["tokens"].__setitem__(0, token)


NO_NUMBER, NO_ID = "for a log-probability, which is a number of at most 0", "endpoint gives no token ids: a token is"


@pytest.mark.parametrize(
    ("change", "failure"),
    [
        (put("tokens", None), "`tokens` is NoneType"),
        (put("tokens", "abc"), "`tokens` is str"),
        (put("tokens", []), "endpoint gives 2 `top_logprobs` for 0 `tokens`"),
        (put("top_logprobs", None), "`top_logprobs` is NoneType"),
        (put("top_logprobs", [{}]), "endpoint gives 1 `top_logprobs` for 2 `tokens`"),
        (lambda logprobs: [logprobs[name].pop() for name in logprobs], "log-probabilities of 1 tokens, and it wrote 2"),
        (put_top(None), "endpoint gives NoneType among `top_logprobs`"),
        (put_top([["token_id:5", -0.5]]), "endpoint gives list among `top_logprobs`"),
        (put_top({}), "endpoint gives 0 log-probabilities for a token, and 2 were asked for"),
        (put_top({"token_id:5": -0.5}), "endpoint gives 1 log-probabilities for a token, and 2 were asked for"),
        (put_top({"token_id:5": -0.5, "token_id:05": -1.5}), "a token twice among the likeliest"),
        (put_top({"token_id:5": -0.1, "token_id:6": -0.1}), "whose probabilities add up to 1.810"),  # 2 exp(-0.1)
        (put_top({" the": -0.5, " rain": -1.5}), f"{NO_ID} ' the', not 'token_id:NUMBER'"),
        (with_value(math.nan), f"endpoint gives nan {NO_NUMBER}"),
        (with_value(math.inf), f"endpoint gives inf {NO_NUMBER}"),
        (with_value(0.5), f"endpoint gives 0.5 {NO_NUMBER}"),
        (with_value(10**400), NO_NUMBER),
        (with_value("-0.5"), f"endpoint gives '-0.5' {NO_NUMBER}"),
        (with_value(None), f"endpoint gives None {NO_NUMBER}"),
        (with_value(True), f"endpoint gives True {NO_NUMBER}"),
        (with_value({"logprob": -0.5}), NO_NUMBER),
        (with_token(" the"), NO_ID),
        (with_token(5), NO_ID),
        (with_token(None), NO_ID),
        (with_token("token_id:-1"), NO_ID),
        (with_token("token_id:2147483648"), NO_ID),
        (with_token("token_id:" + "9" * 5000), NO_ID),
        (with_token("token_id:1.5"), NO_ID),
        (with_token("token_id:٣"), NO_ID),
    ],
)
def test_log_probabilities_that_cannot_be_fail_their_row(
    change: Callable[[dict], None], failure: str, folder: str, tmp_path: Path
) -> None:
    with server(lambda number, body: completion(folder, change)) as (url, _):
        row = ask(tmp_path, teacher(url, folder), is_chat=False)
    assert failure in row["failure"]
    assert (row["text"], row["token_ids"], row["top_ids"]) == ("", [], [])


@pytest.mark.parametrize(
    ("change", "failure"),
    [
        (lambda content: content.__setitem__(0, None), "endpoint gives NoneType where `top_logprobs` is looked for"),
        (lambda content: content[0].update(top_logprobs={}), "`top_logprobs` is dict"),
        (lambda content: content[0].update(top_logprobs=[3, 4]), "endpoint gives int where `token` is looked for"),
        (lambda content: content[0].update(token=None), NO_ID),
        (lambda content: content[0]["top_logprobs"].append(content[0]["top_logprobs"][0]), "a token twice"),
        (lambda content: content[0]["top_logprobs"].pop(), "endpoint gives 1 log-probabilities"),
        (lambda content: content.clear(), "log-probabilities of 0 tokens, and it wrote 2"),
    ],
)
def test_a_chats_log_probabilities_that_cannot_be_fail_their_row(
    change: Callable[[list], None], failure: str, folder: str, tmp_path: Path
) -> None:
    with server(lambda number, body: chatted(folder, change)) as (url, _):
        assert failure in ask(tmp_path, teacher(url, folder), is_chat=True)["failure"]


def test_more_than_was_asked_for_is_cut_to_the_likeliest(folder: str, tmp_path: Path) -> None:
    def change(content: list) -> None:
        content[0]["top_logprobs"][-1]["logprob"] = -3.0
        content[0]["top_logprobs"] += [{"token": "token_id:11", "logprob": -1.25}]

    with server(lambda number, body: chatted(folder, change)) as (url, _):
        row = ask(tmp_path, teacher(url, folder), is_chat=True)
    assert row["top_ids"][:K] == [ids_of(folder)[0], 11]


@pytest.mark.parametrize("logprobs", [None, [], "x", 3])
def test_an_answer_without_log_probabilities_fails_its_row(logprobs: Any, folder: str, tmp_path: Path) -> None:
    def answer(number: int, body: dict) -> Reply:
        status, reply = completion(folder)
        reply["choices"][0]["logprobs"] = logprobs
        return status, reply

    with server(answer) as (url, _):
        row = ask(tmp_path, teacher(url, folder), is_chat=False)
    assert row["failure"].startswith("endpoint gives no log-probabilities: `logprobs` is ")


def check(asked: Teacher, chat_template: str = "never") -> None:
    prompts = Prompts(chat_template=chat_template)
    Endpoint(asked, Setting(Pool(), prompts, output_dir="out", log_file=None)).check()


def test_a_server_that_gives_ids_passes_the_check_in_both_forms(folder: str) -> None:
    with server(lambda number, body: completion(folder)) as (url, seen):
        check(teacher(url, folder))
    assert (len(seen), seen[0]["max_tokens"]) == (1, 16)
    with server(lambda number, body: chatted(folder)) as (url, seen):
        check(teacher(url, folder), "auto")
    assert ["top_logprobs" in request for request in seen] == [False, True]  # does it chat; does it give ids


def refused(answer: Callable[[int, dict], Reply], folder: str, **changes: Any) -> str:
    with server(answer) as (url, _), pytest.raises(UserError) as caught:
        check(teacher(url, folder, **changes))
    return str(caught.value)


def test_a_server_that_gives_texts_for_tokens_is_refused_with_what_it_gave_and_what_to_do(folder: str) -> None:
    said = refused(lambda number, body: completion(folder, put("tokens", [" the", " rain"])), folder)
    assert said.startswith("teachers.far.soft_targets: http://127.0.0.1:")
    assert "does not give them: endpoint gives no token ids: a token is ' the', not 'token_id:NUMBER'" in said
    assert "set teachers.far.soft_targets.top_k lower or teachers.far.engine.type to vllm, or leave" in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "Unrecognized request argument supplied: return_tokens_as_token_ids"),
        (400, "Requested sample logprobs of 2, which is greater than max allowed: 1"),
        (422, "extra fields not permitted"),
        (500, "create() got an unexpected keyword argument 'return_tokens_as_token_ids'"),
    ],
)
def test_a_server_that_refuses_the_request_is_quoted(status: int, message: str, folder: str) -> None:
    said = refused(lambda number, body: (status, {"error": {"message": message}}), folder)
    assert f"does not give them: endpoint answered {status}: {message}. They need a server" in said


def test_a_server_that_is_busy_is_asked_row_by_row(folder: str) -> None:
    with server(lambda number, body: (503, {"error": {"message": "no room"}})) as (url, seen):
        check(teacher(url, folder))
    assert seen  # it was asked, and what it said is no fault of the experiment


def test_the_tokenizer_of_another_model_is_found_out(folder: str, tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    held = json.loads((tmp_path / "tokenizer.json").read_text())
    vocabulary = held["model"]["vocab"]
    names = {number: token for token, number in vocabulary.items()}
    first, second = ids_of(folder)
    vocabulary[names[first]], vocabulary[names[second]] = second, first
    (tmp_path / "tokenizer.json").write_text(json.dumps(held))
    said = refused(lambda number, body: completion(folder), str(tmp_path))
    assert said.startswith("teachers.far.engine.tokenizer: the token ids that http://127.0.0.1:")
    assert f"for the text 'the rain' do not write it by the tokenizer of {tmp_path}" in said


def test_a_served_model_whose_tokenizer_is_not_named_is_asked_for_it() -> None:
    asked = Teacher(
        name="far", model="./served", engine={"type": "endpoint", "url": "http://127.0.0.1:9/v1"}, soft_targets={}
    )
    with pytest.raises(UserError, match=r"teachers\.far\.engine\.tokenizer: .*name the folder or hub id of the model"):
        check(asked)


def test_an_answer_that_would_be_too_large_is_said_before_anything_is_asked(folder: str) -> None:
    """4,000 tokens, 21 of each and 45 bytes for one of a completion: 3.6 MiB."""
    asked = teacher("http://127.0.0.1:9/v1", folder, top_k=20, max_answer_mib=3)
    asked = asked.model_copy(update={"sampling": asked.sampling.model_copy(update={"max_tokens": 4000})})
    assert isinstance(asked.engine, EndpointSettings)
    with pytest.raises(UserError, match=r"max_answer_mib is 3, but .*top_k 20 may have 4 MiB; set it so"):
        check_logprobs(asked, asked.engine, chat=False)


def test_the_most_that_an_answer_may_have_is_no_less_than_what_vllm_writes() -> None:
    """One of the likeliest as JSON, with a long id and all digits of a number."""
    token, value = "token_id:199999", float(-np.float32(12.345679))
    one = {"token": token, "logprob": value, "bytes": list(token.encode())}
    assert len(json.dumps(one, separators=(",", ":"))) + 1 <= LOGPROB_BYTES[True]
    assert len(json.dumps({token: value}, separators=(",", ":"))) <= LOGPROB_BYTES[False]
