"""Prompt texts to the token ids that a teacher's model reads, by its own tokenizer and chat template.

What a prompt says stays text: special tokens in it are read letter by letter, so a question cannot open a turn of the
chat or end the prompt.
"""

import functools
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from tinyllm_ray.config import UserError
from tinyllm_ray.data.text_tokens import TextTokenizer, find_marks, text_tokenizer
from tinyllm_ray.schema import Prompts, Teacher
from tinyllm_ray.teachers.engines.base import Encoded
from tinyllm_ray.teachers.engines.models import model_path
from tinyllm_ray.teachers.thoughts import OPEN

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerBase

_OF_TEMPLATES = (TemplateError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


def messages(teacher: Teacher, prompt: str) -> list[dict[str, str]]:
    """The chat that asks one prompt."""
    system = [{"role": "system", "content": teacher.system_prompt}] if teacher.system_prompt else []
    return [*system, {"role": "user", "content": prompt}]


class PromptEncoder:
    """A teacher's tokenizer, loaded with the first prompt. `keeps_end`: an end token that it appends belongs there."""

    def __init__(self, teacher: Teacher, prompts: Prompts, *, keeps_end: bool) -> None:
        self._teacher, self._chat_template, self._keeps_end = teacher, prompts.chat_template, keeps_end

    def check(self) -> None:
        """Raise UserError where the tokenizer or its chat template cannot be used."""
        if not self.encode(["What is this?"])[0].ids:
            raise UserError(f"teachers.{self._teacher.name}.model: its tokenizer makes no tokens of a text")

    def encode(self, prompts: list[str]) -> list[Encoded]:
        if self._text is None:
            return [self._encode_plainly(prompt) for prompt in prompts]
        if self._chats:
            texts = [self._text.arm(self._wrap(self._text.hide(prompt))) for prompt in prompts]
        else:
            texts = [self._text.clean(prompt) for prompt in prompts]
        found = self._text.backend.encode_batch(texts, add_special_tokens=not self._chats)
        return [Encoded(self._ids(encoding)) for encoding in found]

    def opens_thought(self) -> bool:
        return self._chats and self._wrap("?").rstrip().endswith(OPEN)

    def show(self, prompt: str) -> str:
        """The prompt's tokens as text, special ones included."""
        return str(self._tokenizer.decode(self.encode([prompt])[0].ids, clean_up_tokenization_spaces=False))

    @functools.cached_property
    def _tokenizer(self) -> "PreTrainedTokenizerBase":
        from transformers import AutoTokenizer

        teacher = self._teacher
        try:
            loaded = AutoTokenizer.from_pretrained(
                model_path(teacher), revision=teacher.revision, trust_remote_code=teacher.trust_remote_code
            )
        except Exception as error:  # noqa: BLE001 - the library in Rust raises Exception itself
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise UserError(
                f"teachers.{teacher.name}.model: the tokenizer of {teacher.model} cannot be loaded: {reason}"
            ) from None
        if self._chat_template == "always" and not loaded.chat_template:
            raise UserError(
                f"prompts.chat_template is always, but teacher {teacher.name}'s tokenizer has none; set it to auto "
                "or never"
            )
        return loaded

    @functools.cached_property
    def _chats(self) -> bool:
        return self._chat_template != "never" and bool(self._tokenizer.chat_template)

    @functools.cached_property
    def _marks(self) -> dict[int, str]:
        backend, template = getattr(self._tokenizer, "backend_tokenizer", None), str(self._tokenizer.chat_template)
        if backend is not None:
            return find_marks(backend, chat_template=template)
        return dict(zip(self._tokenizer.all_special_ids, self._tokenizer.all_special_tokens, strict=True))

    @functools.cached_property
    def _text(self) -> TextTokenizer | None:
        """None for a tokenizer that always finds its special tokens."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        return text_tokenizer(backend, self._marks) if backend is not None else None

    def _wrap(self, prompt: str) -> str:
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    messages(self._teacher, prompt),
                    add_generation_prompt=True,
                    tokenize=False,
                    **self._teacher.chat_template_kwargs,
                )
            )
        except _OF_TEMPLATES as error:
            raise UserError(
                f"teachers.{self._teacher.name}: the chat template of {self._teacher.model} fails: "
                f"{type(error).__name__}: {error}; correct it, or set prompts.chat_template=never"
            ) from None

    def _ids(self, encoding: "Encoding") -> list[int]:
        """Without the end tokens that some tokenizers append: a decoder would have nothing to say after them."""
        end = len(encoding.ids)
        while not self._keeps_end and not self._chats and end and encoding.special_tokens_mask[end - 1]:
            end -= 1
        return encoding.ids[:end]

    def _encode_plainly(self, prompt: str) -> Encoded:
        held = next((mark for mark in self._marks.values() if mark in prompt), None)
        if held:
            return Encoded([], f"a special token in the text: this tokenizer cannot read {held!r} as text")
        if self._chats:
            return Encoded(self._tokenizer(self._wrap(prompt), add_special_tokens=False)["input_ids"])
        ids: Any = self._tokenizer(prompt)["input_ids"]
        end = self._tokenizer.eos_token_id
        return Encoded(ids[:-1] if not self._keeps_end and ids and ids[-1] == end else ids)
