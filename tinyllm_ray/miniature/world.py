"""A seeded closed world: animals, their kinds and what each kind does; sizes in, question files and facts out.

A question names an animal and an attribute ("What does a vomu eat?"). The answer needs a hop that no question shows:
the animal's kind ("A vomu is a grazer."), and then that kind's habit ("A grazer eats roots."). A label reveals the
kind poorly, because several kinds share each value and an animal appears in a few training questions only.
"""

import itertools
import json
import random
import re
from dataclasses import dataclass

from tinyllm_ray import storage
from tinyllm_ray.config import UserError, digest
from tinyllm_ray.rows import Question
from tinyllm_ray.schema import Experiment, Miniature

KINDS = (
    "grazer hunter climber swimmer burrower glider crawler wader diver hopper stalker nester "
    "drifter digger roamer weaver leaper percher trotter lurker forager sprinter hoverer basker"
)
# attribute: question, habit of a kind, values
ATTRIBUTES = {
    "food": ("What does a {name} eat?", "A {kind} eats {value}.", "grass roots nuts seeds fish insects"),
    "home": ("Where does a {name} live?", "A {kind} lives in {value}.", "caves reeds dunes cliffs bogs forests"),
    "cover": ("What covers a {name}?", "A {kind} is covered in {value}.", "fur feathers scales quills slime plates"),
    "waking": ("When does a {name} wake?", "A {kind} wakes at {value}.", "dawn noon dusk midnight moonrise sunset"),
    "voice": ("What sound does a {name} make?", "A {kind} makes {value}.", "hums clicks whistles growls chirps croaks"),
    "fear": ("What does a {name} fear?", "A {kind} fears {value}.", "fire thunder ice smoke salt wind"),
    "color": ("What color is a {name}?", "A {kind} is {value}.", "grey red black white brown yellow"),
    "hoard": ("What does a {name} collect?", "A {kind} collects {value}.", "pebbles twigs bones shells moss petals"),
}
ONSETS, VOWELS = "bdfgklmnprstvz", "aeiou"
HALVES = 2


@dataclass(frozen=True)
class World:
    """All that is true: the kind of each animal, and the habits of each kind."""

    kind_of: dict[str, str]  # animal -> kind
    habit_of: dict[tuple[str, str], str]  # kind, attribute -> value
    values_of: dict[str, list[str]]  # attribute -> the values that occur
    half_of: dict[str, int]  # animal -> the half of the world's knowledge that it belongs to

    def answer(self, name: str, attribute: str) -> str:
        return self.habit_of[self.kind_of[name], attribute]

    def animals(self, half: int) -> list[str]:
        return [name for name, its_half in self.half_of.items() if its_half == half]


def make_world(sizes: Miniature) -> World:
    """Equal settings give an equal world; the kinds are of equal size, and each half holds half of every kind."""
    rng = random.Random(f"world {sizes.seed}")
    names, kinds, values = _names(rng, sizes.entities), sizes.kinds, sizes.values
    kind_names = KINDS.split()[:kinds]
    asked = list(ATTRIBUTES)[: sizes.attributes]
    values_of = {attribute: ATTRIBUTES[attribute][2].split()[:values] for attribute in asked}
    habit_of: dict[tuple[str, str], str] = {}
    for attribute, texts in values_of.items():
        dealt = [texts[i % values] for i in range(kinds)]
        rng.shuffle(dealt)
        habit_of |= {(kind, attribute): value for kind, value in zip(kind_names, dealt, strict=True)}
    kind_of = {name: kind_names[i % kinds] for i, name in enumerate(names)}
    half_of = {name: i // kinds % HALVES for i, name in enumerate(names)}
    return World(kind_of, habit_of, values_of, half_of)


def make_questions(world: World, sizes: Miniature) -> dict[str, list[Question]]:
    """Every split asks other (animal, attribute) pairs; training takes equally many from every animal."""
    rng = random.Random(f"questions {sizes.seed}")
    train, validation, test = sizes.train, sizes.validation, sizes.test
    pairs, wanted = _turn_by_turn(rng, world), train + validation + test
    if wanted > len(pairs):
        raise UserError(
            f"dataset.miniature: {wanted} questions were asked for, but {len(world.kind_of)} entities with "
            f"{len(world.values_of)} attributes make {len(pairs)}; lower train, validation or test, or add entities"
        )
    held_out = pairs[train:]
    rng.shuffle(held_out)
    cuts = {
        "train": pairs[:train],
        "validation": held_out[:validation],
        "test": held_out[validation : validation + test],
    }
    return {
        split: [make_question(world, *pair, question_id=f"{split}-{i}", rng=rng) for i, pair in enumerate(chosen)]
        for split, chosen in cuts.items()
    }


def make_question(world: World, name: str, attribute: str, *, question_id: str, rng: random.Random) -> Question:
    """Four choices: the answer and three other values of the same attribute, in random order."""
    answer = world.answer(name, attribute)
    others = [value for value in world.values_of[attribute] if value != answer]
    choices = [answer, *rng.sample(others, 3)]
    rng.shuffle(choices)
    return Question(question_id, ATTRIBUTES[attribute][0].format(name=name), choices, answer)


def explain(world: World, name: str, attribute: str) -> str:
    """The reasoning of someone who knows the animal: first its kind, then the kind's habit, then the answer."""
    return explain_kind(world, world.kind_of[name], attribute)


def explain_kind(world: World, kind: str, attribute: str) -> str:
    value = world.habit_of[kind, attribute]
    return f"It is a {kind}. {ATTRIBUTES[attribute][1].format(kind=kind, value=value)} So the answer is {value}."


def prepare_world(experiment: Experiment, *, output_dir: str) -> str:
    """The world's folder, <output_dir>/miniature; its files are written unless they were made with equal sizes."""
    folder, sizes = storage.join(output_dir, "miniature"), experiment.dataset.miniature
    marker, made_with = storage.join(folder, "world.json"), {"made_with": digest(sizes.model_dump())}
    if not storage.exists(marker) or storage.read_json(marker) != made_with:
        write_world(folder, sizes)
        storage.write_json(marker, made_with)
    return folder


def write_world(folder: str, sizes: Miniature) -> None:
    """Write <folder>/{train,validation,test}.jsonl with id, question, choices and answer."""
    splits = make_questions(make_world(sizes), sizes)
    for split, questions in splits.items():
        rows = [
            {"id": q.question_id, "question": q.question, "choices": q.choices, "answer": q.answer} for q in questions
        ]
        storage.write_bytes(
            storage.join(folder, f"{split}.jsonl"), "".join(json.dumps(row) + "\n" for row in rows).encode()
        )


def _names(rng: random.Random, count: int) -> list[str]:
    syllables = [onset + vowel for onset, vowel in itertools.product(ONSETS, VOWELS)]
    texts = " ".join(f"{question} {habit} {values}" for question, habit, values in ATTRIBUTES.values())
    taken = set(re.findall(r"[a-z]+", texts))
    names = [name for name in map("".join, itertools.product(syllables, syllables)) if name not in taken]
    return rng.sample(names, count)


def _turn_by_turn(rng: random.Random, world: World) -> list[tuple[str, str]]:
    """All (animal, attribute) pairs: every animal once, in random order, then every animal a second time, and so on."""
    left = {name: rng.sample(sorted(world.values_of), len(world.values_of)) for name in world.kind_of}
    turns = []
    for turn in range(len(world.values_of)):
        names = list(world.kind_of)
        rng.shuffle(names)
        turns += [(name, left[name][turn]) for name in names]
    return turns
