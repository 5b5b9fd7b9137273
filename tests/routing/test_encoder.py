"""Vectors of questions: by words, by a model of transformers, by the student."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny_teachers import save_llama

from tinyllm_ray.config import UserError, validate
from tinyllm_ray.routing.encoder import _word_vector, load_encoder, router_text, word_vectors
from tinyllm_ray.rows import Question


def quiet(done: int) -> None:
    pass


def with_encoder(name: str | None, student: str = "s"):
    return validate(
        {
            "name": "x",
            "dataset": {"name": "toy", "path": "data"},
            "student": {"model": student},
            "rationales": {"router": {"encoder": name, "max_tokens": 6}},
        }
    )


def test_a_text_is_the_sum_of_its_words_weighted_by_their_rarity() -> None:
    vectors = word_vectors(["What is iron?", "what is cork", "What, iron"])
    rare, common = math.log(3 / 1), math.log(3 / 2)
    assert vectors[1] == pytest.approx(common * _word_vector("is") + rare * _word_vector("cork"), abs=1e-6)
    assert vectors[2] == pytest.approx(common * _word_vector("iron"), abs=1e-6)


def test_a_text_without_words_is_the_zero_vector() -> None:
    assert not word_vectors(["?", "a"])[0].any()


def test_the_text_is_the_question_and_then_its_passage() -> None:
    assert router_text(Question("q", "Why?", ["a", "b"], "a")) == "Why?"
    assert router_text(Question("q", "Why?", [], "a", context="It rained.")) == "Why?\nIt rained."


def test_a_named_model_gives_the_mean_of_its_last_states(tmp_path: Path) -> None:
    encoder = load_encoder(with_encoder(save_llama(tmp_path)), tokenizer_folder="")
    texts = ["why is it so that rain falls", "why", "rain"]
    vectors = encoder.vectors(texts, advance=quiet)
    ids = encoder.encode(texts)
    assert len(ids[0]) == 6  # max_tokens
    for row, tokens in enumerate(ids):
        with torch.no_grad():
            alone = encoder.model(input_ids=torch.tensor([tokens])).last_hidden_state[0]
        assert vectors[row] == pytest.approx(alone.mean(0).numpy(), abs=1e-5)


def test_a_sentence_transformers_folder_that_says_so_gives_the_first_tokens_state(tmp_path: Path) -> None:
    folder = Path(save_llama(tmp_path))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    encoder = load_encoder(with_encoder(str(folder)), tokenizer_folder="")
    first = encoder.vectors(["why is it", "why does"], advance=quiet)
    assert np.allclose(first[0], first[1], atol=1e-5)  # a decoder's first state knows nothing of what follows


def test_an_encoder_that_cannot_be_loaded_is_one_message_with_its_key(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"rationales.router.encoder: .* cannot be loaded: .*leave the key out"):
        load_encoder(with_encoder(str(tmp_path)), tokenizer_folder="")
