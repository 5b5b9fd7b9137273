"""Numbers: the answer is a value or an arithmetic expression, such as "42" or "( 84.0 / 2.0 )". Pure, without `eval`.

read("84 / 2 = 42. The answer is (84 / 2).", question) == "(84 / 2)", which is the same as "42"
"""

import math
import re

from tinyllm_ray.rows import Question
from tinyllm_ray.tasks.statements import before_new_question, statements

SCORINGS: tuple[str, ...] = ("generation",)
RELATIVE = 1e-6  # two values this close are the same
LONGEST = 200  # characters of an expression
_DEEPEST = 50  # open brackets
_LARGEST_POWER = 100
_SIGNS = str.maketrans({"−": "-", "–": "-", "×": "*", "·": "*", "÷": "/"})
_LATEX = (
    (re.compile(r"\\(?:left|right|,|;|!|:)|[$€£¥]|\\(?=[%$])|\\[()\[\]]"), ""),
    (re.compile(r"\\(?:times|cdot)\b"), "*"),
    (re.compile(r"\\div\b"), "/"),
    (re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), r"((\1)/(\2))"),
    (re.compile(r"\\(?:text|mathrm|mathbf)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"(?<=[\d)])\s*[xX]\s*(?=[\d(])"), " * "),
    (re.compile(r"(?<=\d),(?=\d{3}(?!\d))"), ""),
)
_RUN = re.compile(r"[-+]?\s*[\d(.][\d\s().+\-*/^eE]*")
_TWO_NUMBERS = re.compile(r"\d[\s)]*(?:[a-z]+\s+)?(?:and|or)\s+[($+-]*\d")
_SENTENCE = re.compile(r"[.!?](?:\s|$)|\n")
_NUMBER = re.compile(r"(?:(?<![\w)])(?<![\d)] )-)?(?:\d+(?:\.\d+)?|(?<!\d)\.\d+)(?:[eE][-+]?\d+)?")
_TOKEN = re.compile(r"\s*(?:(\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?)|(\*\*|[-+*/^()]))")


def problem(question: Question) -> str:
    if question.choices:
        return "a number has no choices; set dataset.task to choice"
    if value(question.answer) is None:
        return f"answer {question.answer[:80]!r} is neither a number nor an arithmetic expression"
    return ""


def show_choices(question: Question) -> str:
    return ""


def show_answer(question: Question) -> str:
    return question.answer


def student_text(question: Question) -> str:
    return f"{question.context}\n{question.question}" if question.context else question.question


def read(text: str, question: Question) -> str:
    """A text that is an expression, else that of the last statement ("the answer is ...", \\boxed{...}, "#### ..."),
    else the last number."""
    text = before_new_question(text)
    if value(text) is not None:
        return text
    stated = statements(text)
    for rest in stated:
        found = _expression(rest)
        if found:
            return found
    numbers = [] if stated else _NUMBER.findall(_plain(text))
    return next((found for found in reversed(numbers) if value(found) is not None), "")


def same(one: str, other: str) -> bool:
    a, b = value(one), value(other)
    return a is not None and b is not None and math.isclose(a, b, rel_tol=RELATIVE, abs_tol=1e-12)


def is_right(answer: str, question: Question) -> bool:
    return same(answer, question.answer)


def partial_scores(answer: str, question: Question) -> dict[str, float]:
    return {}


def value(expression: str) -> float | None:
    """The finite value of an arithmetic expression, or None where the text is none; "(2 + 3) * 4" -> 20.0."""
    tokens = _tokens(_plain(expression).strip().removesuffix("%"))
    if not tokens or tokens.count("(") > _DEEPEST:
        return None
    try:
        result = _sum(tokens)
    except (ArithmeticError, ValueError, IndexError):
        return None
    return result if not tokens and math.isfinite(result) else None


def _plain(text: str) -> str:
    """The same text with ASCII signs, without LaTeX, currencies and commas between thousands."""
    text = text.translate(_SIGNS)
    for pattern, replacement in _LATEX:
        text = pattern.sub(replacement, text)
    return text


def _expression(text: str) -> str:
    """The first expression of the text's first sentence, of an equation its last side; "" for "5 and 3"."""
    sentence = _SENTENCE.split(_plain(text[:LONGEST]), maxsplit=1)[0]
    if _TWO_NUMBERS.search(sentence):
        return ""
    for start in _RUN.finditer(sentence):
        sides = sentence[start.start() :].split("=")
        found = next((found for side in reversed(sides) if (found := _longest(side))), "")
        if found:
            return found
    return ""


def _longest(text: str) -> str:
    """The longest start of the text that is an expression."""
    match = _RUN.match(text.strip())
    run = match[0][:LONGEST] if match else ""
    return next((run[:end].strip() for end in range(len(run), 0, -1) if value(run[:end]) is not None), "")


def _tokens(text: str) -> list[str]:
    """Numbers, operators and brackets, the last first; empty where the text holds anything else."""
    tokens, position = [], 0
    text = text.rstrip()
    if len(text) > LONGEST:
        return []
    while position < len(text):
        match = _TOKEN.match(text, position)
        if not match:
            return []
        tokens.append(match[1] or match[2])
        position = match.end()
    return tokens[::-1]


def _sum(tokens: list[str]) -> float:
    result = _product(tokens)
    while tokens and tokens[-1] in "+-":
        result = result + _product(tokens) if tokens.pop() == "+" else result - _product(tokens)
    return result


def _product(tokens: list[str]) -> float:
    result = _signed(tokens)
    while tokens and tokens[-1] in ("*", "/"):
        result = result * _signed(tokens) if tokens.pop() == "*" else result / _signed(tokens)
    return result


def _signed(tokens: list[str]) -> float:
    sign = 1.0
    while tokens[-1] in ("+", "-"):
        sign = -sign if tokens.pop() == "-" else sign
    return sign * _power(tokens)


def _power(tokens: list[str]) -> float:
    base = _atom(tokens)
    if not tokens or tokens[-1] not in ("**", "^"):
        return base
    tokens.pop()
    exponent = _signed(tokens)
    if abs(exponent) > _LARGEST_POWER or (base < 0 and exponent != int(exponent)):
        raise ValueError("no such power is read")
    return base**exponent


def _atom(tokens: list[str]) -> float:
    token = tokens.pop()
    if token != "(":
        return float(token)
    result = _sum(tokens)
    if tokens.pop() != ")":
        raise ValueError("an open bracket")
    return result
