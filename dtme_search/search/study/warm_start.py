"""Finished trials of another study as knowledge for the sampler only.

They are translated by parameter name into this study's space, marked as foreign, and never count as results
of this study (see ``trials.own_trials``).

The level of delta_m depends on budget, backbone and data; its order does so much less. If both studies
contain the same unexpanded point, the foreign delta_m is shifted by the difference between the two, so that
this point has the same value in both; the shift carries the noise of two single runs. Otherwise the values
are used as they are, which assumes that the studies are on the same level [ours]. Overhead and step cost are
never shifted, because they are measured in units of each study's own backbone.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState, create_trial

from dtme_search.config import Scalar, StudyConfig, StudySource
from dtme_search.config.dotted import value_at
from dtme_search.errors import ConfigError, StorageError, nearest
from dtme_search.search.space.parameter import same
from dtme_search.search.space.search_space import SearchSpace
from dtme_search.search.storage.database import mask_url, parse_url
from dtme_search.search.storage.records import Records
from dtme_search.search.storage.rows import RunRow
from dtme_search.search.storage.studies import default_storage_url, stored_base_config
from dtme_search.search.storage.trials import FOREIGN_ATTR, is_foreign, own_trials
from dtme_search.search.study.loading import load_study, storage_url, study_name
from dtme_search.search.trial.listener import Listener

_LEARNING = ("tpe", "gp", "plan")
"""Samplers that learn from trials they did not propose."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ForeignTrial:
    """A finished trial of another study, translated into this one.

    Attributes:
        number: Its number there.
        params: Active parameters of this space.
        values: Values of the objectives, as measured there.
        constraints: Limit of this study -> how far it is exceeded.
        never_grew: Whether the network never grew.
        delta_m_shift: What was added to its delta_m.
    """

    number: int
    params: Mapping[str, Scalar]
    values: tuple[float, ...]
    constraints: Mapping[str, float]
    never_grew: bool
    delta_m_shift: float | None = None


@dataclass(frozen=True)
class Knowledge:
    """What another study knows that fits the space of this one.

    Attributes:
        study: Its name.
        storage: Its database, passwords masked.
        num_trials: Its finished trials with values.
        objectives: Names of the objectives of both.
        trials: Those that fit.
    """

    study: str
    storage: str
    num_trials: int
    objectives: tuple[str, ...]
    trials: tuple[ForeignTrial, ...]

    def add_when_due(self, study: optuna.Study, space: SearchSpace, records: Records) -> int:
        """Add what the study does not have yet, as soon as its sampler is about to propose.

        Before that, enqueued points are waiting or running; the unexpanded one among them determines the
        shift.

        Returns:
            How many trials were added.
        """
        if any("fixed_params" in trial.system_attrs for trial in _unfinished(study)):
            return 0
        marks = [
            trial.user_attrs[FOREIGN_ATTR] for trial in study.get_trials(deepcopy=False) if is_foreign(trial)
        ]
        known = {(mark["study"], mark["trial"], mark["storage"]) for mark in marks}
        new = [trial for trial in self.trials if (self.study, trial.number, self.storage) not in known]
        shift = self._shift(study, records) if new else None
        for trial in new:
            moved = trial if shift is None else _shifted(trial, shift, self.objectives)
            study.add_trial(self._frozen(moved, space))
        return len(new)

    def _shift(self, study: optuna.Study, records: Records) -> float | None:
        if "delta_m_percent" not in self.objectives:
            return None
        place = self.objectives.index("delta_m_percent")
        runs = {run.trial: run for run in records.runs(study.study_name)}
        for own in own_trials(study, (TrialState.COMPLETE,)):
            if own.number in runs and _never_grew(runs[own.number]):
                for trial in self.trials:
                    if trial.never_grew and _equal(trial.params, own.params):
                        return float(own.values[place] - trial.values[place])
        return None

    def _frozen(self, trial: ForeignTrial, space: SearchSpace) -> FrozenTrial:
        distributions = space.distributions()
        mark = {
            "study": self.study,
            "trial": trial.number,
            "storage": self.storage,
            "delta_m_shift": trial.delta_m_shift,
        }
        return create_trial(
            state=TrialState.COMPLETE,
            values=list(trial.values),
            params=dict(trial.params),
            distributions={name: distributions[name] for name in trial.params},
            user_attrs={FOREIGN_ATTR: mark},
            constraints=dict(trial.constraints),
        )


def read_knowledge(
    source: StudySource,
    study: StudyConfig,
    space: SearchSpace,
    *,
    storage: str | None,
    here: str,
    workdir: Path,
) -> Knowledge:
    """Read the finished trials of another study and translate those that fit.

    Parameters that this space does not have are dropped. A parameter that the other study did not search gets
    the value of its base config. A trial fits if every parameter that is active here has a value that its
    distribution here contains.

    Args:
        source: The other study: its name, its YAML, or the study as built in Python.
        study: This study.
        space: Its space.
        storage: Database of the other study; SQLite in its folder by default.
        here: Database of this study.
        workdir: Default folder of studies.

    Raises:
        ConfigError: If the objectives differ, or the sampler would not learn from them.
        StorageError: If there is no such study, or it is this one.
    """
    where = f"study {study.name}: --warm-start-from"
    if study.sampler.name not in _LEARNING:
        raise ConfigError(
            f"{where} needs a sampler that learns from trials it did not propose ({', '.join(_LEARNING)}), "
            f"got {study.sampler.name}. Set sampler.name, or leave it out."
        )
    name = study_name(source)
    there = storage_url(name, storage, workdir)
    _check_spelling(name, there, workdir)
    found = load_study(name, storage=there, workdir=workdir)
    try:
        if found.name == study.name and _absolute(there) == _absolute(here):
            raise StorageError(f"{where} must name another study, got '{name}' itself.")
        if list(found.config.objectives.items()) != list(study.objectives.items()):
            raise ConfigError(
                f"{where} must name a study with the same objectives ({_in_words(study)}), "
                f"got '{found.name}' with {_in_words(found.config)}."
            )
        base = stored_base_config(found.optuna).model_dump(mode="json")
        runs = {run.trial: run for run in found.records.runs(found.name)}
        complete = [
            trial for trial in own_trials(found.optuna, (TrialState.COMPLETE,)) if trial.number in runs
        ]
        fitting = [_translated(trial, runs[trial.number], base, study, space) for trial in complete]
        return Knowledge(
            found.name,
            mask_url(_absolute(there)),
            len(complete),
            tuple(study.objectives),
            tuple(trial for trial in fitting if trial is not None),
        )
    finally:
        found.records.engine.dispose()


@dataclass(frozen=True)
class WarmStart:
    """Passes knowledge, if there is any, to a study when it is due; see :meth:`Knowledge.add_when_due`."""

    knowledge: Knowledge | None
    space: SearchSpace
    records: Records
    listener: Listener

    def __call__(self, study: optuna.Study) -> None:
        """Call before each proposal, with the study's lock held."""
        if self.knowledge is None:
            return
        num_added = self.knowledge.add_when_due(study, self.space, self.records)
        if num_added:
            last = study.get_trials(deepcopy=False)[-1].user_attrs[FOREIGN_ATTR]
            self.listener.knowledge_added(self.knowledge.study, num_added, last["delta_m_shift"])


def _translated(
    trial: FrozenTrial, run: RunRow, base: Mapping[str, Any], study: StudyConfig, space: SearchSpace
) -> ForeignTrial | None:
    params: dict[str, Scalar] = {}
    for parameter in space.parameters:
        if parameter.unmet(params) is not None:
            continue
        value = trial.params.get(parameter.path, value_at(base, parameter.path, _Absent))
        try:
            params[parameter.path] = parameter.exact(value, "")
        except ConfigError:
            return None
    measured = {name: value for name in study.limits if (value := run.measure(name)) is not None}
    if not all(map(math.isfinite, trial.values)) or len(measured) < len(study.limits):
        return None
    constraints = {name: measured[name] - limit for name, limit in study.limits.items()}
    return ForeignTrial(trial.number, params, tuple(trial.values), constraints, _never_grew(run))


class _Absent:
    """Stands for a missing value; no distribution contains it."""


def _never_grew(run: RunRow) -> bool:
    return set((run.operations or "?").split()) == {"none"}


def _shifted(trial: ForeignTrial, shift: float, objectives: Sequence[str]) -> ForeignTrial:
    values = tuple(
        value + shift if name == "delta_m_percent" else value
        for name, value in zip(objectives, trial.values, strict=True)
    )
    return replace(trial, values=values, delta_m_shift=shift)


def _equal(first: Mapping[str, Scalar], second: Mapping[str, Any]) -> bool:
    return first.keys() == second.keys() and all(same(first[name], second[name]) for name in first)


def _unfinished(study: optuna.Study) -> list[FrozenTrial]:
    return own_trials(study, (TrialState.WAITING, TrialState.RUNNING))


def _check_spelling(name: str, there: str, workdir: Path) -> None:
    """A study that has no database in its default place was probably misspelt."""
    if there == default_storage_url(name, workdir):
        known = [path.parent.name for path in workdir.glob("*/study.db")]
        if name not in known:
            raise StorageError(f"--warm-start-from: {workdir} holds no study '{name}'.{nearest(name, known)}")


def _absolute(url: str) -> str:
    """The same URL for the same SQLite file, wherever the command was run."""
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        parsed = parsed.set(database=str(Path(parsed.database).resolve()))
    return sqlalchemy.URL.render_as_string(parsed, hide_password=False)


def _in_words(study: StudyConfig) -> str:
    return ", ".join(f"{name}: {direction}" for name, direction in study.objectives.items())
