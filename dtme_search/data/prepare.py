"""The data sets that must first be converted into a folder layout: one name, one preparer."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dtme_search.errors import ConfigError, DataError, nearest

Progress = Callable[[int, int], None]
"""Called with the number of samples done and in total, from the calling thread."""


@dataclass(frozen=True)
class PrepareReport:
    """What ``prepare`` did.

    Attributes:
        name: Name of the data set.
        out: Folder that ``data.root`` can now name.
        num_samples: Samples that were written; those of an earlier, interrupted call do not count.
    """

    name: str
    out: Path
    num_samples: int


class Preparer(Protocol):
    """Writes one data set; called again it continues where it stopped."""

    def __call__(self, source: Path, out: Path, *, jobs: int, on_progress: Progress) -> int:
        """Convert ``source`` into the layout that the data set reads, and write it to ``out``.

        Args:
            source: File or folder as published.
            out: Folder to write to; it exists.
            jobs: Processes to use, 1 or more.
            on_progress: See ``Progress``.

        Returns:
            Number of samples that were written by this call.

        Raises:
            DataError: If something is missing or broken, if ``out`` holds something else, or if a package is
                missing.
        """
        ...


def prepare(name: str, source: Path, out: Path, *, jobs: int, on_progress: Progress) -> PrepareReport:
    """Convert a published data set into the folder layout that ``data.root`` names.

    Args:
        name: Name of the data set.
        source: File or folder as published.
        out: Folder to write to; created if missing.
        jobs: Processes to use, 1 or more.
        on_progress: See ``Progress``.

    Raises:
        ConfigError: If no data set of that name needs to be prepared.
        DataError: From the preparer, or if ``source`` does not exist or ``out`` cannot be a folder.
        ValueError: If ``jobs`` is below 1.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    preparer = PREPARERS.get(name)
    if preparer is None:
        raise ConfigError(f"data prepare: nothing to prepare is named '{name}'.{nearest(name, PREPARERS)}")
    if not source.exists():
        raise DataError(
            f"{source}: the source of data set {name} must exist. Give --source the published one."
        )
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: must be a folder, got a file. Give --out another name.")
    if out.is_dir() and source.is_dir() and os.path.samefile(source, out):
        raise DataError(f"{out}: must be another folder than the source. Give --out another name.")
    out.mkdir(parents=True, exist_ok=True)
    return PrepareReport(name, out, preparer(source, out, jobs=jobs, on_progress=on_progress))


# Each preparer imports its own module, so that a data set costs nothing until it is used.
def _nyud(source: Path, out: Path, *, jobs: int, on_progress: Progress) -> int:
    from dtme_search.data.nyud.prepare import prepare_nyud

    return prepare_nyud(source, out, jobs=jobs, on_progress=on_progress)


def _pascal_context(source: Path, out: Path, *, jobs: int, on_progress: Progress) -> int:
    from dtme_search.data.pascal_context.prepare import prepare_pascal_context

    return prepare_pascal_context(source, out, jobs=jobs, on_progress=on_progress)


PREPARERS: dict[str, Preparer] = {"nyud": _nyud, "pascal_context": _pascal_context}
"""Name of a data set -> what writes its folder."""
