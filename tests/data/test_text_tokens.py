"""What a text holds is text: no special token is found in it, and ordinary texts are encoded as ever."""

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from tinyllm_ray.data.text_tokens import TextTokenizer, find_marks, text_tokenizer

TEXTS = ["the sun is warm", "  a  line\n\nand another", "Größe 東京 😀", "", " ", "<", "</", "a<b>c", "\ufdd04\ufdd1"]
SPECIAL = ["<pad>", "</s>", "<s>", "<|im_end|>"]


def unigram() -> Tokenizer:
    """As T5's: the special tokens are pieces of the vocabulary too, with the best scores of all."""
    letters = [(letter, -5.0) for letter in "▁abcdefghijklmnopqrstuvwxyz<>/|_"]
    made = Tokenizer(models.Unigram([*((mark, 0.0) for mark in SPECIAL), ("<unk>", 0.0), *letters], unk_id=4))
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    return made


def byte_level() -> Tokenizer:
    alphabet = {letter: number + 10 for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(vocab={**dict(zip(SPECIAL, range(4), strict=True)), **alphabet}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


def words() -> Tokenizer:
    vocabulary = {text: number for number, text in enumerate([*SPECIAL, "<unk>", "the", "sun", "is", "warm"])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made


def outside_the_vocabulary() -> Tokenizer:
    """As Llama 3's or Qwen's: the special tokens follow after the vocabulary."""
    alphabet = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


@pytest.fixture(params=[unigram, byte_level, words, outside_the_vocabulary], ids=lambda make: make.__name__)
def backend(request: pytest.FixtureRequest) -> Tokenizer:
    made = request.param()
    made.add_special_tokens([AddedToken(mark, special=True, normalized=mark == "</s>") for mark in SPECIAL])
    made.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(mark, made.token_to_id(mark)) for mark in ("<s>", "</s>")]
    )
    return made


def as_text(backend: Tokenizer, *, chat_template: str = "") -> TextTokenizer:
    made = text_tokenizer(backend, find_marks(backend, chat_template=chat_template))
    assert made is not None
    return made


def ids(tokenizer: TextTokenizer, text: str, *, special: bool = False) -> list[int]:
    return tokenizer.backend.encode(tokenizer.clean(text), add_special_tokens=special).ids


@pytest.mark.parametrize("text", TEXTS[:-1])
def test_an_ordinary_text_has_the_same_tokens(backend: Tokenizer, text: str) -> None:
    made = as_text(backend)
    assert ids(made, text) == backend.encode(text, add_special_tokens=False).ids
    assert ids(made, text, special=True) == backend.encode(text).ids


@pytest.mark.parametrize("mark", [*SPECIAL, "\ufdd04\ufdd1", "＜/s＞"])
def test_no_text_has_a_special_token(backend: Tokenizer, mark: str) -> None:
    special = {backend.token_to_id(name) for name in SPECIAL}
    for text in (mark, f"the sun{mark}", f"{mark}{mark} is warm", f"the {mark} sun"):
        assert not special & set(ids(as_text(backend), text)), text


def test_a_byte_level_text_with_a_mark_is_read_back_as_it_was() -> None:
    backend = byte_level()
    backend.add_special_tokens([AddedToken(mark, special=True) for mark in SPECIAL])
    text = "a</s>b<|im_end|>\n"
    assert backend.decode(ids(as_text(backend), text)) == text


def test_a_token_that_the_chat_template_writes_is_a_mark_and_another_is_a_word(backend: Tokenizer) -> None:
    thinks = backend.token_to_id("<think>")
    assert thinks in ids(as_text(backend), "<think>")
    assert thinks not in ids(as_text(backend, chat_template="{{ '<think>' }}"), "<think>")


def test_the_templates_own_marks_count_and_those_of_the_text_do_not(backend: Tokenizer) -> None:
    made = as_text(backend)
    end = backend.token_to_id("<|im_end|>")
    prompt = made.arm(f"<s>{made.hide('is it <|im_end|> <s>?')}<|im_end|>")
    found = made.backend.encode(prompt, add_special_tokens=False).ids
    assert (found[0], found[-1]) == (backend.token_to_id("<s>"), end)
    assert (found.count(end), found.count(found[0])) == (1, 1)
    plain = made.arm(f"<s>{made.hide('is it so')}<|im_end|>")
    expected = backend.encode("<s>is it so<|im_end|>", add_special_tokens=False).ids
    assert made.backend.encode(plain, add_special_tokens=False).ids == expected
