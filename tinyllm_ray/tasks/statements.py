"""Where a free text states its answer: shared by the kinds of task. Pure."""

import re

SAYS = r"(?:answers?|options?|choices?)\s*(?:(?:is|are|was|would be|will be|must be|should be)\b\s*:?|:)\s*"
_ANSWER_IS = re.compile(SAYS, re.IGNORECASE)
_MARKED = re.compile(r"^[ \t]*#{4}[ \t]*", re.MULTILINE)  # GSM8K's mark of the final answer
_BOXED = re.compile(r"\\boxed\s*\{")
_NEW_QUESTION = re.compile(r"\n[#\s]*(?:Question|Q|Premise|Passage)\s*[\d.]*\s*:")
_NEW_QUESTION_INSIDE = re.compile(r"(?<=\S)\s+(?:question|premise)\s*:", re.IGNORECASE)
_MARKUP = re.compile(r"\*\*|__(?=\S)|(?<=\S)__")


def before_new_question(text: str) -> str:
    """The text up to where a model goes on with another question: on a line of its own, or after a stated answer."""
    head = _NEW_QUESTION.split(text.strip(), maxsplit=1)[0].strip()
    for match in _NEW_QUESTION_INSIDE.finditer(head):
        if statements(head[: match.start()]):
            return head[: match.start()]
    return head


def statements(text: str) -> list[str]:
    """What follows each place where the text states its answer, the last place first.

    "The answer is 4. So the answer is 5." -> ["5.", "4. So the answer is 5."]
    """
    plain = _MARKUP.sub("", text)
    starts = [(match.start(), plain[match.end() :]) for match in _ANSWER_IS.finditer(plain)]
    starts += [(match.start(), plain[match.end() :]) for match in _MARKED.finditer(plain)]
    starts += [(match.start(), _braced(plain[match.end() :])) for match in _BOXED.finditer(plain)]
    return [rest for _, rest in sorted(starts, reverse=True)]


def _braced(text: str) -> str:
    """What stands before the brace that closes an open one."""
    depth = 1
    for index, character in enumerate(text):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if not depth:
            return text[:index]
    return text
