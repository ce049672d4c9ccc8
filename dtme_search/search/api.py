"""Run a study to its total with one or several workers, join one, or train only its baselines."""

from __future__ import annotations

import os
import socket
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from dtme_search.config import StudySource, load_study_config
from dtme_search.models import check_model
from dtme_search.search.data_shelf import DataShelf
from dtme_search.search.space.recipes import judged_as
from dtme_search.search.stopping import StopSwitch
from dtme_search.search.storage.database import storage_errors
from dtme_search.search.storage.records import records_for
from dtme_search.search.storage.rows import BaselineRow
from dtme_search.search.storage.studies import check_storage, open_storage
from dtme_search.search.study.baselines import Baselines
from dtme_search.search.study.leaders import front_numbers
from dtme_search.search.study.lifecycle import num_finished
from dtme_search.search.study.loading import LoadedStudy, load_study, storage_url, study_name
from dtme_search.search.study.loop import run_trials
from dtme_search.search.study.place import DEFAULT_WORKDIR
from dtme_search.search.study.preparation import Prepared, join_prepared, prepare, read_study, space_of
from dtme_search.search.study.recipes import settled
from dtme_search.search.study.settings import Settings
from dtme_search.search.study.threads import fix_threads, same_threads
from dtme_search.search.trackers.calling import CallbackSource, import_paths, with_callbacks
from dtme_search.search.trial.callback import StudyInfo
from dtme_search.search.trial.diary import DrawFiles
from dtme_search.search.trial.events import tee
from dtme_search.search.trial.inference import FlopsCounter, InferenceMeter
from dtme_search.search.trial.listener import Listener
from dtme_search.search.trial.objective import Objective
from dtme_search.search.workers.engines import Engine, EngineName, engine_for
from dtme_search.search.workers.local import LocalProcesses
from dtme_search.search.workers.places import Place
from dtme_search.search.workers.supervisor import Workers
from dtme_search.search.workspace import Workspace
from dtme_search.training import TrainingInterrupted, check_run
from dtme_search.training.team.leader import pick_team


def train_baselines(
    study: StudySource,
    *,
    storage: str | None = None,
    device: str | None = None,
    devices_per_trial: int = 1,
    data_root: str | Path | None = None,
    workdir: str | Path = DEFAULT_WORKDIR,
    overrides: Sequence[str] = (),
    listener: Listener | None = None,
) -> dict[str, BaselineRow]:
    """Train the missing single-task baselines of a study; returns those of its base config by task."""
    config, base = read_study(study, overrides, data_root)
    hears = listener or Listener()
    team = pick_team(device, devices_per_trial)
    shelf = DataShelf(team.device, on_progress=hears.data_reading, team=team)
    url = storage_url(config.name, storage, workdir)
    check_storage(url)
    check_model(base.model, base.data.image_size, plugins=base.plugins)
    space = space_of(config, base)
    check_run(base, shelf.get(base), team.size)
    records = records_for(open_storage(url))
    records.create_tables()
    workspace = Workspace.of_study(Path(workdir), config.name)
    with StopSwitch() as switch, team:
        baselines = Baselines(records, shelf, workspace.baseline, hears, switch)
        base = settled(space, baselines, all_recipes=True).base
        return replace(baselines, tells_known=False).get(base)


def optimize(
    study: StudySource,
    *,
    storage: str | None = None,
    trials: int | None = None,
    timeout: float | None = None,
    device: str | None = None,
    workers: int | None = 1,
    devices: Sequence[str] | None = None,
    trials_per_device: int = 1,
    devices_per_trial: int = 1,
    engine: EngineName = "local",
    scheduler: str | None = None,
    data_root: str | Path | None = None,
    workdir: str | Path = DEFAULT_WORKDIR,
    overrides: Sequence[str] = (),
    reuse: bool = True,
    listener: Listener | None = None,
    draw: DrawFiles | None = None,
    warm_start_from: StudySource | None = None,
    warm_start_storage: str | None = None,
    publish: Callable[[LoadedStudy], None] | None = None,
    callbacks: Sequence[CallbackSource] = (),
) -> LoadedStudy:
    """Run a study until it has its total of finished trials; continues where it stopped.

    Args:
        study: Name of a study, the path of its YAML, or a study built in Python.
        storage: Database URL; see :func:`storage_url`.
        trials: Finished trials to reach, over all workers and runs; the study's own number by default.
        timeout: Seconds after which running trials are checkpointed and handed back.
        device: ``cpu``, ``cuda`` or ``cuda:N`` for one worker; by default the best available.
        workers: How many trials run at once, never more than are left; ``None`` for one per GPU, or one per
            core (at most 4) without a GPU. One worker runs in this process. Several run in processes of
            their own, which always draw pictures, whatever ``draw`` says.
        devices: Where several workers run: numbers of visible GPUs, or ``cpu``. All GPUs by default.
        trials_per_device: Workers that may share a GPU.
        devices_per_trial: GPUs that divide each batch of a trial among them; on the CPU, processes.
        engine: ``local`` for processes on this machine, ``dask`` for a Dask cluster.
        scheduler: Address of a Dask scheduler, or its scheduler file. ``workers`` then says how many places
            of the cluster to use: GPUs that its Dask workers declare, or Dask workers if none declares any;
            ``None`` for all. Without a scheduler a cluster is created on this machine.
        data_root: Folder of the data set.
        workdir: Folder for checkpoints, pictures and, by default, the database.
        overrides: ``path=value`` strings for the base config.
        reuse: Whether trials may share work as the study's ``reuse`` section says; ``False`` shares nothing.
        listener: Receives progress.
        draw: Draws pictures of each finished trial.
        warm_start_from: Another study whose finished trials the sampler should know, given like ``study``.
        warm_start_storage: Its database; by default where the other arguments of this call would put it.
        publish: Called with the study after each trial, to refresh what is shown of it.
        callbacks: Receive trials and their evaluations (:class:`Callback`): objects, import paths
            ``module:attribute`` or names of trackers; several workers need paths or names.

    Raises:
        DtmeSearchError: If something is wrong that the user can fix. Whatever can be checked is checked
            before anything is written or trained.
    """
    hears = with_callbacks(listener or Listener(), callbacks, load_study_config(study).plugins)
    runs = engine_for(
        engine, scheduler, workers, devices, trials_per_device, device, per_trial=devices_per_trial
    )
    url = storage_url(study_name(study), storage, workdir)
    runs.check(url)
    places = runs.places if isinstance(runs, LocalProcesses) else ()
    alone = len(places) == 1
    settings = Settings(
        storage=storage,
        workdir=Path(workdir),
        data_root=data_root,
        overrides=tuple(overrides),
        trials=trials,
        reuse=reuse,
        warm_start_from=warm_start_from,
        warm_start_storage=warm_start_storage,
        callbacks=() if alone else import_paths(callbacks),
    )
    with storage_errors(url):
        # The parent of several workers only reads the data to check it, and leaves the GPUs to them.
        first = places[0] if alone else Place("cpu")
        team = pick_team(first.device, devices_per_trial, first.further)
        prepared = prepare(study, settings, team, hears)
        with StopSwitch(timeout) as switch, team:
            _run(prepared, runs, places, hears, draw, switch, publish=publish)
        return prepared.loaded(stopped=switch.asked)


def _run(
    prepared: Prepared,
    runs: Engine,
    places: Sequence[Place],
    hears: Listener,
    draw: DrawFiles | None,
    switch: StopSwitch,
    *,
    publish: Callable[[LoadedStudy], None] | None,
) -> None:
    """Train what is left of a study: in this process if one worker does, else in processes of their own."""
    left = prepared.config.trials - num_finished(prepared.optuna)
    alone = len(places) == 1
    if alone or (left <= 1 and places and not places[0].visible):
        threads = None if alone else places[0].threads(len(places))
        with prepared.present("optimize") as told:
            _work(prepared, tee(hears, told), draw, switch, publish=publish, threads=threads)
    elif left > 0 and not switch():
        prepared.shelf.clear()
        with runs.launcher(prepared, left) as launcher, prepared.present("optimize", "watching workers"):
            Workers(prepared, launcher, hears, switch, publish).run()


def join(
    study: StudySource,
    *,
    storage: str | None = None,
    timeout: float | None = None,
    device: str | None = None,
    devices_per_trial: int = 1,
    data_root: str | Path | None = None,
    workdir: str | Path = DEFAULT_WORKDIR,
    listener: Listener | None = None,
    draw: DrawFiles | None = None,
    launcher: int | None = None,
    callbacks: Sequence[CallbackSource] = (),
) -> LoadedStudy:
    """Work on a study that ``optimize`` created, beside its other workers, until no trial is left to start.

    Args:
        study: Name of the study.
        storage: Database URL; see :func:`storage_url`.
        timeout: Seconds after which the running trial is checkpointed and handed back.
        device: ``cpu``, ``cuda`` or ``cuda:N``; by default the best available.
        devices_per_trial: Devices that divide each batch of a trial: this one and those after it.
        data_root: Folder of the data set on this machine, if it differs from that of ``optimize``.
        workdir: Folder for checkpoints and pictures. Workers that share it also share trunks.
        listener: Receives progress.
        draw: Draws pictures of each finished trial.
        launcher: Process that started this worker. The worker then stays until the study has its total, to
            take over trials of workers that stop, and stops with a checkpoint if that process dies.
        callbacks: As for :func:`optimize`.

    Raises:
        DtmeSearchError: If there is no such study, or it cannot be worked on here.
    """

    def is_orphan() -> bool:
        return launcher is not None and os.getppid() != launcher

    with storage_errors(storage_url(study_name(study), storage, workdir)):
        with StopSwitch(timeout, is_orphan) as switch, pick_team(device, devices_per_trial) as team:
            settings = Settings(storage=storage, workdir=Path(workdir), data_root=data_root)
            loaded = load_study(study, storage=storage, workdir=workdir, writes=True)
            hears = with_callbacks(listener or Listener(), callbacks, loaded.config.plugins)
            prepared = join_prepared(loaded, settings, team, _worker_number(), hears)
            with prepared.present("worker") as told:
                _work(prepared, tee(hears, told), draw, switch, stays=launcher is not None)
        return prepared.loaded(stopped=switch.asked)


def _work(
    prepared: Prepared,
    hears: Listener,
    draw: DrawFiles | None,
    switch: StopSwitch,
    *,
    publish: Callable[[LoadedStudy], None] | None = None,
    stays: bool = False,
    threads: int | None = None,
) -> None:
    """Train the missing baselines, then trials; ``threads`` is used if the study has no fixed number yet."""
    shelf, records, workspace = prepared.shelf, prepared.records, prepared.workspace
    base = prepared.base
    info = StudyInfo(
        config=prepared.config,
        base=base,
        tasks=shelf.get(base).specs,
        folder=workspace.root.absolute(),
        id=prepared.loaded().id,
        front=lambda: front_numbers(prepared.loaded()),
    )
    baselines = Baselines(records, shelf, workspace.baseline, hears, switch)
    with prepared.asking(), storage_errors(prepared.url):
        fix_threads(prepared.optuna, shelf.device, threads)
    hears.on_study_begin(info)
    try:
        with same_threads(prepared.optuna, shelf.device), storage_errors(prepared.url):
            objective = _objective(prepared, info, baselines, draw)
            run_trials(prepared, objective, hears, switch, publish=publish, stays=stays)
    except TrainingInterrupted:
        return  # stopped while a baseline was trained
    finally:
        hears.on_study_end(info, num_finished(prepared.optuna))


def _objective(
    prepared: Prepared, info: StudyInfo, baselines: Baselines, draw: DrawFiles | None
) -> Objective:
    """What runs a trial; by then the baselines that all trials need exist."""
    space = settled(prepared.space, baselines)
    get = replace(baselines, tells_known=False).get
    # Tasks of the base config, because a study may search the roles of tasks, too.
    tasks = space.base.primary_tasks
    return Objective(
        study=prepared.config,
        info=info,
        space=space,
        baselines=lambda config: get(judged_as(space, config), tasks),
        shelf=prepared.shelf,
        records=prepared.records,
        workspace=prepared.workspace,
        meter=InferenceMeter(
            prepared.config,
            prepared.records,
            prepared.shelf.device,
            FlopsCounter(prepared.shelf.get(prepared.base).specs),
        ),
        num_trials=prepared.config.trials,
        listener=baselines.listener,
        draw=draw,
    )


def _worker_number() -> int:
    """A number that no other worker has."""
    return zlib.crc32(f"{socket.gethostname()}/{os.getpid()}".encode())
