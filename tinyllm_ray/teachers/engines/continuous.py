"""Continuous batching for encoder-decoders: rows whose text has ended leave the batch, and waiting rows enter it.

In: prompts as token ids, and a seed for each. Out: a `Text` for each. How rows that began at different steps stand in
one batch is drawn in text_rows.py; it needs positions that are relative, as T5 has them. Rows of a model with absolute
positions (BART) leave the batch too, but others enter only when it is empty.
Shapes: B batch, S source tokens, W columns of tokens, V vocabulary, M width of the model.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from tinyllm_ray.teachers.engines.text_rows import Text, TextRows, join, roomy
from tinyllm_ray.teachers.engines.token_choice import TokenChoice

IDLE = 1 / 8  # share of a batch's rows whose text has ended; then others take their place
COPIED = 1 / 4  # share of rows by which a batch shrinks or grows at least, since all of its rows are copied then

Encode = Callable[[list[list[int]]], tuple[torch.Tensor, torch.Tensor]]
"""Prompts, longest first, to hidden states [B, S, M] and mask [B, S]."""


class ContinuousBatch:
    """The batch of one model. `batch_tokens`: rows x longest source stays within it; `top_k`: likeliest tokens that
    are kept of each position, by the model's own probabilities."""

    def __init__(
        self, model: Any, choice: TokenChoice, *, encode: Encode, max_tokens: int, batch_tokens: int, top_k: int | None
    ) -> None:
        self._model, self._choice, self._encode = model, choice, encode
        self._max_tokens, self._batch_tokens, self._top_k = max_tokens, batch_tokens, top_k
        self._relative = hasattr(model.config, "relative_attention_num_buckets")
        self._rows: TextRows | None = None

    @torch.inference_mode()
    def write(self, prompts: Sequence[list[int]], seeds: Sequence[int] | None) -> list[Text]:
        """The texts of prompts, in their order; without seeds each token is the likeliest one."""
        texts = [
            Text(prompt, random=None if seeds is None else np.random.default_rng(seeds[row]))
            for row, prompt in enumerate(prompts)
        ]
        waiting = deque(sorted(texts, key=lambda text: -len(text.prompt)))
        while waiting or self._live():
            entering: list[Text] = []
            try:
                entering = self._next(waiting)
                if entering:
                    self._enter(self._begin(entering))
                elif self._rows:
                    self._leave(self._rows)
                    self._step(self._rows)
            except RuntimeError as error:  # out of memory, mostly
                for text in (*self._live(), *entering):
                    text.over, text.failure = True, f"engine error: {error}"
                self._rows = None
        self._rows = None
        return texts

    def _live(self) -> list[Text]:
        return [text for text in self._rows.texts if not text.over] if self._rows else []

    def _next(self, waiting: deque[Text]) -> list[Text]:
        """Take the rows that are to enter now; a prompt over the budget enters alone."""
        live = self._live()
        size = len(self._rows.texts) if self._rows and live else 0
        if not waiting or (live and not self._relative) or size - len(live) < IDLE * size:
            return []
        longest = max(len(text.prompt) for text in [*live, waiting[0]])
        room = max(self._batch_tokens // longest, 1)
        if size and room < (1 + COPIED) * size:
            room = min(room, size)
        return [waiting.popleft() for _ in range(min(room - len(live), len(waiting)))]

    def _enter(self, begun: TextRows) -> None:
        old, start = self._rows, self._choice.start
        if old is None or not old.live():
            self._rows = begun
        elif len(begun.texts) <= len(old.texts) - len(old.live()):
            old.replace(begun, start=start)
        else:
            self._rows = join([(old, old.live()), (begun, list(range(len(begun.texts))))], start=start)

    def _leave(self, rows: TextRows) -> None:
        live = rows.live()
        if len(live) <= (1 - COPIED) * len(rows.texts):
            self._rows = join([(rows, live)], start=self._choice.start)

    def _begin(self, texts: list[Text]) -> TextRows:
        """New rows with their first token."""
        hidden, source_mask = self._encode([text.prompt for text in texts])
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        start = torch.tensor([self._choice.start] * len(texts), device=hidden.device)  # [B, 1]
        rows = TextRows(texts, start, source_mask, cache)
        self._advance(rows, hidden, start, torch.ones_like(start))
        own, cross = cache.self_attention_cache.layers, cache.cross_attention_cache.layers
        rows.cache = roomy(*([(layer.keys, layer.values) for layer in layers] for layers in (own, cross)))
        return rows

    def _step(self, rows: TextRows) -> None:
        """One more token in each row; those that have ended go on until others take their place or many have ended."""
        lengths = torch.tensor(self._lengths(rows), device=rows.tokens.device)  # [B]
        columns = torch.arange(rows.tokens.shape[1], 0, -1, device=lengths.device)  # [W]: 1 is the last
        # The source's keys and values are in the cache: of its hidden states the model reads the shape alone.
        nothing = torch.zeros((), dtype=self._model.dtype, device=lengths.device)
        hidden = nothing.expand(*rows.source_mask.shape, self._model.config.hidden_size)
        self._advance(rows, hidden, rows.tokens[:, -1:], (columns <= lengths[:, None]).long())

    def _lengths(self, rows: TextRows) -> list[int]:
        return [len(self._choice.start) + len(text.tokens) for text in rows.texts]

    def _advance(self, rows: TextRows, hidden: torch.Tensor, read: torch.Tensor, mask: torch.Tensor) -> None:
        """The decoder reads tokens [B, n] whose row has the columns of `mask` [B, W], and each row gets its next."""
        logits = self._model(
            encoder_outputs=BaseModelOutput(last_hidden_state=hidden),
            attention_mask=rows.source_mask,
            decoder_input_ids=read,
            decoder_attention_mask=mask,
            past_key_values=rows.cache,
            use_cache=True,
        ).logits[:, -1]  # [B, V]
        draws = [1 - text.random.random() for text in rows.texts if text.random]
        if self._top_k:
            self._keep_top(rows, logits, self._top_k)
        chosen = self._choice.choose(logits, rows.tokens, self._lengths(rows), draws or None)  # [B]
        rows.tokens = torch.cat([rows.tokens, chosen[:, None]], 1)
        for text, token, stopped in zip(rows.texts, chosen.tolist(), self._choice.ended(rows.tokens), strict=True):
            if text.over:
                continue
            text.tokens.append(token)
            text.stopped = stopped
            text.over = stopped or len(text.tokens) == self._max_tokens

    def _keep_top(self, rows: TextRows, logits: torch.Tensor, k: int) -> None:
        values, ids = logits.float().log_softmax(-1).topk(k)  # [B, k]
        for text, its_ids, its_values in zip(rows.texts, ids.cpu().numpy(), values.cpu().numpy(), strict=True):
            if not text.over:
                text.top_ids.append(its_ids)
                text.top_logprobs.append(its_values)
