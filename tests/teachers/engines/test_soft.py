"""The tokens that are kept of a text: those that write it, whatever was cut from it."""

import numpy as np
import pytest
from support.tiny_teachers import save_tokenizer
from transformers import AutoTokenizer

from tinyllm_ray.rows import Outcome
from tinyllm_ray.schema import EndpointSettings, Teacher
from tinyllm_ray.teachers.engines.base import cut_at_stop, failed
from tinyllm_ray.teachers.engines.soft import likeliest, may_write, teacher_vocabulary, with_soft_targets

END, K = 1, 3


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


def kept(tokenizer, ids, text, failure=""):
    """The outcome of generated ids whose text became `text`; top ids say which token they are of."""
    made = failed(failure) if failure else Outcome(text, "stop", "", 1, len(ids))
    top = np.arange(len(ids) * K).reshape(-1, K)
    return with_soft_targets(made, tokenizer, ids, top_ids=top, top_logprobs=-top.astype(np.float32))


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_whole_text_keeps_all_its_tokens_and_its_end(tokenizer):
    ids = [*ids_of(tokenizer, "the rain falls"), END]
    found = kept(tokenizer, ids, "the rain falls")
    assert found.token_ids.tolist() == ids
    assert found.token_ends[-1] == found.token_ends[-2] == len("the rain falls")
    assert found.top_ids.tolist() == list(range(len(ids) * K))
    assert found.top_logprobs.dtype == np.float16 and len(found.top_logprobs) == len(ids) * K


def test_a_text_that_ran_out_of_tokens_has_no_end(tokenizer):
    ids = ids_of(tokenizer, "the rain")
    assert kept(tokenizer, ids, "the rain").token_ids.tolist() == ids


@pytest.mark.parametrize(
    ("text", "stop"), [("the rain falls\nQuestion: why", "\nQuestion:"), ("the sun\n\nso", "\n\n")]
)
def test_a_text_cut_at_a_stop_keeps_the_tokens_before_it_and_no_end(tokenizer, text, stop):
    from tinyllm_ray.schema import Sampling

    cut = cut_at_stop(text, Sampling(stop=[stop]))
    ids = [*ids_of(tokenizer, text), END]
    found = kept(tokenizer, ids, cut)
    assert tokenizer.decode(found.token_ids) == cut
    assert found.token_ends[-1] == len(cut)
    assert found.token_ids.tolist() == ids[: len(found.token_ids)]


def test_nothing_is_kept_of_a_text_that_ends_within_a_token(tokenizer):
    ids = ids_of(tokenizer, "the rain")
    assert tokenizer.decode(ids[-1:]) == " rain"  # one token
    assert len(kept(tokenizer, ids, "the ra").token_ids) == 0
    assert tokenizer.decode(kept(tokenizer, ids, "the").token_ids) == "the"


def test_nothing_is_kept_of_failures_of_changed_texts_and_around_special_tokens(tokenizer):
    ids = ids_of(tokenizer, "the rain")
    assert len(kept(tokenizer, ids, "", failure="empty output").token_ids) == 0
    assert len(kept(tokenizer, ids, "the ***").token_ids) == 0  # a secret was blanked
    assert len(kept(tokenizer, [ids[0], END, *ids[1:]], "the rain").token_ids) == 0


def test_half_a_character_at_the_end_is_not_kept(tokenizer):
    whole = ids_of(tokenizer, "the é")
    found = kept(tokenizer, whole[:-1], "the ")
    assert tokenizer.decode(found.token_ids).strip() == "the"


def test_the_likeliest_come_in_their_order_whatever_order_they_are_given_in():
    assert likeliest([(9, -3.0), (4, -0.5), (7, -float("inf")), (2, -1.0)], 3) == ([4, 2, 9], [-0.5, -1.0, -3.0])


def test_ids_may_write_a_text_that_is_cut_and_not_another_one(tokenizer):
    ids = ids_of(tokenizer, "the rain falls")
    assert may_write(tokenizer, [*ids, END], "the rain falls") and may_write(tokenizer, ids, "the")
    assert not may_write(tokenizer, ids, "<think>the rain") and not may_write(tokenizer, ids[1:], "the rain")
    assert may_write(tokenizer, [END, *ids], "whatever the server makes of special tokens")


def test_the_tokenizer_of_a_served_model_is_the_one_that_the_engine_names(tmp_path):
    save_tokenizer(tmp_path)
    engine = EndpointSettings(type="endpoint", url="http://h/v1", tokenizer=str(tmp_path))
    vocabulary = teacher_vocabulary(Teacher(name="t", model="served", engine=engine, soft_targets={}))
    assert (len(vocabulary), vocabulary["</s>"]) == (300, END)
    named = Teacher(name="t", model=str(tmp_path), engine=EndpointSettings(type="endpoint", url="http://h/v1"))
    assert teacher_vocabulary(named) == vocabulary
