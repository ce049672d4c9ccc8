"""Optuna's samplers and pruners as a study configures them."""

from __future__ import annotations

import hashlib

from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler

from dtme_search.config import StudyConfig, find_part
from dtme_search.search.study.samplers import SAMPLERS, SamplerSetting


def build_sampler(study: StudyConfig, seed: int) -> BaseSampler:
    """Optuna sampler of a study.

    For ``plan`` it is the fallback sampler, see ``plan_sampler``.

    Raises:
        ConfigError: If the sampler is unknown, cannot be loaded or has wrong options, or if ``gp`` is used
            with conditional parameters, which it would sample at random.
    """
    chosen, given = ("sampler.name", study.sampler.name), ("sampler.options", study.sampler.options)
    kind, options = find_part(SAMPLERS, chosen, given, study.plugins)
    # numpy's generators refuse larger seeds
    return kind.build(SamplerSetting(study, seed % 2**32, options))


def build_pruner(study: StudyConfig, num_evaluations: int) -> BasePruner:
    """Optuna pruner of a study with one objective; steps are evaluations, counted from 0.

    Optuna takes no part in pruning several objectives, see ``pruning``.
    """
    pruner = study.pruner
    match pruner.name:
        case "none" | "pareto":
            return NopPruner()
        case "median":
            return MedianPruner(
                n_startup_trials=pruner.num_startup_trials,
                n_warmup_steps=pruner.num_warmup_evaluations,
                # n_startup_trials would also count foreign trials, which have no curve; this one does not.
                n_min_trials=max(pruner.num_startup_trials, 1),
            )
        case "halving":
            return SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
        case "hyperband":
            return HyperbandPruner(min_resource=1, max_resource=max(num_evaluations, 1), reduction_factor=3)


def sampler_seed(base_seed: int, worker: int, num_existing_trials: int) -> int:
    """Seed of a worker's sampler, below 2**32.

    With equal seeds two workers, or a resumed one, would propose the same first points.

    Example:
        >>> len({sampler_seed(0, worker, trials) for worker in range(3) for trials in range(3)})
        9
    """
    text = f"{base_seed}/{worker}/{num_existing_trials}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
