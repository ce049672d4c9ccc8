"""Rename a study: in all tables, in its folder, in its own attributes."""

from __future__ import annotations

import json
from pathlib import Path

import optuna

from dtme_search.config import StudyConfig, dump_yaml, load_study_config, shipped, validate
from dtme_search.errors import ConfigError, StorageError
from dtme_search.search.manage.removal import idle_study
from dtme_search.search.storage.database import storage_errors
from dtme_search.search.storage.optuna_internals import storage_of
from dtme_search.search.storage.removal import rename_study as rename_rows
from dtme_search.search.storage.studies import default_storage_url
from dtme_search.search.study.loading import FILE_ATTR, STUDY_ATTR, LoadedStudy, load_study, storage_url
from dtme_search.search.study.place import DEFAULT_WORKDIR


def rename_study(
    study: str, new: str, *, storage: str | None = None, workdir: Path = DEFAULT_WORKDIR
) -> tuple[LoadedStudy, str]:
    """Rename a study; returns it, and the YAML in which the user must change ``name:``, if any.

    A shipped study gets its own YAML in its folder, because the shipped one has the old name.

    Raises:
        ConfigError: If the name is not allowed.
        StorageError: If the name is taken, there is no such study, or it is in use.
    """
    loaded = idle_study(study, storage=storage, workdir=workdir)
    old, engine = loaded.name, loaded.records.engine
    stored = json.loads(loaded.optuna.user_attrs[STUDY_ATTR])
    config = validate(StudyConfig, {**stored, "name": new}, f"study {old}")
    if Path(new).name != new or new in (".", "..", ""):
        raise ConfigError(f"study {old}: its new name must be a valid folder name, got '{new}'.")
    url = storage_url(old, storage, workdir)
    moves = url == default_storage_url(old, workdir)
    folder = workdir / new
    with storage_errors(url):
        names = optuna.get_all_study_names(storage_of(loaded.optuna))
    if new in names or folder.exists():
        raise StorageError(f"study {old}: its new name must be free, got '{new}'. Give another one.")
    file = loaded.optuna.user_attrs.get(FILE_ATTR)
    written = folder / "study.yaml"
    remade = file is None or Path(file) == (workdir / old / "study.yaml").absolute()
    with storage_errors(url):
        loaded.optuna.set_user_attr(STUDY_ATTR, config.model_dump_json())
        if remade:
            loaded.optuna.set_user_attr(FILE_ATTR, str(written.absolute()))
        rename_rows(engine, old, new)
    engine.dispose()
    if (workdir / old).is_dir() and (moves or not (workdir / old / "study.db").exists()):
        (workdir / old).rename(folder)
    if remade:
        source = load_study_config(str(folder / "study.yaml")) if file else _shipped(old, config)
        folder.mkdir(exist_ok=True)
        written.write_text(dump_yaml(source.model_copy(update={"name": new})), encoding="utf-8")
    return load_study(new, storage=storage, workdir=workdir), "" if remade else str(file)


def _shipped(name: str, otherwise: StudyConfig) -> StudyConfig:
    return load_study_config(name) if name in shipped("studies", here=False) else otherwise
