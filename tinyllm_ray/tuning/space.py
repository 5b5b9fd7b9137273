"""What a search samples from: `search.space` in, the experiments of its samples out. Needs neither Ray nor torch."""

import itertools
from typing import Any

import numpy as np

from tinyllm_ray.config import UserError, with_overrides
from tinyllm_ray.outside import load_outside
from tinyllm_ray.schema import Choice, Experiment, Grid, LogUniform, Search, Uniform
from tinyllm_ray.tuning.methods import apply_method


def check_search(experiment: Experiment) -> None:
    search = experiment.search
    if not search.space:
        raise UserError("search.space is empty; give it paths such as loss.label_weight: {choice: [0.5, 1]}")
    grids = [key for key, domain in search.space.items() if isinstance(domain, Grid)]
    if search.searcher == "grid" and len(grids) < len(search.space):
        raise UserError("search.searcher is grid, so every entry of search.space must be `grid`")
    if search.searcher == "optuna" and grids:
        raise UserError(
            f"search.space.{grids[0]} is a grid, which optuna does not walk; use choice, or searcher random"
        )
    if (search.searcher == "custom") != (search.searcher_path is not None):
        raise UserError("search.searcher custom and search.searcher_path go together; set both or neither")
    weights = [key for key in search.space if key == "loss.label_weight" or key.startswith("loss.rationale_weights.")]
    if weights and experiment.loss.weighting == "uncertainty" and "loss.weighting" not in search.space:
        raise UserError(
            f"search.space.{weights[0]} would change nothing, since loss.weighting: uncertainty learns the weights; "
            "take it out of search.space, set loss.weighting to fixed, or search loss.weighting too"
        )
    if len(search.objectives) > 1 and (search.searcher != "optuna" or search.scheduler != "none"):
        raise UserError("search.objectives has two entries; that needs searcher optuna and scheduler none")


def draw_samples(search: Search) -> list[dict[str, Any]]:
    """The samples of every searcher but optuna, each once. More samples continue the same sequence.

    `grid` and `random`: every combination of the grids, num_samples times with fresh draws of the other entries.
    """
    if search.searcher_path:
        return _custom_samples(search, search.searcher_path)
    rng = np.random.default_rng(search.seed)
    grids = {key: domain.grid for key, domain in search.space.items() if isinstance(domain, Grid)}
    others = {key: domain for key, domain in search.space.items() if not isinstance(domain, Grid)}
    samples: list[dict[str, Any]] = []
    for _ in range(1 if search.searcher == "grid" else search.num_samples):
        for values in itertools.product(*grids.values()):
            drawn = {key: _draw(domain, rng) for key, domain in others.items()}
            sample = dict(zip(grids, values, strict=True)) | drawn
            if sample not in samples:
                samples.append({key: sample[key] for key in search.space})
    return samples


def _custom_samples(search: Search, path: str) -> list[dict[str, Any]]:
    samples: list[dict[str, Any]] = []
    for sample in itertools.islice(load_outside(path, key="search.searcher_path")(search), search.num_samples):
        if not isinstance(sample, dict) or set(sample) != set(search.space):
            raise UserError(
                f"search.searcher_path: {path} gave {sample!r}; a sample maps {list(search.space)} to values"
            )
        if sample not in samples:
            samples.append({key: sample[key] for key in search.space})
    return samples


def apply_sample(experiment: Experiment, overrides: dict[str, Any]) -> Experiment:
    sampled = apply_method(with_overrides(experiment, overrides))
    extra = experiment.search.by_model
    return with_overrides(sampled, extra[sampled.student.model]) if sampled.student.model in extra else sampled


def _draw(domain: Choice | Uniform | LogUniform, rng: np.random.Generator) -> Any:
    match domain:
        case Choice():
            return domain.choice[rng.integers(len(domain.choice))]
        case Uniform():
            return float(rng.uniform(*domain.uniform))
        case LogUniform():
            low, high = domain.loguniform
            return float(np.exp(rng.uniform(np.log(low), np.log(high))))
