"""The built-in data sets: one name, one builder. Other names may come from installed packages."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from dtme_search.config import DataConfig, load_description
from dtme_search.data.base import Dataset
from dtme_search.data.installed import build_installed
from dtme_search.errors import ConfigError
from dtme_search.paths import expanded


def build_dataset(config: DataConfig, *, require_complete: bool = True) -> Dataset:
    """Open the data set that ``data.name`` names.

    Args:
        config: The data section of a run.
        require_complete: Refuse a folder in which files are missing; ``check_dataset`` names them all.

    Raises:
        ConfigError: If the name is unknown, a required folder or description is not given, or the package
            that should offer the data set does not.
        DataError: If its files are missing or broken.
    """
    builder = BUILDERS.get(config.name)
    if builder is None:
        return build_installed(config, tuple(BUILDERS))
    if config.options:
        raise ConfigError(
            f"data.options must be empty for data set '{config.name}', got {sorted(config.options)}. "
            "They belong to data sets of installed packages."
        )
    return builder(config, require_complete)


def resolve_root(config: DataConfig) -> Path:
    """Folder of the data set: ``data.root``, else the environment variable ``DTME_DATA_ROOT``.

    Raises:
        ConfigError: If neither is given. The data set checks whether the folder exists.
    """
    root = config.root or os.environ.get("DTME_DATA_ROOT")
    if not root:
        raise ConfigError(
            f"data.root must name the folder of data set '{config.name}', got nothing. "
            "Give --data-root DIR, or set data.root or the environment variable DTME_DATA_ROOT."
        )
    return expanded(root)


# Each builder imports its own module, so that a data set costs nothing until it is used.
def _scenes(config: DataConfig, require_complete: bool) -> Dataset:  # noqa: ARG001
    from dtme_search.data.scenes import ScenesDataset

    return ScenesDataset(config.scenes, config.image_size)


def _nyud(config: DataConfig, require_complete: bool) -> Dataset:
    from dtme_search.data.nyud.dataset import NyudDataset

    return NyudDataset(
        resolve_root(config),
        config.nyud,
        require_complete=require_complete,
        partly_labelled=config.missing == "skip",
    )


def _folder(config: DataConfig, require_complete: bool) -> Dataset:
    from dtme_search.data.folder.dataset import FolderDataset

    if config.folder.description is None:
        raise ConfigError(
            "data.folder.description must name the YAML that describes the data, got nothing. "
            "See docs/own-data.md."
        )
    path = expanded(config.folder.description)
    description = load_description(path)
    if config.missing == "skip":
        description = description.model_copy(update={"missing": "skip"})
    root = expanded(config.root) if config.root else path.parent / expanded(description.root)
    return FolderDataset(description, root, require_complete=require_complete)


def _pascal_context(config: DataConfig, require_complete: bool) -> Dataset:
    from dtme_search.data.pascal_context.dataset import PascalContextDataset

    return PascalContextDataset(
        resolve_root(config),
        require_complete=require_complete,
        partly_labelled=config.missing == "skip",
    )


def _taskonomy(config: DataConfig, require_complete: bool) -> Dataset:
    from dtme_search.data.taskonomy.dataset import TaskonomyDataset

    return TaskonomyDataset(
        resolve_root(config),
        config.taskonomy,
        require_complete=require_complete,
        partly_labelled=config.missing == "skip",
    )


BUILDERS: dict[str, Callable[[DataConfig, bool], Dataset]] = {
    "scenes": _scenes,
    "nyud": _nyud,
    "folder": _folder,
    "pascal_context": _pascal_context,
    "taskonomy": _taskonomy,
}
"""Name in ``data.name`` -> function that opens the data set."""
