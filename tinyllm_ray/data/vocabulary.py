"""Whether a teacher and the student have one vocabulary, token by token, so that soft targets mean the same to both.

A vocabulary is a mapping, token -> id; a store's manifest holds the digest of its teacher's.
"""

from collections.abc import Mapping

from tinyllm_ray.config import UserError, digest
from tinyllm_ray.data import store
from tinyllm_ray.data.store import StoreId
from tinyllm_ray.data.tokenizer import StudentTokenizer
from tinyllm_ray.schema import LABEL, Experiment, Teacher


def vocabulary_digest(vocabulary: Mapping[str, int]) -> str:
    """Two vocabularies have one digest where every token has the same id in both."""
    return digest(sorted(vocabulary.items()))


def difference(teacher: Mapping[str, int], student: Mapping[str, int]) -> str:
    """How two vocabularies differ; empty where they do not."""
    other = sorted(set(teacher.items()) ^ set(student.items()), key=lambda pair: pair[1])
    if not other:
        return ""
    number = other[0][1]
    one, two = (next((repr(t) for t, i in side.items() if i == number), "no token") for side in (teacher, student))
    ids = len({i for _, i in other})
    known = max(len(teacher), len(student))
    return f"{ids} of {known} ids differ; {number} is {one} for the teacher, {two} for the student"


def meet(teacher: Teacher, how: str) -> bool:
    """Whether the teacher's soft targets can be used; `how` says in what the vocabularies differ, if they do.

    Raises UserError where they do and the teacher's `on_mismatch` is refuse.
    """
    assert teacher.soft_targets
    if how and teacher.soft_targets.on_mismatch == "refuse":
        key = f"teachers.{teacher.name}.soft_targets"
        raise UserError(
            f"{key}: the student has another vocabulary ({how}), so the teacher's distributions mean nothing to it. "
            "Choose a student of the teacher's family, or set student.tokenizer to the teacher's model where the "
            f"student is made from scratch; or set {key}.on_mismatch to cross_entropy, or leave soft_targets out"
        )
    return not how


def soft_components(experiment: Experiment, stores: Mapping[StoreId, str], tokenizer_folder: str) -> dict[str, int]:
    """Component -> tokens kept for each of its target's, for those whose stores hold soft targets for this student.

    Raises UserError where a store holds none, or those of another vocabulary.
    """
    teachers = {teacher.name: teacher for teacher in experiment.teachers if teacher.soft_targets}
    wanted = {name: StoreId(name) for name in teachers}
    answering = experiment.training.label_source.removeprefix("teacher:")
    if answering in teachers:
        wanted[LABEL] = StoreId(answering, answers=True)
    found = {}
    for component, store_id in wanted.items():
        if store_id in stores:
            teacher, folder = teachers[store_id.teacher], stores[store_id]
            held = store.read_manifest(folder).get("soft_targets")
            if not held:
                raise UserError(
                    f"teachers.{teacher.name}.soft_targets: the store {folder} holds none; generate it with this key "
                    "set, or leave the key out"
                )
            own = vocabulary_digest(StudentTokenizer.open(tokenizer_folder).backend.get_vocab())
            if meet(teacher, "" if held["vocabulary"] == own else "not every token has the same id in both"):
                found[component] = int(held["top_k"])
    return found
