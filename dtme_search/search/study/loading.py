"""Open an existing study, to look at it or to continue it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import optuna

from dtme_search.config import RunConfig, StudyConfig, StudySource, load_study_config, validate
from dtme_search.errors import StorageError
from dtme_search.search.reuse.savings import Savings, savings
from dtme_search.search.storage.database import mask_url
from dtme_search.search.storage.looking import readable_url
from dtme_search.search.storage.records import Records, records_for
from dtme_search.search.storage.studies import (
    BASE_ATTR,
    default_storage_url,
    load_existing,
    open_storage,
)
from dtme_search.search.study.place import DEFAULT_WORKDIR, Place

STUDY_ATTR = "dtme:study"
"""Study attribute: the ``StudyConfig`` it last ran with, as JSON."""
FILE_ATTR = "dtme:file"
"""Study attribute: the YAML it last ran from, if it is not a shipped one."""
OVERRIDES_ATTR = "dtme:set"
"""Study attribute: the overrides it last ran with."""

ID_ATTR = "dtme:id"
"""Study attribute: identifies it for trackers, unlike a name, which a later study may have, too."""


@dataclass(frozen=True)
class LoadedStudy:
    """A study with its database.

    Attributes:
        config: As it was when the study was created.
        optuna: Trials, parameters, values.
        records: Baselines, evaluations, conflicts, plans, run facts.
        place: Where it is, for commands that refer to it.
        stopped: Whether a signal ended the ``optimize`` that returned this; the same call continues.
    """

    config: StudyConfig
    optuna: optuna.Study
    records: Records
    place: Place
    stopped: bool = False

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.config.name

    @property
    def id(self) -> str:
        """Identifies the study, also after it was renamed."""
        return str(self.optuna.user_attrs.get(ID_ATTR, self.name))

    def savings(self) -> Savings:
        """What sharing work saved its finished trials."""
        return savings(self.records.runs(self.name))


def study_name(study: StudySource) -> str:
    """Name of a study given by name, by the path of its YAML, or as built in Python."""
    if isinstance(study, StudyConfig):
        return study.name
    return load_study_config(study).name if str(study).endswith((".yaml", ".yml")) else str(study)


def storage_url(study_name: str, storage: str | None, workdir: str | Path) -> str:
    """Database of a study: the one given, else ``DTME_STORAGE``, else SQLite in the study's folder."""
    return storage or os.environ.get("DTME_STORAGE") or default_storage_url(study_name, Path(workdir))


def load_study(
    study: StudySource,
    *,
    storage: str | None = None,
    workdir: str | Path = DEFAULT_WORKDIR,
    writes: bool = False,
) -> LoadedStudy:
    """Open an existing study. Looking at it writes nothing, unless an older release created it.

    Args:
        study: Name of the study, the path of its YAML, or the study as it was built in Python.
        storage: Database URL; see :func:`storage_url`.
        workdir: Default folder of studies.
        writes: Whether the caller will write; if not, a database on a read-only disk is copied.

    Raises:
        StorageError: If there is no such study or the database cannot be reached.
    """
    name = study_name(study)
    url = storage_url(name, storage, workdir)
    opened = open_storage(url if writes else readable_url(url), create=False)
    found = load_existing(opened, name)
    try:
        attributes = found.user_attrs
        values = json.loads(attributes[STUDY_ATTR])
    except KeyError:
        raise StorageError(f"{mask_url(opened.url)}: study '{name}' was not made by dtme-search.") from None
    except (ValueError, TypeError) as error:
        raise StorageError(
            f"{mask_url(opened.url)}: the attributes of study '{name}' are damaged ({error}). Take the "
            "database from a backup."
        ) from None
    config = validate(StudyConfig, values, f"study {name}")
    records = records_for(opened)
    if not records.is_current():
        records.create_tables()  # upgrades a study of an older release
    overrides = tuple(attributes.get(OVERRIDES_ATTR, ()))
    place = Place(name, Path(workdir), storage, attributes.get(FILE_ATTR), overrides)
    return LoadedStudy(config, found, records, place)


def remember(found: optuna.Study, config: StudyConfig, base: RunConfig, place: Place) -> None:
    """Store what a study runs with, for workers that join, and how it was started."""
    found.set_user_attr(BASE_ATTR, base.model_dump_json())
    found.set_user_attr(STUDY_ATTR, config.model_dump_json())
    for name, value in ((FILE_ATTR, place.file), (OVERRIDES_ATTR, list(place.overrides))):
        if value != found.user_attrs.get(name):
            found.set_user_attr(name, value)
