"""Before the first trial: check everything, create or load the study, hand back trials of dead processes."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler

from dtme_search.config import (
    RunConfig,
    StudyConfig,
    StudySource,
    base_config,
    dump_yaml,
    find_file,
    load_study_config,
    shipped,
    validate,
)
from dtme_search.config.study import ReuseConfig
from dtme_search.errors import ConfigError, StorageError
from dtme_search.models import check_model, check_weights, describe_backbone, name_weights
from dtme_search.search.data_shelf import DataShelf
from dtme_search.search.reuse.trunks import TrunkStore
from dtme_search.search.space.known_points import first_points
from dtme_search.search.space.recipes import with_rule
from dtme_search.search.space.search_space import SearchSpace
from dtme_search.search.storage.database import storage_errors
from dtme_search.search.storage.records import Records, records_for
from dtme_search.search.storage.studies import (
    BASE_ATTR,
    check_continues,
    check_same_search,
    check_storage,
    open_storage,
    open_study,
)
from dtme_search.search.storage.study_lock import AskingLock
from dtme_search.search.storage.trials import enqueue, own_trials
from dtme_search.search.study.lifecycle import num_finished, put_right, tidy
from dtme_search.search.study.loading import ID_ATTR, LoadedStudy, remember, storage_url
from dtme_search.search.study.measures import check_against_data, check_named_tasks
from dtme_search.search.study.place import Place
from dtme_search.search.study.plan_sampler import predicts_inference, study_sampler
from dtme_search.search.study.presence import present
from dtme_search.search.study.sampling import build_pruner, build_sampler, sampler_seed
from dtme_search.search.study.settings import Settings
from dtme_search.search.study.warm_start import Knowledge, WarmStart, read_knowledge
from dtme_search.search.study.weights import trim_weights
from dtme_search.search.trial.events import Hear
from dtme_search.search.trial.inference import FlopsCounter
from dtme_search.search.trial.listener import Listener
from dtme_search.search.workspace import Workspace
from dtme_search.training import check_run
from dtme_search.training.choices import check_parts
from dtme_search.training.image_size import with_image_size
from dtme_search.training.team.leader import Team

DATA_ATTR = "dtme:data"
"""Study attribute: fingerprint of the data of its baselines and trials."""
WEIGHTS_ATTR = "dtme:weights"
"""Study attribute: identifies the weights that its base config starts from."""

_SHARES_NOTHING = ReuseConfig(trunks=False, conflicts=False, equal_work=False)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A study that exists and may be worked on.

    Attributes:
        config: The study; ``trials`` is its total over all workers and runs.
        base: Its base config.
        space: Turns trials into configs.
        optuna: Trials, with the sampler and pruner of this worker.
        records: Own SQL tables.
        workspace: Folders.
        shelf: Data.
        url: Database, passwords included.
        place: Where it is, for commands that refer to it.
        knowledge: What another study knows, for the sampler.
        callbacks: Import paths of the callbacks of its workers, and names of trackers.
    """

    config: StudyConfig
    base: RunConfig
    space: SearchSpace
    optuna: optuna.Study
    records: Records
    workspace: Workspace
    shelf: DataShelf
    url: str = field(repr=False)
    place: Place = field(repr=False)
    knowledge: Knowledge | None = None
    callbacks: tuple[str, ...] = ()

    def loaded(self, *, stopped: bool = False) -> LoadedStudy:
        """The study for those who look at it."""
        return LoadedStudy(self.config, self.optuna, self.records, self.place, stopped)

    def asking(self) -> AskingLock:
        """Lock to hold while asking for a trial."""
        return AskingLock(self.workspace, self.records.engine, self.config.name)

    def warm_start(self, listener: Listener) -> WarmStart:
        """Passes the knowledge to the study when it is due."""
        return WarmStart(self.knowledge, self.space, self.records, listener)

    def present(self, command: str, doing: str = "starting") -> AbstractContextManager[Hear]:
        """Show in the database that this process is working on the study."""
        return present(self.records.engine, self.config.name, command, doing)

    def recover(self, listener: Listener) -> None:
        """Report results that dead workers left on disk, and hand back the trials they were running."""
        for number, how in put_right(self.optuna, self.workspace, self.records).items():
            listener.trial_recovered(number, how)

    def tidy(self) -> None:
        """Remove what dead workers left in the folders."""
        with self.asking(), storage_errors(self.url):
            tidy(self.optuna, self.workspace)
            trim_weights(self.loaded(), self.workspace)
        TrunkStore.of_study(self.workspace, self.config.reuse).tidy()


def read_study(
    study: StudySource, overrides: Sequence[str] = (), data_root: str | Path | None = None
) -> tuple[StudyConfig, RunConfig]:
    """A study's definition and its base config, with overrides and the data folder inserted.

    Raises:
        ConfigError: If either is wrong.
    """
    config = load_study_config(study)
    folder = None if isinstance(study, StudyConfig) else find_file(study, "studies").parent
    base = base_config(config, folder, tuple(overrides))
    return config, with_image_size(base.with_data_root(data_root))


def prepare(study: StudySource, settings: Settings, team: Team, listener: Listener) -> Prepared:
    """Create a study or continue it.

    Args:
        study: Its name, the path of its YAML, or the study itself.
        settings: Options of the call.
        team: Devices of each trial; its data are read to the first.
        listener: Receives progress.

    Raises:
        DtmeSearchError: Before anything is written, for everything that can be checked.
    """
    config, base = read_study(study, settings.overrides, settings.data_root)
    config = _as_called(config, settings)
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)  # the listener reports the same in our words

    # Find everything that can be wrong before anything is written, starting with the quickest checks.
    shelf = DataShelf(team.device, on_progress=listener.data_reading, team=team)
    url = storage_url(config.name, settings.storage, settings.workdir)
    known = open_storage(url) if check_storage(url) else None
    space = space_of(config, base)
    points = first_points(space, config)
    sampler, pruner = build_sampler(config, config.seed), build_pruner(config, base.train.num_evaluations)
    if known is not None:
        check_continues(known, config, space)
    knowledge = _knowledge(config, space, settings, url, listener)
    check_run(base, shelf.get(base), team.size)  # reads every file of the search
    check_against_data(config, base, shelf.get(base).specs)

    opened = known or open_storage(url)
    records = records_for(opened)
    records.create_tables()
    found = open_study(opened, config, space, sampler=sampler, pruner=pruner)
    config = _at_least_finished(config, found)
    seed = sampler_seed(config.seed, 0, len(own_trials(found)))
    found.sampler = _sampler(config, base, space, records, seed, shelf)
    check_same_inputs(found, base, shelf.get(base).fingerprint)
    workspace = Workspace.of_study(settings.workdir, config.name)
    place = _place_of(study, config.name, settings)
    remember(found, config, base, place)
    prepared = Prepared(
        config=config,
        base=base,
        space=space,
        optuna=found,
        records=records,
        workspace=workspace,
        shelf=shelf,
        url=url,
        place=place,
        knowledge=knowledge,
        callbacks=settings.callbacks,
    )
    prepared.recover(listener)
    prepared.tidy()
    _begin(prepared, points)
    return prepared


def _as_called(config: StudyConfig, settings: Settings) -> StudyConfig:
    """The study with what the call itself asks for."""
    reuse = config.reuse if settings.reuse else _SHARES_NOTHING
    return config.model_copy(update={"trials": settings.trials or config.trials, "reuse": reuse})


def _at_least_finished(config: StudyConfig, found: optuna.Study) -> StudyConfig:
    """A total below what is finished asks for nothing, and is not what the study planned."""
    return config.model_copy(update={"trials": max(config.trials, num_finished(found))})


def _begin(prepared: Prepared, points: Sequence[Mapping[str, Any]]) -> None:
    """Queue the points that the study wants tried first, once."""
    study, records = prepared.optuna, prepared.records
    # Checking for a point and adding it are two steps: workers that start together would add it twice.
    with prepared.asking():
        if ID_ATTR not in study.user_attrs:
            study.set_user_attr(ID_ATTR, uuid.uuid4().hex[:12])
        if not study.get_trials(deepcopy=False) and records.runs(prepared.config.name):
            # A study of this name was deleted, but only from Optuna's tables.
            records.delete_study(prepared.config.name)
            prepared.workspace.forget_all()
        for point in points:
            enqueue(study, point)


def _knowledge(
    config: StudyConfig, space: SearchSpace, settings: Settings, url: str, listener: Listener
) -> Knowledge | None:
    """What another study knows, if one was given."""
    if settings.warm_start_from is None:
        return None
    there = settings.warm_start_storage or settings.storage
    knowledge = read_knowledge(
        settings.warm_start_from, config, space, storage=there, here=url, workdir=settings.workdir
    )
    listener.knowledge_found(knowledge.study, len(knowledge.trials), knowledge.num_trials)
    return knowledge


def join_prepared(
    loaded: LoadedStudy, settings: Settings, team: Team, worker: int, listener: Listener
) -> Prepared:
    """Check a study as ``optimize`` left it, to work on it; it is neither created nor changed.

    Args:
        loaded: The study.
        settings: Options of the call; only the locations are used.
        team: Where to train.
        worker: A number that no other worker has; the sampler's seed depends on it.
        listener: Receives progress.

    Raises:
        DtmeSearchError: If this machine sees other data or other backbones.
    """
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    config, found = loaded.config, loaded.optuna
    if BASE_ATTR not in found.user_attrs:
        raise StorageError(
            f"study {config.name}: was made by an older version. Run optimize on it once, then join."
        )
    base = validate(RunConfig, json.loads(found.user_attrs[BASE_ATTR]), f"base config of study {config.name}")
    base = base.with_data_root(settings.data_root)
    shelf = DataShelf(team.device, on_progress=listener.data_reading, team=team)
    space = space_of(config, base)
    found.pruner = build_pruner(config, base.train.num_evaluations)
    seed = sampler_seed(config.seed, worker, len(own_trials(found)))
    found.sampler = _sampler(config, base, space, loaded.records, seed, shelf)
    url = storage_url(config.name, settings.storage, settings.workdir)
    check_same_search(found, config, space, url)
    check_run(base, shelf.get(base), team.size)
    check_same_inputs(found, base, shelf.get(base).fingerprint)
    prepared = Prepared(
        config=config,
        base=base,
        space=space,
        optuna=found,
        records=loaded.records,
        workspace=Workspace.of_study(settings.workdir, config.name),
        shelf=shelf,
        url=url,
        place=loaded.place,
    )
    prepared.recover(listener)
    prepared.tidy()
    return prepared


def check_same_inputs(study: optuna.Study, base: RunConfig, data_fingerprint: str) -> None:
    """Store the identity of a study's data and of its initial weights, or refuse different ones.

    Raises:
        StorageError: If its trials were trained on other data or from other weights.
    """
    weights = name_weights(base.model) or "random"
    for attr, what, now in ((DATA_ATTR, "data", data_fingerprint), (WEIGHTS_ATTR, "weights", weights)):
        known = study.user_attrs.get(attr)
        if known is None:
            study.set_user_attr(attr, now)
        elif known != now:
            raise StorageError(
                f"study {study.study_name}: its {what} must stay the same, got {now} after {known}. Restore "
                "the files and the version of this program and of timm, or give the study another `name:`."
            )


def _sampler(
    config: StudyConfig, base: RunConfig, space: SearchSpace, records: Records, seed: int, shelf: DataShelf
) -> BaseSampler:
    backbone = describe_backbone(base.model, base.data.image_size, base.plugins)
    flops = FlopsCounter(shelf.get(base).specs) if predicts_inference(config) else None
    return study_sampler(config, seed, space, records, backbone, flops)


def _place_of(study: StudySource, name: str, settings: Settings) -> Place:
    """Where a study is. One built in Python gets a YAML, so that the command line can continue it."""
    if isinstance(study, StudyConfig):
        path = (Workspace.of_study(settings.workdir, name).root / "study.yaml").absolute()
        path.write_text(dump_yaml(load_study_config(study).model_dump(exclude_unset=True)), encoding="utf-8")
    else:
        path = find_file(study, "studies").absolute()
    is_shipped = path == shipped("studies", here=False).get(str(study))
    file = None if is_shipped else str(path)  # the name of a shipped one is enough for other commands
    return Place(name, settings.workdir, settings.storage, file, settings.overrides)


def space_of(config: StudyConfig, base: RunConfig) -> SearchSpace:
    """The search space, with the rule for the baselines of its trials."""
    backbone = check_model(base.model, base.data.image_size, plugins=base.plugins)
    check_weights(base.model, base.data.image_size)
    space = SearchSpace.from_study(config, base, backbone.num_layers)
    check_parts(base, backbone.linears)
    for what, one in chain(*map(space.with_each_choice, ("model", "expansion", "schedule", "train.combine"))):
        try:
            chosen = check_model(one.model, one.data.image_size, plugins=one.plugins)
            check_parts(one, chosen.linears)
        except ConfigError as error:
            raise ConfigError(f"study {config.name}: {what}: {error}") from error
    check_named_tasks(config, space)
    return with_rule(config, space)
