"""Which tokens of a generated text write a part of it: token ids in, the text and where each token ends in it out.

A token's end is the number of characters of the text that are written once it is there; a token that is only a part of
a character writes none. token_ends(tokenizer, [It, _is, _wet, </s>]) -> "It is wet", [2, 5, 9, 9]
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def token_ends(backend: "Tokenizer", ids: Sequence[int]) -> tuple[str, list[int]]:
    from tokenizers.decoders import DecodeStream

    stream, text, ends = DecodeStream(skip_special_tokens=True), "", []
    for token in ids:
        text += stream.step(backend, token) or ""
        ends.append(len(text))
    return text, ends


def find_span(text: str, ends: Sequence[int], part: str) -> tuple[int, int] | None:
    """First and end of the tokens that write the last place of `part` in the text, and nothing else but white space.

    None where there is no such place: the part is put together from several, or a token reaches beyond it.
    """
    start = text.rstrip().rfind(part)
    if start < 0 or not part:
        return None
    first, last = _first_after(ends, start), bisect_left(ends, start + len(part))
    if last == len(ends):
        return None
    written = text[ends[first - 1] if first else 0 : ends[last]]
    return (first, last + 1) if written.strip() == part.strip() else None


def _first_after(ends: Sequence[int], start: int) -> int:
    """The first token that writes something behind `start`, or is a part of the first character there."""
    reached = bisect_left(ends, start)
    if start and reached < len(ends) and ends[reached] == start:
        return reached + 1
    return bisect_right(ends, start) if start else 0
