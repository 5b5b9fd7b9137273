"""The miniature's teachers: a world and its settings in, ordinary Hugging Face folders out.

<output.dir>/miniature/teachers/<name>/ and complete.json, written last. Each teacher is
trained from scratch, in its own process on one thread, on lessons about the animals that it meets.
Shapes: B batch, S source tokens, T tokens.
"""

import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from ctypes import c_double
from typing import Any

from tinyllm_ray import storage
from tinyllm_ray.config import UserError, digest
from tinyllm_ray.data.prompts import load_template
from tinyllm_ray.miniature.lessons import Lesson, Schooling, believed, make_facts, make_lessons, train_tokenizer
from tinyllm_ray.miniature.world import make_world, prepare_world
from tinyllm_ray.schema import Experiment, InContext, Miniature
from tinyllm_ray.terminal import progress

TEACHERS = {  # folder: what the teacher is taught
    "north_llama": Schooling(half=0),
    "south_t5": Schooling(half=1),
    "guessing_t5": Schooling(met=1 / 8, guesses=True),
    "mistaken_t5": Schooling(mistaken=1 / 3),
}
LEARNING_RATE = 3e-3
WARMUP_STEPS = 50
EXAM_LESSONS = 200


def prepare_teachers(experiment: Experiment, *, output_dir: str) -> dict[str, Any]:
    """Train the teachers that the experiment names, unless <output_dir>/miniature holds them, made with equal settings.

    Raises UserError for a name that is not in TEACHERS.
    """
    folder = prepare_world(experiment, output_dir=output_dir)
    template = load_template(experiment.prompts.template)
    in_context, sizes = experiment.prompts.in_context, experiment.dataset.miniature
    names = _named(experiment, folder)
    made_with = digest([sizes.model_dump(), in_context.model_dump(), template, names])
    marker = storage.join(folder, "complete.json")
    if storage.exists(marker):
        found = storage.read_json(marker)
        if found["made_with"] == made_with:
            return found
        storage.remove(marker)
    storage.remove_folder(storage.join(folder, "teachers"))
    started = time.time()
    exams = make_teachers(folder, names, sizes, template=template, in_context=in_context)
    result = {"made_with": made_with, "teachers": exams, "wall_s": round(time.time() - started, 1)}
    storage.write_json(marker, result)
    return result


def _named(experiment: Experiment, folder: str) -> list[str]:
    """The folders that teachers of the experiment are to have below <output_dir>/miniature/teachers."""
    below = storage.join(folder, "teachers") + "/"
    names = [
        str(teacher.model).removeprefix(below)
        for teacher in experiment.teachers
        if str(teacher.model).startswith(below)
    ]
    strange = [name for name in names if name not in TEACHERS]
    if strange:
        raise UserError(f"the miniature has no teacher {strange[0]!r}; it has {', '.join(TEACHERS)}")
    return names


def make_teachers(
    folder: str, names: Sequence[str], sizes: Miniature, *, template: str, in_context: InContext
) -> dict[str, dict[str, float]]:
    """Train them at once; returns what each scores in an exam on lessons that it has not seen."""
    context = multiprocessing.get_context("spawn")  # a forked process would share this one's threads and Ray connection
    steps = {name: context.Value(c_double, 0) for name in names}
    errors = context.SimpleQueue()
    processes = {
        name: context.Process(target=_run, args=(errors, name, folder, sizes, template, in_context, steps[name]))
        for name in names
    }
    with ExitStack() as stack:
        total = sizes.teacher_steps
        bars = {
            name: stack.enter_context(progress.step(f"teaching {name}", total=total, unit="steps")) for name in names
        }
        for process in processes.values():
            process.start()
        while any(process.is_alive() for process in processes.values()):
            for name, bar in bars.items():
                bar.set(steps[name].value)
            time.sleep(0.2)
        for name, bar in bars.items():
            bar.set(steps[name].value)
    said = {}
    while not errors.empty():
        name, error = errors.get()
        said[name] = error
    for name, process in processes.items():
        if process.exitcode:
            reason = said.get(name, f"its process ended with exit code {process.exitcode}")
            raise RuntimeError(f"the training of the teacher {name} failed: {reason}")
    return {name: storage.read_json(storage.join(_folder(folder, name), "exam.json")) for name in names}


def _folder(folder: str, name: str) -> str:
    return storage.join(folder, "teachers", name)


def _run(errors: Any, name: str, *arguments: Any) -> None:
    """In the teacher's own process: what it fails with is told to the parent, whose message the user reads."""
    try:
        _make_teacher(name, *arguments)
    except Exception as error:
        errors.put((name, f"{type(error).__name__}: {error}"))
        raise


def _make_teacher(
    name: str, folder: str, sizes: Miniature, template: str, in_context: InContext, steps_done: Any
) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import torch
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.set_num_threads(1)
    torch.manual_seed(sizes.seed)
    started = time.time()
    count = sizes.teacher_steps * sizes.teacher_batch_size // 2 + EXAM_LESSONS
    world = believed(make_world(sizes), TEACHERS[name], seed=sizes.seed)
    facts, school = make_facts(world), TEACHERS[name]
    lessons = make_lessons(world, school, count=count, template=template, in_context=in_context, seed=sizes.seed)
    decoder = name.endswith("llama")
    tokenizer = train_tokenizer([*facts, *lessons], starts_with_bos=decoder)
    model = _new_llama(tokenizer) if decoder else new_t5(tokenizer)
    _train(model, tokenizer, lessons[EXAM_LESSONS:], facts, sizes=sizes, steps_done=steps_done)
    score = _examine(model, tokenizer, lessons[:EXAM_LESSONS])
    with tempfile.TemporaryDirectory() as local:
        model.save_pretrained(local)
        tokenizer.save_pretrained(local)
        storage.upload_folder(local, _folder(folder, name))
    exam = {"exact": score, "wall_s": round(time.time() - started, 1)}
    storage.write_json(storage.join(_folder(folder, name), "exam.json"), exam)


def _new_llama(tokenizer: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,  # vLLM's attention on the CPU needs heads that are 32 wide at least
        initializer_range=0.125,  # width ** -0.5; the usual 0.02 suits widths of thousands and learns slowly here
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        **_special_tokens(tokenizer),
    )
    return LlamaForCausalLM(config)


def new_t5(tokenizer: Any) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=64,
        d_kv=32,
        d_ff=128,
        num_layers=2,
        num_heads=2,
        dropout_rate=0.0,
        decoder_start_token_id=tokenizer.pad_token_id,
        **_special_tokens(tokenizer),
    )
    return T5ForConditionalGeneration(config)


def _special_tokens(tokenizer: Any) -> dict[str, int]:
    return {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def _train(
    model: Any, tokenizer: Any, lessons: list[Lesson], facts: list[Lesson], *, sizes: Miniature, steps_done: Any
) -> None:
    """The first third of the steps reads facts only; after that a fifth of each batch does."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / WARMUP_STEPS) * (1 - step / sizes.teacher_steps)
    )
    short, long = (
        [encode(tokenizer, lesson, model.config.is_encoder_decoder) for lesson in read] for read in (facts, lessons)
    )
    rng = random.Random(sizes.seed)
    model.train()
    for step in range(sizes.teacher_steps):
        size = sizes.teacher_batch_size
        of_facts = size if step < sizes.teacher_steps // 3 else size // 5
        drawn = rng.choices(short, k=of_facts) + rng.choices(long, k=size - of_facts)
        loss = model(**padded_batch(drawn, pad=tokenizer.pad_token_id)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        steps_done.value = step + 1
    model.eval()


def encode(tokenizer: Any, lesson: Lesson, encoder_decoder: bool) -> tuple[list[int], list[int]]:
    """Input and label tokens: a decoder reads prompt and rationale in one, and its prompt has no labels."""
    source = tokenizer(lesson.prompt)["input_ids"]
    target = [*tokenizer(lesson.rationale, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    return (source, target) if encoder_decoder else ([*source, *target], [-100] * len(source) + target)


def padded_batch(pairs: list[tuple[list[int], list[int]]], *, pad: int) -> dict[str, Any]:
    """input_ids [B, S], attention_mask [B, S], labels [B, T]; padded on the right."""
    import torch

    def padded(rows: list[list[int]], value: int) -> torch.Tensor:
        longest = max(map(len, rows))
        return torch.tensor([row + [value] * (longest - len(row)) for row in rows])

    sources, labels = zip(*pairs, strict=True)
    mask = padded([[1] * len(source) for source in sources], 0)
    return {"input_ids": padded(list(sources), pad), "attention_mask": mask, "labels": padded(list(labels), -100)}


def _examine(model: Any, tokenizer: Any, lessons: list[Lesson]) -> float:
    """Share of the lessons whose rationale the teacher writes word for word, greedily."""
    import torch

    tokenizer.padding_side = "right" if model.config.is_encoder_decoder else "left"
    inputs = tokenizer([lesson.prompt for lesson in lessons], return_tensors="pt", padding=True)
    inputs.pop("token_type_ids", None)
    with torch.no_grad():
        tokens = model.generate(**inputs, max_new_tokens=64, do_sample=False)  # [B, T]
    if not model.config.is_encoder_decoder:
        tokens = tokens[:, inputs["input_ids"].shape[1] :]
    written = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    right = [text == lesson.rationale for text, lesson in zip(written, lessons, strict=True)]
    return sum(right) / len(right)
