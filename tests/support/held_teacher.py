"""A teacher that answers some questions at once and the others when it is told to.

What a test does meanwhile is done in the middle of a generation for certain, however fast the machine is.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from support.fake_endpoint import Reply, chat, server
from support.small_experiment import PATIENCE_S

AT_ONCE, BATCH = 8, 8
# Questions are asked in the order of their batches, eight at once: the first batch is whole among the first 32 answers.
FREE = 32


@contextmanager
def held_teacher(free: int = FREE) -> Iterator[tuple[dict[str, Any], threading.Event]]:
    """Sections of an experiment with this one teacher; `set()` of the event lets it answer the rest."""
    go_on = threading.Event()

    def answer(number: int, request: dict) -> Reply:
        if number > free:
            go_on.wait()
        return chat("It is so. Thus, the answer is (a).")

    with server(answer) as (url, _):
        engine = {"type": "endpoint", "url": url, "concurrency": AT_ONCE, "timeout_s": PATIENCE_S}
        teacher = {"name": "one", "model": "m", "engine": engine, "batch_size": BATCH}
        prompts = {"chat_template": "always", "in_context": {"examples": 1}}
        try:
            yield {"teachers": [teacher], "prompts": prompts}, go_on
        finally:
            go_on.set()
