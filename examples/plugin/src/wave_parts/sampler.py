"""A sampler: any sampler of Optuna. This one hands out Optuna's quasi-random points."""

import warnings

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import QMCSampler

from dtme_search.search.study.samplers import SamplerKind


def build(setting):
    """Halton points, scrambled by the seed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return QMCSampler(
            qmc_type="halton", scramble=True, seed=setting.seed, warn_independent_sampling=False
        )


HALTON = SamplerKind(build)
