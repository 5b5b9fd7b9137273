"""The rows of a batch that an encoder-decoder is writing: their tokens, and the keys and values of its attention.

Each row writes one token a step, all into the same column. A row that enters the batch later begins in a later column:

    column  0 1 2 3 4 5
    row a   s x x x x x      s: start token
    row b   . . . s x x      .: a start token that a mask hides

Shapes: B rows, W columns, S source tokens, H heads, D width of a head.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import DynamicCache, DynamicLayer, EncoderDecoderCache

ROOM = 32  # columns that are allocated ahead

Pair = tuple[torch.Tensor, torch.Tensor]
"""Keys and values, each [B, H, n, D]."""


@dataclass(eq=False)
class Text:
    """What is written for one prompt."""

    prompt: list[int]
    random: np.random.Generator | None  # draws the tokens; None: each is the likeliest
    tokens: list[int] = field(default_factory=list)  # T of them, the end token included
    top_ids: list[np.ndarray] = field(default_factory=list)  # T x [k]
    top_logprobs: list[np.ndarray] = field(default_factory=list)  # T x [k]
    over: bool = False
    stopped: bool = False  # by an end token or a stop text, and not for its length
    failure: str = ""


class RoomyLayer(DynamicLayer):
    """One layer's keys and values as views of buffers with room for more columns: a step copies one column, not all."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self._show((keys, values), 0, keys.shape[2])

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Pair:
        buffers, begin, end, added = self._buffers, self._begin, self._end, key_states.shape[2]
        if end + added > buffers[0].shape[2]:
            buffers, begin, end = (with_room(self.keys), with_room(self.values)), 0, end - begin
        for buffer, states in zip(buffers, (key_states, value_states), strict=True):
            buffer[:, :, end : end + added] = states
        self._show(buffers, begin, end + added)
        return self.keys, self.values

    def put(self, rows: list[int], layer: DynamicLayer, columns: slice) -> None:
        """Other keys and values in some rows and columns."""
        self.keys[rows, :, columns], self.values[rows, :, columns] = layer.keys, layer.values

    def narrow(self, columns: slice) -> None:
        begin, end, _ = columns.indices(self._end - self._begin)
        self._show(self._buffers, self._begin + begin, self._begin + end)

    def _show(self, buffers: Pair, begin: int, end: int) -> None:
        self._buffers, self._begin, self._end = buffers, begin, end
        self.keys, self.values = (buffer[:, :, begin:end] for buffer in buffers)


def with_room(held: torch.Tensor) -> torch.Tensor:
    """A copy of [B, H, W, D] as the start of [B, H, W + ROOM, D]."""
    rows, heads, columns, width = held.shape
    buffer = held.new_empty(rows, heads, columns + ROOM, width)
    buffer[:, :, :columns] = held
    return buffer


def roomy(own: Sequence[Pair], cross: Sequence[Pair]) -> EncoderDecoderCache:
    """A filled cache of each layer's keys and values, of the text's own and of the source's."""
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    cache.self_attention_cache.layers = [RoomyLayer(*pair) for pair in own]
    cache.cross_attention_cache.layers = [RoomyLayer(*pair) for pair in cross]
    cache.is_updated = dict.fromkeys(range(len(cross)), True)
    return cache


@dataclass
class TextRows:
    texts: list[Text]  # B
    tokens: torch.Tensor  # [B, W]
    source_mask: torch.Tensor  # [B, S]
    cache: EncoderDecoderCache  # [B, H, W - 1, D] of the tokens but the last, [B, H, S, D] of the source

    def live(self) -> list[int]:
        return [row for row, text in enumerate(self.texts) if not text.over]

    def replace(self, begun: "TextRows", *, start: list[int]) -> None:
        """Rows that begin, in place of as many that have ended; no other row is copied. No source may be longer than
        the longest here."""
        rows = [row for row, text in enumerate(self.texts) if text.over][: len(begun.texts)]
        for row, text in zip(rows, begun.texts, strict=True):
            self.texts[row] = text
        columns, sources = begun.tokens.shape[1], begun.source_mask.shape[1]
        self.tokens[rows], self.source_mask[rows] = start[-1], 0
        self.tokens[rows, -columns:], self.source_mask[rows, :sources] = begun.tokens, begun.source_mask
        own, cross = self.cache.self_attention_cache.layers, self.cache.cross_attention_cache.layers
        for layer, new in zip(own, begun.cache.self_attention_cache.layers, strict=True):
            layer.put(rows, new, slice(1 - columns, None))
        for layer, new in zip(cross, begun.cache.cross_attention_cache.layers, strict=True):
            layer.put(rows, new, slice(sources))
        columns, sources = used([self.texts[row] for row in self.live()], start=start)
        for layer in own:
            layer.narrow(slice(1 - columns, None))
        for layer in cross:
            layer.narrow(slice(sources))
        self.tokens, self.source_mask = self.tokens[:, -columns:], self.source_mask[:, :sources]


def used(texts: Sequence[Text], *, start: list[int]) -> tuple[int, int]:
    """The columns W and source tokens S that texts need."""
    return max(len(start) + len(text.tokens) for text in texts), max(len(text.prompt) for text in texts)


def join(parts: Sequence[tuple[TextRows, list[int]]], *, start: list[int]) -> TextRows:
    """The rows named in each part, without the columns that none of them uses any longer.

    `start`: the start tokens, of which the last stands in hidden columns.
    """
    texts = [part.texts[row] for part, rows in parts for row in rows]
    columns, sources = used(texts, start=start)
    caches = [part.cache for part, _ in parts]

    def stack(tensors: Sequence[torch.Tensor], size: int, *, at_end: bool, fill: int = 0) -> torch.Tensor:
        rows = [rows for _, rows in parts]
        return _stack(list(zip(tensors, rows, strict=True)), size, at_end=at_end, fill=fill)

    def layers(name: str, size: int, *, at_end: bool) -> list[Pair]:
        by_layer = zip(*(getattr(cache, name).layers for cache in caches), strict=True)
        return [
            (
                stack([layer.keys for layer in held], size, at_end=at_end),
                stack([layer.values for layer in held], size, at_end=at_end),
            )
            for held in by_layer
        ]

    cache = roomy(
        layers("self_attention_cache", columns - 1, at_end=True),
        layers("cross_attention_cache", sources, at_end=False),
    )
    return TextRows(
        texts,
        stack([part.tokens for part, _ in parts], columns, at_end=True, fill=start[-1]),
        stack([part.source_mask for part, _ in parts], sources, at_end=False),
        cache,
    )


def _stack(parts: Sequence[tuple[torch.Tensor, list[int]]], size: int, *, at_end: bool, fill: int) -> torch.Tensor:
    """Chosen rows of tensors [b, n] or [b, H, n, D] under each other, cut or filled to n = `size`, before them or (not
    `at_end`) behind them."""
    first = parts[0][0]
    along = 1 if first.dim() == 2 else 2
    shape = list(first.shape)
    shape[0], shape[along] = sum(len(rows) for _, rows in parts), size
    stacked, row = first.new_full(shape, fill), 0
    for held, rows in parts:
        n = min(held.shape[along], size)
        source = held.narrow(along, held.shape[along] - n if at_end else 0, n)
        target = stacked[row : row + len(rows)].narrow(along, size - n if at_end else 0, n)
        target.copy_(source if len(rows) == len(held) else source[rows])
        row += len(rows)
    return stacked
