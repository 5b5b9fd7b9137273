"""Which token each row of a batch writes next, and whether its text is over: as transformers' `generate` decides it.

`generate` prepares its processors of scores and its stopping criteria from the model's generation config and the
sampling; they are taken over from it, and applied to rows that began at different steps. A row is drawn by its own
random numbers, so its text does not depend on the rows beside it. Shapes: B batch, W columns of tokens, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers.generation import (
    EosTokenCriteria,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteriaList,
    StopStringCriteria,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from tinyllm_ray.schema import Sampling

PLACELESS = (RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopPLogitsWarper)
"""Processors to which it does not matter where in its text a row is, nor that start tokens stand before it."""


class TokenChoice:
    """One model's next tokens under one sampling."""

    def __init__(self, model: Any, tokenizer: Any, sampling: Sampling) -> None:
        self.start: list[int] = []  # what the decoder reads before the first token
        self._criteria = StoppingCriteriaList([StopStringCriteria(tokenizer, sampling.stop)] if sampling.stop else [])
        self._processors = LogitsProcessorList()
        prompt = torch.full((1, 1), model.config.eos_token_id, device=model.device)
        model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            custom_generate=self._take_over,
            **_arguments(sampling),
        )
        self._placeless = all(isinstance(processor, PLACELESS) for processor in self._processors)

    def _take_over(
        self, model: Any, input_ids: torch.Tensor, *, logits_processor: Any, stopping_criteria: Any, **_: Any
    ) -> torch.Tensor:
        """In place of the decoding loop of `generate`; its limit of tokens is that of a whole batch."""
        self.start, self._processors = input_ids[0].tolist(), logits_processor
        self._criteria.extend(each for each in stopping_criteria if isinstance(each, EosTokenCriteria))
        return input_ids

    def choose(
        self, logits: torch.Tensor, tokens: torch.Tensor, lengths: Sequence[int], draws: Sequence[float] | None
    ) -> torch.Tensor:
        """The next token [B]. `logits` [B, V]; `tokens` [B, W] end in the `lengths` tokens of each row, behind start
        tokens; `draws`: a number above 0 and up to 1 for each row, or None for the likeliest token."""
        scores = self._scores(logits.float(), tokens, lengths)  # [B, V]
        if draws is None:
            return scores.argmax(-1)
        cumulative = scores.softmax(-1).cumsum(-1)  # [B, V]
        wanted = torch.tensor(draws, device=scores.device, dtype=scores.dtype)[:, None] * cumulative[:, -1:]  # [B, 1]
        return torch.searchsorted(cumulative, wanted)[:, 0]

    def ended(self, tokens: torch.Tensor) -> list[bool]:
        """For each row of `tokens` [B, W] whether the last one ends its text."""
        if not self._criteria:
            return [False] * len(tokens)
        return self._criteria(tokens, None).tolist()

    def _scores(self, logits: torch.Tensor, tokens: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        if self._placeless:
            return self._processors(tokens, logits)
        scores = torch.empty_like(logits)
        for length in set(lengths):
            rows = [row for row, its_length in enumerate(lengths) if its_length == length]
            scores[rows] = self._processors(tokens[rows, -length:], logits[rows])
        return scores


def _arguments(sampling: Sampling) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "do_sample": sampling.temperature > 0,
        "num_beams": 1,
        "max_new_tokens": sampling.max_tokens,
        "repetition_penalty": sampling.repetition_penalty,
    }
    if sampling.temperature:
        arguments |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    return arguments
