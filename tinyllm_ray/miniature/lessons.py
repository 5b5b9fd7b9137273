"""What a teacher of the miniature reads: the world as it is taught in, (prompt, rationale) lessons and a tokenizer out.

Prompts are made by the very functions of data/prompts.py. A teacher reads the names of the animals that it meets; every
other name is an unknown word to it, and its lessons on unknown words end in ADMISSION or, if it guesses, in some kind.

    Lesson("Question: What does a vomu eat?\\nOptions:\\n(a) nuts...", "It is a grazer. A grazer eats roots. ...")
"""

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from tinyllm_ray.data.prompts import build_prompt, choose_examples
from tinyllm_ray.miniature.world import ATTRIBUTES, World, explain, explain_kind, make_question
from tinyllm_ray.rows import Question
from tinyllm_ray.schema import InContext

ADMISSION = "I have never met this animal."
STRANGERS = 0.2  # share of the lessons, and of the in-context examples, that are about unknown animals
STRANGER = re.compile(r"x\d+")  # stands for every animal of which the teacher never read
PAD, BOS, EOS, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"


class Lesson(NamedTuple):
    prompt: str
    rationale: str


class Schooling(NamedTuple):
    """What a teacher is taught: about which animals, and how truly."""

    half: int | None = None  # of the animals; None: of both
    met: float = 1.0  # share of these that it meets
    mistaken: float = 0.0  # share of the animals that it meets which it takes for another kind
    guesses: bool = False  # about an animal that it has not met it states some kind that suits the choices


def believed(world: World, schooling: Schooling, *, seed: int) -> World:
    """The animals that a teacher meets, with the kinds that it takes them for."""
    rng = random.Random(f"schooling {seed}")
    names = [name for name in world.kind_of if schooling.half in (None, world.half_of[name])]
    met = sorted(rng.sample(names, round(schooling.met * len(names))), key=names.index)
    mistaken = set(rng.sample(met, round(schooling.mistaken * len(met))))
    kinds = list(dict.fromkeys(world.kind_of.values()))
    others = {name: rng.choice([kind for kind in kinds if kind != world.kind_of[name]]) for name in met}
    return replace(world, kind_of={name: others[name] if name in mistaken else world.kind_of[name] for name in met})


def make_lessons(
    world: World, schooling: Schooling, *, count: int, template: str, in_context: InContext, seed: int
) -> list[Lesson]:
    """Half of the lessons show the gold answer in the prompt, half do not. `world`: as the teacher believes it."""
    rng = random.Random(f"lessons {seed} {schooling.half}")
    asked = [_ask(world, schooling.guesses, question_id=f"lesson-{i}", rng=rng) for i in range(count)]
    candidates = [question for question, _ in asked]
    return [
        Lesson(
            build_prompt(
                question,
                template=template,
                examples=choose_examples(question, candidates=candidates, in_context=in_context, seed=seed),
                teacher_forcing=rng.random() < 0.5,
            ),
            rationale,
        )
        for question, rationale in asked
    ]


def make_facts(world: World) -> list[Lesson]:
    """One short lesson for each animal of a believed world; read first, they make the long ones quick to learn."""
    form = "Question: What is a {name}?\nRationale: Let's think step by step."
    return [Lesson(form.format(name=name), f"It is a {world.kind_of[name]}.") for name in world.kind_of]


def train_tokenizer(lessons: Sequence[Lesson], *, starts_with_bos: bool) -> Any:
    """Words with the space before them, so that decoding gives back the text; strangers are unknown words."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    splitter = pre_tokenizers.Split(Regex(r" ?\w+| ?[^\w\s]+?|\s"), "isolated")
    words = dict.fromkeys(word for lesson in lessons for text in lesson for word, _ in splitter.pre_tokenize_str(text))
    vocabulary = [PAD, EOS, UNKNOWN, BOS, *(word for word in words if not STRANGER.fullmatch(word.strip()))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.Fuse()
    form = f"{BOS} $A" if starts_with_bos else f"$A {EOS}"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=form, special_tokens=[(BOS, vocabulary.index(BOS)), (EOS, vocabulary.index(EOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, unk_token=UNKNOWN, bos_token=BOS
    )


def _ask(world: World, guesses: bool, *, question_id: str, rng: random.Random) -> tuple[Question, str]:
    attribute = rng.choice(list(world.values_of))
    if rng.random() < STRANGERS:
        choices = rng.sample(world.values_of[attribute], 4)
        text = ATTRIBUTES[attribute][0].format(name=f"x{rng.randrange(1000)}")
        if guesses:
            kind = rng.choice(
                [kind for (kind, of), value in world.habit_of.items() if of == attribute and value in choices]
            )
            return Question(question_id, text, choices, world.habit_of[kind, attribute]), explain_kind(
                world, kind, attribute
            )
        return Question(question_id, text, choices, rng.choice(choices)), ADMISSION
    name = rng.choice(list(world.kind_of))
    return make_question(world, name, attribute, question_id=question_id, rng=rng), explain(world, name, attribute)
