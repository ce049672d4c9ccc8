"""Run a study to its total, or only its baselines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import optuna
from filelock import FileLock

from dtme_search.config import RunConfig, StudyConfig, base_config, find_file, load_study_config
from dtme_search.config.study import ReuseConfig
from dtme_search.errors import StorageError
from dtme_search.models import describe_backbone
from dtme_search.search.baselines import Baselines
from dtme_search.search.data_shelf import DataShelf
from dtme_search.search.diary import DrawFiles
from dtme_search.search.lifecycle import check_failures, num_left, recover
from dtme_search.search.listener import Listener
from dtme_search.search.loading import DEFAULT_WORKDIR, STUDY_ATTR, LoadedStudy, storage_url
from dtme_search.search.objective import Objective
from dtme_search.search.records import BaselineRow, records_for
from dtme_search.search.retries import first_number, hand_back
from dtme_search.search.space import SearchSpace
from dtme_search.search.stopping import StopSwitch
from dtme_search.search.storage import (
    build_pruner,
    build_sampler,
    check_continues,
    check_storage,
    open_storage,
    open_study,
    sampler_seed,
)
from dtme_search.search.trials import enqueue, own_trials
from dtme_search.search.warm_start import WarmStart, read_knowledge
from dtme_search.search.workspace import Workspace
from dtme_search.training import TrainingInterrupted, check_run, pick_device

DATA_ATTR = "dtme:data"
"""Study attribute: fingerprint of the data of its baselines and trials."""


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
    warm_start_from: str | None = None,
    warm_start_storage: str | None = None,
    publish: Callable[[LoadedStudy], None] | None = None,
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
        warm_start_from: Another study whose finished trials the sampler should know, by name or YAML.
        warm_start_storage: Its database; by default where it would lie with the other arguments of this
            call.
        publish: Called with the study after each trial, for what is shown of it.

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
    knowledge = None
    if warm_start_from is not None:
        there = warm_start_storage or storage
        knowledge = read_knowledge(warm_start_from, config, space, storage=there, here=url, workdir=workdir)
        hears.knowledge_found(knowledge.study, len(knowledge.trials), knowledge.num_trials)
    check_run(base, shelf.get(base))  # reads every file of the search

    opened = known or open_storage(url)
    records = records_for(opened)
    records.create_tables()
    found = open_study(opened, config, space, sampler=sampler, pruner=pruner)
    found.sampler = build_sampler(config, sampler_seed(config.seed, 0, len(own_trials(found))))
    check_same_data(found, shelf.get(base).fingerprint)
    workspace = Workspace.of_study(workdir, config.name)
    found.set_user_attr(STUDY_ATTR, config.model_dump_json())
    recover(found, workspace, is_local=opened.engine.dialect.name == "sqlite")
    # Whether a point is there and adding it are two steps: workers that start together would add it twice.
    with FileLock(workspace.asking_lock):
        for point in points:
            enqueue(found, point)

    with StopSwitch(timeout) as switch:
        try:
            baselines = Baselines(records, shelf, workspace.baseline, hears, switch).get(base)
        except TrainingInterrupted:
            return LoadedStudy(config, found, records, switch.asked)
        objective = Objective(config, space, baselines, shelf, records, workspace, total, hears, draw, switch)
        study_so_far = LoadedStudy(config, found, records)
        warm_start = WarmStart(knowledge, space, records, hears)
        _run_trials(study_so_far, objective, total, switch, publish, warm_start)
    return LoadedStudy(config, found, records, switch.asked)


def check_same_data(study: optuna.Study, fingerprint: str) -> None:
    """Remember the data of a study, or refuse others.

    Raises:
        StorageError: If its trials were trained on other data.
    """
    known = study.user_attrs.get(DATA_ATTR)
    if known is None:
        study.set_user_attr(DATA_ATTR, fingerprint)
    elif known != fingerprint:
        raise StorageError(
            f"study {study.study_name}: its data must stay the same, got fingerprint {fingerprint} after "
            f"{known}. Restore the files, or give the study another `name:`."
        )


def _run_trials(
    loaded: LoadedStudy,
    objective: Objective,
    total: int,
    switch: StopSwitch,
    publish: Callable[[LoadedStudy], None] | None,
    warm_start: WarmStart,
) -> None:
    study = loaded.optuna
    try:
        while not switch() and num_left(study, total) > 0:
            with objective.asking:
                warm_start(study)
                # One trial a call: Optuna's own n_trials counts per call, not per study.
                study.optimize(objective, n_trials=1, catch=(Exception,))
            _close(study, objective, stopped=switch())
            if publish is not None:
                publish(loaded)
            check_failures(study, loaded.config.max_failures_in_a_row)
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
