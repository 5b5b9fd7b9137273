from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tinyllm_ray.data.token_spans import find_span, token_ends


def words(*pieces):
    """A text of the pieces, a token each, and where they end."""
    ends, text = [], ""
    for piece in pieces:
        text += piece
        ends.append(len(text))
    return text, ends


def byte_level():
    """A tokenizer whose tokens are bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(special_tokens=["</s>"], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([], trainer)
    return tokenizer


def test_a_character_of_several_tokens_ends_with_its_last_and_a_special_token_writes_nothing():
    tokenizer = byte_level()
    ids = [*tokenizer.encode("aéb").ids, 0]  # é is two bytes
    assert token_ends(tokenizer, ids) == ("aéb", [1, 1, 2, 3, 3])


def test_a_text_without_the_space_around_it_is_its_tokens_without_those_of_space_alone():
    text, ends = words("\n", " It", " is", " wet", ".", "\n")
    assert find_span(text, ends, "It is wet.") == (1, 5)
    assert find_span(text, ends, text.strip()) == (1, 5)


def test_the_last_of_several_places_is_meant():
    text, ends = words("cork", " or", " iron", ":", " cork", ".")
    assert find_span(text, ends, "cork") == (4, 5)


def test_a_part_that_ends_or_begins_within_a_token_has_no_tokens_of_its_own():
    text, ends = words("It", " is", " wet.Question", ":")
    assert find_span(text, ends, "It is wet.") is None
    assert find_span(text, ends, "Question") is None
    assert find_span(text, ends, "It is") == (0, 2)


def test_a_text_that_is_not_there_as_it_is_has_no_tokens():
    text, ends = words("<think>", "It", "</think>", " So")
    assert find_span(text, ends, "It\n\nSo") is None
    assert find_span(text, ends, "") is None
    assert find_span("", [], "It") is None


def test_a_part_may_begin_with_a_character_of_several_tokens():
    tokenizer = byte_level()
    text, ends = token_ends(tokenizer, tokenizer.encode("aéb").ids)
    assert find_span(text, ends, "éb") == (1, 4)
    text, ends = token_ends(tokenizer, tokenizer.encode("éb").ids)
    assert find_span(text, ends, "éb") == (0, 3)
