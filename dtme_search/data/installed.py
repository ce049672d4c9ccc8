"""Data sets of other packages, found by their entry points.

A package offers one by naming a function in its ``pyproject.toml``::

    [project.entry-points."dtme_search.datasets"]
    orchard = "orchard_data:open_orchard"

The function takes the folder of the data (``data.root``, ``None`` if not given) and ``data.options``, and
returns a ``Dataset``::

    def open_orchard(root: Path | None, options: Mapping[str, int | float | bool | str]) -> Dataset: ...

It reports mistakes of the user as a ``DataError`` or a ``ConfigError``, which are printed in one line.
"""

from __future__ import annotations

import inspect
import os
from importlib.metadata import EntryPoint, entry_points

from dtme_search.config import DataConfig
from dtme_search.data.base import Dataset
from dtme_search.errors import ConfigError, DtmeSearchError, nearest
from dtme_search.paths import expanded

GROUP = "dtme_search.datasets"
"""Group of the entry points."""

_PARTS = ("tasks", "fingerprint", "ids", "groups", "class_presence", "read")


def installed_datasets() -> dict[str, EntryPoint]:
    """Data sets of installed packages by name; none of them is imported."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def build_installed(config: DataConfig, built_in: tuple[str, ...]) -> Dataset:
    """Open the data set of the installed package that ``data.name`` names.

    Args:
        config: The data section of a run.
        built_in: Other known names, for the error message.

    Raises:
        ConfigError: If no package offers it, or what it offers cannot be imported or is not a data set.
        DtmeSearchError: From its function.
    """
    found = installed_datasets()
    entry = found.get(config.name)
    if entry is None:
        raise ConfigError(
            f"data.name: no data set is named '{config.name}'.{nearest(config.name, (*built_in, *found))}"
        )
    where = f"data set '{config.name}' of package {entry.dist.name if entry.dist else entry.module}"
    root = config.root or os.environ.get("DTME_DATA_ROOT")
    try:
        opened: Dataset = entry.load()(expanded(root) if root else None, dict(config.options))
    except DtmeSearchError:
        raise
    except (ImportError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"{where}: {entry.value} must be a function of root and options, got an error: {error}. "
            "Fix or update the package."
        ) from error
    # Not by hasattr, which would evaluate a property such as the fingerprint and raise its errors.
    missing = [part for part in _PARTS if inspect.getattr_static(opened, part, None) is None]
    if missing:
        raise ConfigError(
            f"{where}: the result of {entry.value} must have {', '.join(_PARTS)}, got no "
            f"{', '.join(missing)}. See dtme_search.data.Dataset."
        )
    return opened
