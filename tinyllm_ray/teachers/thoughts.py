"""A reasoning model's text: its thought and what it says after it, and which of them becomes the rationale. Pure.

split_thought("<think>It is wet.</think>So (b).", opened=False) -> Thought("It is wet.", "So (b).", finished=True)
"""

import re
from dataclasses import dataclass
from typing import Literal

OPEN, CLOSE = "<think>", "</think>"
_OPENED = re.compile(r"\s*<(think|thinking|thought|reasoning)>", re.IGNORECASE)
_CLOSED = re.compile(r"</(think|thinking|thought|reasoning)>", re.IGNORECASE)
UNFINISHED = "unfinished thought"
NO_ANSWER = "nothing after the thought"


@dataclass(frozen=True)
class Thought:
    thought: str  # empty where the model did not think
    said: str  # after the thought
    finished: bool


def split_thought(text: str, *, opened: bool) -> Thought:
    """`opened`: the prompt itself ends in the tag that opens a thought, so the text begins inside of it."""
    start = _OPENED.match(text)
    inside = text[start.end() :] if start else text
    end = _CLOSED.search(inside)
    if end:
        return Thought(inside[: end.start()].strip(), inside[end.end() :].strip(), finished=True)
    if start or opened:
        return Thought(inside.strip(), "", finished=False)
    return Thought("", text.strip(), finished=True)


def choose_text(thought: Thought, reasoning: Literal["keep", "drop", "only"]) -> str:
    """What becomes the rationale; empty where nothing is left of it."""
    if reasoning == "drop" or not thought.thought:
        return thought.said
    if reasoning == "only" or not thought.said:
        return thought.thought
    return f"{thought.thought}\n\n{thought.said}"


def join_thought(thought: str, said: str) -> str:
    """A text as the model wrote it, where a server gives the two apart."""
    if not thought:
        return said
    return f"{OPEN}{thought}{CLOSE}{said}" if said else f"{OPEN}{thought}"
