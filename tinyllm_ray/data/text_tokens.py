"""Users' text as tokens: a tokenizer in, a copy out that finds no special token in a text, whatever the text holds.

A question that holds "</s>" or "<|im_end|>" would otherwise end a text or open a turn of a chat. In the copy each of
these marks has a name that no text can hold, so the text's own "</s>" is read letter by letter.
"""

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Unicode keeps these code points for a program's own use and out of texts; one that is in a text is replaced.
_OPEN, _CLOSE, _OPEN_TEXT, _CLOSE_TEXT = "\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3"
_OWN = re.compile("[\ufdd0-\ufdef]")


@dataclass(frozen=True)
class TextTokenizer:
    """The copy, and the marks by their ids. A prompt that a chat template makes goes `hide`, template, `arm`."""

    backend: "Tokenizer"
    marks: Mapping[int, str]

    def clean(self, text: str) -> str:
        """A text of a user's as it may be encoded."""
        return _OWN.sub("\ufffd", text)

    def hide(self, text: str) -> str:
        """The text with its marks out of the way of a template, which writes marks of its own around it."""
        return self._pattern.sub(lambda found: self._name(found[0], _OPEN_TEXT, _CLOSE_TEXT), self.clean(text))

    def arm(self, rendered: str) -> str:
        """What a template made of hidden texts, for `backend`: its own marks count, those of the texts do not."""
        armed = self._pattern.sub(lambda found: self._name(found[0], _OPEN, _CLOSE), rendered)
        return re.sub(f"{_OPEN_TEXT}(\\d+){_CLOSE_TEXT}", lambda found: self.marks[int(found[1])], armed)

    @property
    def _pattern(self) -> re.Pattern[str]:
        return _pattern(tuple(self.marks.values()))

    def _name(self, mark: str, before: str, after: str) -> str:
        number = next(number for number, text in self.marks.items() if text == mark)
        return f"{before}{number}{after}"


def find_marks(backend: "Tokenizer", *, chat_template: str = "") -> dict[int, str]:
    """The special tokens, and those others that the chat template writes, such as <think>, by their ids."""
    return {
        number: token.content
        for number, token in backend.get_added_tokens_decoder().items()
        if token.content.strip() and (token.special or (token.content in chat_template and not token.content.isalnum()))
    }


def text_tokenizer(backend: "Tokenizer", marks: Mapping[int, str]) -> TextTokenizer | None:
    """None where the copy would not have the same tokens."""
    from tokenizers import Tokenizer

    spec = json.loads(backend.to_str())
    names = {number: f"{_OPEN}{number}{_CLOSE}" for number in marks}
    for token in spec["added_tokens"]:
        if token["id"] in names:
            token |= {"content": names[token["id"]], "normalized": False}
    _rename(spec["model"], names)
    try:
        copy = Tokenizer.from_str(json.dumps(spec))
    except Exception:  # noqa: BLE001 - the library in Rust raises Exception itself
        return None
    if any(copy.token_to_id(name) != number for number, name in names.items()):
        return None
    copy.no_truncation()
    copy.no_padding()
    return TextTokenizer(copy, dict(marks))


def _rename(model: dict[str, Any], names: Mapping[int, str]) -> None:
    """The marks are in most vocabularies too, where a text could still come upon them."""
    if isinstance(model["vocab"], list):  # Unigram: [[piece, score], ...] by id
        for number, name in names.items():
            if number < len(model["vocab"]):
                model["vocab"][number][0] = name
        return
    old = {number: piece for piece, number in model["vocab"].items() if number in names}
    model["vocab"] = {names.get(number, piece): number for piece, number in model["vocab"].items()}
    for number, piece in old.items():
        if model.get("unk_token") == piece:
            model["unk_token"] = names[number]


@functools.lru_cache(maxsize=16)
def _pattern(marks: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(marks, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
