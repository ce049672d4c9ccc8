"""Trained networks that a study keeps: which stay on disk, which go, and where one lies."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from dtme_search.config import RunConfig
from dtme_search.errors import StorageError
from dtme_search.search.storage.rows import BaselineRow, RunRow
from dtme_search.search.storage.trials import KEPT_ATTR, own_trials
from dtme_search.search.study.leaders import front_numbers
from dtme_search.search.study.loading import LoadedStudy
from dtme_search.search.study.states import trial_states
from dtme_search.search.trial.retries import first_number
from dtme_search.search.workspace import Workspace


@dataclass(frozen=True)
class TrainedTrial:
    """A trial whose trained network is at hand.

    Attributes:
        path: File of the network; config and tasks are beside it.
        baselines: Single-task baselines that the trial was compared with, by task.
        against: What they are, in words.
    """

    path: Path
    baselines: Mapping[str, BaselineRow]
    against: str


def trim_weights(study: LoadedStudy, workspace: Workspace) -> None:
    """Remove the trained networks in a folder that the study does not keep.

    To be called under the study's lock: what the trials that run have written stays. Each machine does so
    in its own folder.
    """
    for path in spare_weights(study, workspace):
        path.unlink(missing_ok=True)


def spare_weights(study: LoadedStudy, workspace: Workspace) -> list[Path]:
    """Files of trained networks that :func:`trim_weights` would remove."""
    found = workspace.kept_weights()
    if not found:
        return []
    alive = study.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING))
    stay = _kept(study) | {first_number(trial) for trial in alive}
    spare = [path for number, path in found.items() if number not in stay]
    return [file for path in spare for file in (path, path.with_name("tasks.json")) if file.exists()]


def trained_trial(study: LoadedStudy, number: int) -> TrainedTrial:
    """The trained network of a trial, in the study's folder or where it was written.

    Raises:
        StorageError: If the study has no such trial, it is not complete, or its network is not here.
    """
    show, trials = study.place.command("show"), study.optuna.get_trials(deepcopy=False)
    state = trial_states(study.optuna, study.records.engine).get(number)
    if state is None:
        raise StorageError(f"study {study.name}: no trial has the number {number}. All: {show}")
    if state != "complete":
        raise StorageError(
            f"study {study.name}: trial {number} must be complete, got {state}: no other has a trained "
            f"network. All: {show}"
        )
    (run,) = study.records.runs(study.name, number)
    trained = trials[_trained_by(trials[number])]
    (row,) = study.records.runs(study.name, trained.number)
    path = _place(study, trained, row, number)
    against = json.loads(run.baselines or "{}")
    rows = {each.fingerprint: each for each in study.records.baselines()}
    baselines = {task: rows[name] for task, name in against.items() if name in rows}
    config = RunConfig.model_validate_json(run.config or "")
    return TrainedTrial(path, baselines, config.baselines.in_words())


def _kept(study: LoadedStudy) -> set[int]:
    """First numbers of the trials whose networks the study keeps."""
    if study.config.keep_weights == "none":
        return set()
    complete = own_trials(study.optuna, (TrialState.COMPLETE,))
    front = front_numbers(study) if study.config.keep_weights == "front" else None
    wanted = {_trained_by(trial) for trial in complete if front is None or trial.number in front}
    return {first_number(trial) for trial in complete if trial.number in wanted}


def _trained_by(trial: FrozenTrial) -> int:
    """Number of the trial that did the work of this one."""
    return int(trial.user_attrs.get("origin_trial", trial.number))


def _place(study: LoadedStudy, trained: FrozenTrial, row: RunRow, number: int) -> Path:
    """Where the network of a trial lies that did the work of trial ``number``."""
    from dtme_search.training.weights import fingerprint_of  # only here: to look at studies loads no torch

    first = first_number(trained)
    here = Workspace(study.place.workdir / study.name).weights(first)
    written = trained.user_attrs.get(KEPT_ATTR)
    for path in [here, *([Path(written["path"])] if written else [])]:
        # A folder may be that of another study of the same name.
        if path.is_file() and fingerprint_of(path) in (None, row.fingerprint):
            return path
    what = f"study {study.name}: the trained network of trial {number}"
    again = (
        f"{study.place.command('export', '--trial', str(number), '--out', 'again.yaml')} and then "
        f"{study.place.train('again.yaml')}"
    )
    if written is None or first not in _kept(study):
        raise StorageError(
            f"{what} was not kept (keep_weights: {study.config.keep_weights}). To train it again: {again}"
        )
    if written["host"] != socket.gethostname():
        raise StorageError(
            f"{what} lies on {written['host']} in {written['path']}, and this is {socket.gethostname()}. "
            f"Run the command there, or copy that folder to {here.parent}."
        )
    raise StorageError(f"{what} is gone from {written['path']}. To train it again: {again}")
