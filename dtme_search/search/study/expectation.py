"""What a study with several seeds believes about its plans: their delta_m as a mean over seeds.

With one seed a study shows what it saw. With several, a plan trained only with a seed that suits it would
lead. So the model of the plan sampler separates the effect of the plan from the effect of its seed.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from optuna.trial import TrialState

from dtme_search.search.storage.studies import stored_base_config
from dtme_search.search.storage.trials import own_trials
from dtme_search.search.study.loading import LoadedStudy

if TYPE_CHECKING:
    from dtme_search.search.study.resolving import Resolved

_FEWEST = 3


@dataclass(frozen=True)
class Expectation:
    """delta_m of a plan over seeds, in percent: mean and standard deviation of the belief."""

    mean: float
    deviation: float


def expectations(study: LoadedStudy) -> dict[int, Expectation]:
    """The first complete trial of each plan -> what is expected of the plan; empty with one seed."""
    complete = own_trials(study.optuna, (TrialState.COMPLETE,))
    if study.config.seeds == 1 or len(complete) < _FEWEST:
        return {}
    # Imported here, so that looking at another kind of study does not load what proposes and trains.
    from threadpoolctl import threadpool_limits

    from dtme_search.models import describe_backbone
    from dtme_search.search.proposal.choice import model_of
    from dtme_search.search.space.search_space import SearchSpace
    from dtme_search.search.study.plan_sampler import PlanSampler, study_sampler
    from dtme_search.search.study.standing import in_numbers

    base = stored_base_config(study.optuna)
    backbone = describe_backbone(base.model, base.data.image_size, base.plugins)
    space = SearchSpace.from_study(study.config, base, backbone.num_layers)
    sampler = study_sampler(study.config, 0, space, study.records, backbone)
    if not isinstance(sampler, PlanSampler):
        return {}
    standing = sampler.standing(study.optuna)
    first: dict[Hashable, tuple[int, Resolved]] = {}
    for trial in complete:
        plan = standing.resolve(trial.params)
        first.setdefault(plan.key, (trial.number, plan))
    with threadpool_limits(limits=1, user_api="blas"):
        model = model_of(standing.evidence)
        mean, deviation = model.average(in_numbers([plan for _, plan in first.values()]))
    return {
        number: Expectation(float(mean[row]), float(deviation[row]))
        for row, (number, _) in enumerate(first.values())
    }
