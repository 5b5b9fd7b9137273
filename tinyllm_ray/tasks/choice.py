"""Answers in free text: a model's text and the choices in, the choice that the text states out. Pure.

extract_answer("Wood floats. Thus, the answer is (b) cork", ["iron", "cork"]) == "cork"
"""

import re
import string
import unicodedata

MAX_CHOICES = len(string.ascii_lowercase)
_SAYS = r"(?:answers?|options?|choices?)\s*(?:(?:is|are|was|would be|will be|must be|should be)\b\s*:?|:)\s*"
_LETTER = r"(?:(?:option|choice|answer|letter)\s+)?[\[(\"'*]*([A-Za-z])(?:[\])\"'*]|[.,:;](?=\s|$)|\s*$|\s*\n)"
_STATED = re.compile(_SAYS + _LETTER, re.IGNORECASE)
_STATED_TEXT = re.compile(_SAYS, re.IGNORECASE)
_IS_CORRECT = re.compile(
    r"(?:\(([a-z])\)|\b(?:option|choice|answer)\s+\(?([a-z])\)?)\s+(?:is|are)\s+(?:therefore\s+)?"
    r"(?:the\s+)?(?:correct|right|best|answer)",
    re.IGNORECASE,
)
_STARTS_WITH_LETTER = re.compile(r"\(([A-Za-z])\)|([A-Za-z])(?:\)|[.:](?=\s|$)|$)")
_CHOICE_ENDS = re.compile(r"[\"')\]]*\s*[.,;:!?](?!\d)")
_ARTICLE = re.compile(r"^(?:a|an|the)\s+")
_NEW_QUESTION = re.compile(r"\n[#\s]*(?:Question|Q)\s*[\d.]*\s*:")


def letter(index: int) -> str:
    """0 -> "a"."""
    return string.ascii_lowercase[index]


def normalize(text: str) -> str:
    """What exact match compares: no case, one space, no leading article, no punctuation or quotes at the ends."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    bare = plain.lstrip("\"'“‘([").rstrip("\"'”’)].,;:!?")
    bare = _ARTICLE.sub("", bare).strip()
    return bare or plain


def extract_answer(text: str, choices: list[str]) -> str:
    """The choice that a text states, or "" where none can be read; a new question that follows is not read.

    The last plain statement counts ("the answer is (b)", "option b is correct"), then a text that starts with a
    letter or with a choice.
    """
    text = _NEW_QUESTION.split(text.strip(), maxsplit=1)[0].strip()
    stated = [(match.start(), _by_letter(match[1], choices)) for match in _STATED.finditer(text)]
    stated += [(match.start(), _by_text(text[match.end() :], choices)) for match in _STATED_TEXT.finditer(text)]
    stated += [(match.start(), _by_letter(match[1] or match[2], choices)) for match in _IS_CORRECT.finditer(text)]
    found = [(start, choice) for start, choice in stated if choice]
    if found:
        last = max(start for start, _ in found)
        return next(choice for start, choice in found if start == last)
    by_text = _by_text(text, choices)
    if by_text:
        return by_text
    match = _STARTS_WITH_LETTER.match(text)
    return _by_letter(match[1] or match[2], choices) if match else ""


def _by_letter(name: str, choices: list[str]) -> str:
    index = string.ascii_lowercase.index(name.lower())
    return choices[index] if index < len(choices) else ""


def _by_text(text: str, choices: list[str]) -> str:
    """The longest choice that the text starts with, followed by punctuation, a line's end or nothing."""
    head, first_line = normalize(text), normalize(text.partition("\n")[0])
    for choice in sorted(choices, key=len, reverse=True):
        name = normalize(choice)
        if name in (head, first_line):
            return choice
        if head.startswith(name) and _CHOICE_ENDS.match(head, len(name)):
            return choice
    return ""
