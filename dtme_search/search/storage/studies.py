"""The database of a study: opened safely, continued only if it is still the same search."""

from __future__ import annotations

import json
import logging
import os
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from dtme_search.config import RunConfig, StudyConfig, validate
from dtme_search.errors import StorageError, nearest
from dtme_search.search.storage.database import (
    engine_options,
    make_engine,
    mask_url,
    parse_url,
    storage_errors,
    tune,
    wait_for_server,
)
from dtme_search.search.storage.repeating import RepeatingStorage
from dtme_search.search.storage.upgrade import make_room
from dtme_search.search.workspace import private_folder

if TYPE_CHECKING:
    from dtme_search.search.space.search_space import SearchSpace

_logger = logging.getLogger(__name__)

DEFINITION_ATTR = "dtme:definition"
"""Study attribute: objectives, limits and search space in readable form."""
BASE_ATTR = "dtme:base"
"""Study attribute: its base config as it last ran, as JSON."""
FINGERPRINT_ATTR = "dtme:space_fingerprint"
"""Study attribute: ``SearchSpace.fingerprint``."""

_CREATION_TRIES = 6


def default_storage_url(study_name: str, workdir: Path = Path("dtme-runs")) -> str:
    """URL of the SQLite file of a study, ``<workdir>/<study>/study.db``."""
    # Absolute, so that workers started elsewhere find the same file.
    path = Path(os.path.abspath(workdir)) / study_name / "study.db"
    return sqlalchemy.URL.create("sqlite", database=str(path)).render_as_string()


def open_storage(url: str, *, create: bool = True) -> RDBStorage:
    """Open a database and create Optuna's tables if missing; safe for several processes at once.

    Optuna's heartbeats stay off: :mod:`dtme_search.search.trial.heartbeat` replaces them.

    Args:
        url: Any URL that SQLAlchemy knows; ``postgresql://`` and ``mysql://`` get the driver of our extras.
        create: Whether a database that does not exist yet may be created.

    Raises:
        StorageError: One line without passwords: malformed, driver missing, unreachable, or not ours.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        _prepare_file(parsed, create)
    if not _has_studies(url) and not create:
        raise StorageError(f"{mask_url(url)} holds no study yet. `dtme-search optimize` starts one.")
    storage = _create_tables(url)
    tune(storage.engine)
    # Connections opened before this point are not tuned.
    storage.engine.dispose()
    if create:
        with storage_errors(url):
            make_room(storage.engine)
    wait_for_server(storage.engine)
    return storage


def check_storage(url: str) -> bool:
    """Find out whether :func:`open_storage` will work, without creating anything.

    Returns:
        Whether there is a database that holds studies.

    Raises:
        StorageError: As :func:`open_storage`.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite" and not _sqlite_file(parsed).exists():
        folder = next(parent for parent in _sqlite_file(parsed).absolute().parents if parent.exists())
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise StorageError(f"{folder}: must be a writable folder, for {mask_url(url)}.")
        return False
    return _has_studies(url)


def check_continues(storage: RDBStorage, study: StudyConfig, space: SearchSpace) -> None:
    """Find out whether :func:`open_study` will continue the existing study, without changing anything.

    Raises:
        StorageError: As :func:`open_study`.
    """
    with storage_errors(storage.url):
        if study.name in optuna.get_all_study_names(storage):
            opened = optuna.load_study(study_name=study.name, storage=storage)
            check_same_search(opened, study, space, storage.url)


def open_study(
    storage: RDBStorage,
    study: StudyConfig,
    space: SearchSpace,
    *,
    sampler: BaseSampler,
    pruner: BasePruner,
) -> optuna.Study:
    """Create a study, or continue it if objectives, limits and search space are the same as before.

    Raises:
        StorageError: If a study of this name searches something else; names the differences and what to do.
    """
    with storage_errors(storage.url):
        opened = optuna.create_study(
            study_name=study.name,
            storage=storage,
            directions=list(study.objectives.values()),
            sampler=sampler,
            pruner=pruner,
            load_if_exists=True,
        )
        check_same_search(opened, study, space, storage.url)
        if DEFINITION_ATTR in opened.user_attrs:
            return opened
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            opened.set_metric_names(list(study.objectives))
        opened.set_user_attr(FINGERPRINT_ATTR, space.fingerprint)
        opened.set_user_attr(DEFINITION_ATTR, _definition(study, space))
    return opened


def check_same_search(opened: optuna.Study, study: StudyConfig, space: SearchSpace, url: str) -> None:
    """Check that a study still searches the same.

    Raises:
        StorageError: If not; names the differences and what to do.
    """
    stored = opened.user_attrs.get(DEFINITION_ATTR)
    has_trials = False
    if stored is None:
        # Whoever creates a study writes its definition before its first trial. So a trial seen here, with no
        # definition when read after it, belongs to another program. All trials are read only in this case.
        has_trials = bool(opened.get_trials(deepcopy=False))
        stored = opened.user_attrs.get(DEFINITION_ATTR)
    if stored is not None:
        changes = _differences(stored, json.loads(json.dumps(_definition(study, space))))
        if changes:
            raise StorageError(_refusal(study.name, url, changes))
        return
    # Optuna would silently keep the old directions.
    directions = [direction.name.lower() for direction in opened.directions]
    if directions != [*study.objectives.values()] or has_trials:
        raise StorageError(
            f"{mask_url(url)}: study '{study.name}' was not made by dtme-search. "
            "Give the study another `name:`."
        )


def load_existing(storage: RDBStorage, name: str) -> optuna.Study:
    """Load a study for reading.

    Raises:
        StorageError: If there is none of this name; lists the existing ones.
    """
    with storage_errors(storage.url):
        try:
            return optuna.load_study(study_name=name, storage=storage)
        except KeyError:
            known = optuna.get_all_study_names(storage)
    hint = nearest(name, known) if known else " It holds no study yet; `dtme-search optimize` starts one."
    raise StorageError(f"{mask_url(storage.url)}: no study is named '{name}'.{hint}")


def stored_base_config(study: optuna.Study) -> RunConfig:
    """Base config of a study as it last ran; from an older release without the data folder.

    Raises:
        StorageError: If dtme-search did not create the study.
    """
    if DEFINITION_ATTR not in study.user_attrs:
        raise StorageError(f"study '{study.study_name}' was not made by dtme-search. Give another.")
    values = study.user_attrs[DEFINITION_ATTR]["config"]
    if BASE_ATTR in study.user_attrs:
        values = json.loads(study.user_attrs[BASE_ATTR])
    return validate(RunConfig, values, f"base config of study {study.study_name}")


def _has_studies(url: str) -> bool:
    engine = make_engine(url, tuned=False)  # it may belong to another program
    try:
        with storage_errors(url), engine.connect():
            return sqlalchemy.inspect(engine).has_table("studies")
    finally:
        engine.dispose()


def _sqlite_file(url: sqlalchemy.URL) -> Path:
    if url.database in (None, "", ":memory:"):
        raise StorageError(
            "sqlite:// must name a file, got a database in memory. Use sqlite:////folder/study.db."
        )
    return Path(url.database)


def _prepare_file(url: sqlalchemy.URL, create: bool) -> None:
    path = _sqlite_file(url)
    if not create and not path.is_file():
        raise StorageError(f"{path}: no such database. `dtme-search optimize` starts one.")
    try:
        if create:
            private_folder(path.parent)
            # SQLite would create it readable by others; its log inherits the mode of the file. Only a new
            # file is opened here, because closing a file drops all locks that this process has on it.
            with suppress(FileExistsError):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError as error:
        raise StorageError(
            f"{error.filename}: the database or its folder cannot be created: {error.strerror}."
        ) from error


def _create_tables(url: str) -> RDBStorage:
    for attempt in range(1, _CREATION_TRIES):
        try:
            return _rdb_storage(url)
        except (SQLAlchemyError, StorageInternalError) as error:
            # Processes that start on an empty database at once all create the tables; one of them wins.
            _logger.debug("creating the tables of %s: %s", mask_url(url), type(error).__name__)
            time.sleep(0.1 * attempt)
    with storage_errors(url):
        return _rdb_storage(url)


def _rdb_storage(url: str) -> RDBStorage:
    parsed = parse_url(url)
    try:
        return RepeatingStorage(
            # RDBStorage treats the URL as a format string.
            parsed.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}"),
            engine_kwargs=engine_options(parsed),
        )
    except RuntimeError:
        raise StorageError(
            f"{mask_url(url)}: its tables are of another version of Optuna than the one installed, "
            f"{optuna.__version__}. Install that version, or run `optuna storage upgrade` on a copy."
        ) from None


def _definition(study: StudyConfig, space: SearchSpace) -> dict[str, Any]:
    return {
        "objectives": [f"{name}: {direction}" for name, direction in study.objectives.items()],
        "limits": dict(study.limits),
        **({"inference": study.inference.model_dump()} if study.times_inference else {}),
        **space.definition,
    }


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Dotted paths at which two plain values differ, with both values."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            difference
            for key in [*old, *(key for key in new if key not in old)]
            for difference in _differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
        ]
    return [] if json.dumps(old) == json.dumps(new) else [f"{path} was {_short(old)}, is {_short(new)}"]


def _short(value: Any) -> str:
    text = "absent" if value is None else json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _refusal(name: str, url: str, changes: list[str]) -> str:
    more = f" (and {len(changes) - 5} more)" if len(changes) > 5 else ""
    return (
        f"study '{name}' in {mask_url(url)} searches something else: {'; '.join(changes[:5])}{more}. "
        "Give the study another `name:`, undo the change, or delete the old one with "
        f"`dtme-search study delete --study {name}`."
    )
