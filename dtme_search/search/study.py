"""Open a study, run it to its total, or look at it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna

from dtme_search.config import RunConfig, StudyConfig, base_config, find_file, load_study_config, validate
from dtme_search.config.study import ReuseConfig
from dtme_search.errors import StorageError
from dtme_search.models import describe_backbone
from dtme_search.search.baselines import Baselines
from dtme_search.search.data_shelf import DataShelf
from dtme_search.search.diary import DrawFiles
from dtme_search.search.lifecycle import check_failures, num_left, recover
from dtme_search.search.listener import Listener
from dtme_search.search.objective import Objective
from dtme_search.search.records import BaselineRow, Records, records_for
from dtme_search.search.retries import first_number, hand_back
from dtme_search.search.savings import Savings, savings
from dtme_search.search.space import SearchSpace
from dtme_search.search.stopping import StopSwitch
from dtme_search.search.storage import (
    build_pruner,
    build_sampler,
    check_continues,
    check_storage,
    default_storage_url,
    load_existing,
    mask_url,
    open_storage,
    open_study,
    sampler_seed,
)
from dtme_search.search.workspace import Workspace
from dtme_search.training import TrainingInterrupted, check_run, pick_device

DEFAULT_WORKDIR = Path("dtme-runs")
STUDY_ATTR = "dtme:study"
"""Study attribute: the ``StudyConfig`` it last ran with, as JSON."""
DATA_ATTR = "dtme:data"
"""Study attribute: fingerprint of the data of its baselines and trials."""


@dataclass(frozen=True)
class LoadedStudy:
    """A study with its database.

    Attributes:
        config: As it was when the study was created.
        optuna: Trials, parameters, values.
        records: Baselines, evaluations, conflicts, plans, run facts.
        stopped: Whether a signal ended the ``optimize`` that gave this; the same call goes on.
    """

    config: StudyConfig
    optuna: optuna.Study
    records: Records
    stopped: bool = False

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.config.name

    def savings(self) -> Savings:
        """What sharing work saved its finished trials."""
        return savings(self.records.runs(self.name))


def storage_url(study_name: str, storage: str | None, workdir: Path) -> str:
    """Database of a study: the one given, else ``DTME_STORAGE``, else SQLite in the study's folder."""
    return storage or os.environ.get("DTME_STORAGE") or default_storage_url(study_name, workdir)


def load_study(study: str, *, storage: str | None = None, workdir: Path = DEFAULT_WORKDIR) -> LoadedStudy:
    """Open a study that exists.

    Args:
        study: Name of the study, or the path of its YAML.
        storage: Database URL; see :func:`storage_url`.
        workdir: Where studies lie by default.

    Raises:
        StorageError: If there is no such study or the database cannot be reached.
    """
    name = load_study_config(study).name if study.endswith((".yaml", ".yml")) else study
    opened = open_storage(storage_url(name, storage, workdir), create=False)
    found = load_existing(opened, name)
    if STUDY_ATTR not in found.user_attrs:
        raise StorageError(f"{mask_url(opened.url)}: study '{name}' was not made by dtme-search.")
    config = validate(StudyConfig, json.loads(found.user_attrs[STUDY_ATTR]), f"study {name}")
    records = records_for(opened)
    records.create_tables()  # a study of an older release is brought up to date
    return LoadedStudy(config, found, records)


def read_study(
    study: str, overrides: Sequence[str] = (), data_root: str | None = None
) -> tuple[StudyConfig, RunConfig]:
    """A study's definition and its base config with overrides and the data folder put in.

    Raises:
        ConfigError: If either is wrong.
    """
    path = find_file(study, "studies")
    config = load_study_config(study)
    base = base_config(config, path.parent, tuple(overrides))
    return config, base.with_data_root(data_root)


def train_baselines(
    study: str,
    *,
    storage: str | None = None,
    device: str | None = None,
    data_root: str | None = None,
    workdir: Path = DEFAULT_WORKDIR,
    overrides: Sequence[str] = (),
    listener: Listener | None = None,
) -> dict[str, BaselineRow]:
    """Train the single-task baselines of a study that are missing; gives all of them by task."""
    config, base = read_study(study, overrides, data_root)
    hears = listener or Listener()
    shelf = DataShelf(pick_device(device), on_progress=hears.data_reading)
    url = storage_url(config.name, storage, workdir)
    check_storage(url)
    describe_backbone(base.model, base.data.image_size)
    check_run(base, shelf.get(base))
    records = records_for(open_storage(url))
    records.create_tables()
    workspace = Workspace.of_study(workdir, config.name)
    with StopSwitch() as switch:
        return Baselines(records, shelf, workspace.baseline, hears, switch).get(base)


def optimize(
    study: str,
    *,
    storage: str | None = None,
    trials: int | None = None,
    timeout: float | None = None,
    device: str | None = None,
    data_root: str | None = None,
    workdir: Path = DEFAULT_WORKDIR,
    overrides: Sequence[str] = (),
    reuse: bool = True,
    listener: Listener | None = None,
    draw: DrawFiles | None = None,
) -> LoadedStudy:
    """Run a study until it has its total of finished trials; continues where it stopped.

    Args:
        study: Name of a study, or the path of its YAML.
        storage: Database URL; see :func:`storage_url`.
        trials: Finished trials to reach, over all runs; the study's own number by default.
        timeout: Seconds after which the trial in hand is checkpointed and handed back.
        device: ``cpu``, ``cuda`` or ``cuda:N``; the best there is by default.
        data_root: Folder of the data set.
        workdir: Where checkpoints, pictures and by default the database lie.
        overrides: ``path=value`` strings for the base config.
        reuse: Whether trials may share work as the study's ``reuse`` section says; ``False`` shares nothing.
        listener: Hears of progress.
        draw: Draws pictures of each finished trial.

    Raises:
        DtmeSearchError: If something is wrong that the user can mend. What can be checked is checked
            before anything is written or trained.
    """
    config, base = read_study(study, overrides, data_root)
    if not reuse:
        config = config.model_copy(
            update={"reuse": ReuseConfig(trunks=False, conflicts=False, equal_work=False)}
        )
    total = trials or config.trials
    hears = listener or Listener()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)  # the listener tells the same in our words

    # Whatever can be wrong is found here, the quickest first, before anything is written.
    shelf = DataShelf(pick_device(device), on_progress=hears.data_reading)
    url = storage_url(config.name, storage, workdir)
    known = open_storage(url) if check_storage(url) else None
    backbone = describe_backbone(base.model, base.data.image_size)
    space = SearchSpace.from_study(config, base, backbone.num_layers)
    points = [space.point(point) for point in config.enqueue]
    sampler = build_sampler(config, config.seed)
    pruner = build_pruner(config, base.train.num_evaluations)
    if known is not None:
        check_continues(known, config, space)
    check_run(base, shelf.get(base))  # reads every file of the search

    opened = known or open_storage(url)
    records = records_for(opened)
    records.create_tables()
    found = open_study(opened, config, space, sampler=sampler, pruner=pruner)
    found.sampler = build_sampler(config, sampler_seed(config.seed, 0, len(found.get_trials(deepcopy=False))))
    _check_same_data(found, shelf.get(base).fingerprint)
    workspace = Workspace.of_study(workdir, config.name)
    found.set_user_attr(STUDY_ATTR, config.model_dump_json())
    recover(found, workspace, is_local=opened.engine.dialect.name == "sqlite")
    for point in points:
        found.enqueue_trial(point, skip_if_exists=True)

    with StopSwitch(timeout) as switch:
        try:
            baselines = Baselines(records, shelf, workspace.baseline, hears, switch).get(base)
        except TrainingInterrupted:
            return LoadedStudy(config, found, records, switch.asked)
        objective = Objective(config, space, baselines, shelf, records, workspace, total, hears, draw, switch)
        _run_trials(found, objective, total, switch, config.max_failures_in_a_row)
    return LoadedStudy(config, found, records, switch.asked)


def _check_same_data(study: optuna.Study, fingerprint: str) -> None:
    known = study.user_attrs.get(DATA_ATTR)
    if known is None:
        study.set_user_attr(DATA_ATTR, fingerprint)
    elif known != fingerprint:
        raise StorageError(
            f"study {study.study_name}: its data must stay the same, got fingerprint {fingerprint} after "
            f"{known}. Restore the files, or give the study another `name:`."
        )


def _run_trials(
    study: optuna.Study, objective: Objective, total: int, switch: StopSwitch, failures_in_a_row: int
) -> None:
    try:
        while not switch() and num_left(study, total) > 0:
            with objective.asking:
                # One trial a call: Optuna's own n_trials counts per call, not per study.
                study.optimize(objective, n_trials=1, catch=(Exception,))
            _close(study, objective, stopped=switch())
            check_failures(study, failures_in_a_row)
    except KeyboardInterrupt:
        _close(study, objective, stopped=True)
        raise
    finally:
        objective.let_go()


def _close(study: optuna.Study, objective: Objective, *, stopped: bool) -> None:
    """Let go of the trial in hand: queued again if it was stopped, else its checkpoint has served."""
    if objective.last_number is None:
        return
    trial = study.get_trials(deepcopy=False)[objective.last_number]
    if stopped and trial.state == optuna.trial.TrialState.FAIL and "error" not in trial.user_attrs:
        hand_back(study, trial.number)
    elif trial.state.is_finished():
        (objective.workspace.trial(first_number(trial)) / "checkpoint.pt").unlink(missing_ok=True)
    objective.let_go()
