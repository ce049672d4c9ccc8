"""Rules of samplers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection

from dtme_search.config import StudyConfig
from dtme_search.guards import Guard
from dtme_search.search.study.samplers import SamplerKind, SamplerSetting, guarded_sampler
from dtme_search.testing.words import words_of

_TRIALS = 14
_STUDY = {
    "name": "made-up",
    "config": {},
    "trials": _TRIALS,
    "search": {"train.lr": {"low": 1e-5, "high": 1e-2, "log": True}},
}


def check_sampler(kind: SamplerKind, options: Any = None, *, name: str = "") -> None:
    """Check a sampler on made-up studies with one and two objectives and a conditional parameter.

    Args:
        kind: The sampler.
        options: Its options; by default their defaults.
        name: For messages.

    Raises:
        BrokenRule: Names the first rule that is broken.
    """
    guard = Guard(words_of("samplers", name))
    guarded = guarded_sampler(kind, guard.part)
    options = kind.options() if options is None else options
    config = StudyConfig.model_validate(_STUDY)

    def build(seed: int) -> BaseSampler:
        return guarded.build(SamplerSetting(config, seed, options))

    with _silence():
        for directions in (["maximize"], ["maximize", "minimize"]):
            first, again = (_proposals(build(3), directions) for _ in range(2))
            rule = "give samplers that propose the same for the same seed and trials"
            guard.hold(first == again, "build", rule)
            build(3).reseed_rng()


def _proposals(sampler: BaseSampler, directions: list[str]) -> list[dict[str, Any]]:
    """What it proposes in a study in which some trials fail or are pruned, and one is given."""
    ways = [StudyDirection[direction.upper()] for direction in directions]
    study = optuna.create_study(directions=ways, sampler=sampler)
    study.enqueue_trial({"kind": "grow", "rate": 0.5})
    for number in range(_TRIALS):
        trial = study.ask()
        score = trial.suggest_float("rate", 0.1, 1.0) - trial.suggest_float("lr", 1e-5, 1e-2, log=True)
        if trial.suggest_categorical("kind", ["none", "grow"]) == "grow":
            score += trial.suggest_int("rank", 2, 8, step=2)
        score += trial.suggest_categorical("fraction", [0.0, 0.25, 0.5])
        if number % 5 == 3:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        elif number % 5 == 4:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, [score, 1.0 / (1 + score * score)][: len(directions)])
    return [trial.params for trial in study.trials]


@contextmanager
def _silence() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
