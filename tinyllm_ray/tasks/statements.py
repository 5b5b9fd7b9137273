"""Where a free text states its answer: shared by the kinds of task. Pure."""

import re

REST = 2000  # characters in which an answer is looked for; texts may be of any length
MOST = 200  # statements of one text that are looked at, the last ones
SAYS = r"(?:answers?|options?|choices?)\s*(?:(?:is|are|was|would be|will be|must be|should be)\b\s*:?|:)\s*"
_ANSWER_IS = re.compile(SAYS, re.IGNORECASE)
_MARKED = re.compile(r"^[ \t]*#{4}[ \t]*", re.MULTILINE)  # GSM8K's mark of the final answer
_BOXED = re.compile(r"\\boxed\s*\{")
_NEW_QUESTION = re.compile(r"\n[#\s]{0,9}(?:Question|Q|Premise|Passage)\s*[\d.]*\s*:")
_NEW_QUESTION_INSIDE = re.compile(r"(?<=\S)\s+(?:question|premise)\s*:", re.IGNORECASE)
_MARKUP = re.compile(r"\*\*|__(?=\S)|(?<=\S)__")


def before_new_question(text: str) -> str:
    """The text up to where a model goes on with another question: on a line of its own, or after a stated answer."""
    head = _NEW_QUESTION.split(text.strip(), maxsplit=1)[0].strip()
    stated = [match.end() for pattern in (_ANSWER_IS, _MARKED, _BOXED) if (match := pattern.search(head))]
    other = _NEW_QUESTION_INSIDE.search(head, min(stated)) if stated else None
    return head[: other.start()] if other else head


def statements(text: str) -> list[str]:
    """What follows each place where the text states its answer, at most REST characters, the last place first.

    "The answer is 4. So the answer is 5." -> ["5.", "4. So the answer is 5."]
    """
    plain = _MARKUP.sub("", text)
    patterns = ((_ANSWER_IS, after), (_MARKED, after), (_BOXED, _braced))
    found = [(match, rest_of) for pattern, rest_of in patterns for match in pattern.finditer(plain)]
    last = sorted(found, key=lambda item: -item[0].start())[:MOST]
    return [rest_of(match) for match, rest_of in last]


def after(match: re.Match[str]) -> str:
    return match.string[match.end() : match.end() + REST]


def _braced(match: re.Match[str]) -> str:
    """What stands before the brace that closes the one that the match opens."""
    text, depth = after(match), 1
    for index, character in enumerate(text):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if not depth:
            return text[:index]
    return text
