"""Prompt texts to the token ids that a teacher's model reads, by its own tokenizer and chat template."""

import functools
from typing import Any

from tinyllm_ray.config import UserError
from tinyllm_ray.schema import Prompts, Teacher
from tinyllm_ray.teachers.engines.base import Encoded
from tinyllm_ray.teachers.engines.models import model_path


class PromptEncoder:
    """A teacher's tokenizer, loaded with the first prompt."""

    def __init__(self, teacher: Teacher, prompts: Prompts) -> None:
        self._teacher, self._chat_template = teacher, prompts.chat_template

    @functools.cached_property
    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        teacher = self._teacher
        loaded = AutoTokenizer.from_pretrained(
            model_path(teacher), revision=teacher.revision, trust_remote_code=teacher.trust_remote_code
        )
        if self._chat_template == "always" and not loaded.chat_template:
            raise UserError(
                f"prompts.chat_template is always, but teacher {teacher.name}'s tokenizer has none; set it to auto "
                "or never"
            )
        return loaded

    def check(self) -> None:
        """Raise UserError where the tokenizer or its chat template cannot be used."""
        self.encode(["?"])

    def encode(self, prompts: list[str]) -> list[Encoded]:
        if self._chat_template == "never" or not self.tokenizer.chat_template:
            return [Encoded(ids) for ids in self.tokenizer(prompts)["input_ids"]]
        messages = [[{"role": "user", "content": prompt}] for prompt in prompts]
        wrapped = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return [Encoded(ids) for ids in self.tokenizer(wrapped, add_special_tokens=False)["input_ids"]]

    def show(self, prompt: str) -> str:
        """The prompt's tokens as text, special ones included."""
        return self.tokenizer.decode(self.encode([prompt])[0].ids, clean_up_tokenization_spaces=False)
