"""Which files of Taskonomy exist: buildings of a split, and views by building, point and view.

Files are identified by the numbers in their names, never by their position in a sorted list: one missing file
must not shift the labels of all that follow.
"""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dtme_search.data.base import SourceSplit
from dtme_search.errors import DataError
from dtme_search.paths import expanded

Views = npt.NDArray[np.uint64]
"""Sorted, each ``point << 32 | view``: 8 bytes for a view, where its path would take a hundred."""

TINY: dict[str, tuple[str, ...]] = {
    "train": (
        *("hanson", "merom", "klickitat", "onaga", "leonardo", "marstons", "newfields", "pinesdale"),
        *("lakeville", "cosmos", "benevolence", "pomaria", "tolstoy", "shelbyville", "allensville"),
        *("wainscott", "beechwood", "coffeen", "stockman", "hiteman", "woodbine", "lindenwood", "forkland"),
        *("mifflinburg", "ranchester"),
    ),
    "val": ("wiconisco", "corozal", "collierville", "markleeville", "darden"),
    "test": ("ihlen", "muleshoe", "uvalda", "noxapater", "mcdade"),
}
"""Buildings of the official tiny split."""

LAYOUTS = (
    *("{domain}/taskonomy/{building}", "{domain}/{building}", "{building}/{domain}"),
    *("{domain}/taskonomy/{split}/{building}", "{domain}/{split}/{building}"),
    *("{split}/{domain}/{building}", "{split}/{building}/{domain}"),
)
"""Where the files of one building and domain are in the known copies."""

_FILE = re.compile(r"point_(0|[1-9][0-9]*)_view_(0|[1-9][0-9]*)_domain_(\w+)\.png")
_COLUMNS = ("id", "train", "val", "test")


@dataclass(frozen=True)
class Building:
    """The files of one building.

    Attributes:
        name: Its name.
        split: Its split; the official validation buildings belong to training.
        folders: Per domain, the folder of its files and the domain as their names spell it.
        views: Per domain, the existing views.
    """

    name: str
    split: SourceSplit
    folders: Mapping[str, tuple[Path, str]]
    views: Mapping[str, Views]


def read_splits(split: str, root: Path) -> dict[SourceSplit, tuple[str, ...]]:
    """Buildings per split: those of ``tiny``, or of a csv file with the columns id, train, val and test.

    Training uses the buildings of train and val, as in the code of the authors of DTME; a search takes its
    own hold-out from them.

    Args:
        split: ``tiny``, or the file; a relative path starts at ``root``.
        root: Folder of the data set.

    Raises:
        DataError: If the folder or the file is missing, or the file has another form.
    """
    if not root.is_dir():
        raise DataError(
            f"{root}: the folder of data set taskonomy must exist. Pass --data-root DIR or set "
            "DTME_DATA_ROOT."
        )
    table = TINY if split == "tiny" else _read_table(root / expanded(split))
    return {"train": (*table["train"], *table["val"]), "test": tuple(table["test"])}


def _read_table(path: Path) -> dict[str, list[str]]:
    try:
        # The published files end their lines with a bare carriage return, which splitlines handles.
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: the split file cannot be read ({error}). Set data.taskonomy.split to tiny or to a file."
        ) from error
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines) if any(cell.strip() for cell in row)]
    if not rows or tuple(rows[0]) != _COLUMNS:
        found = ",".join(rows[0]) if rows else "nothing"
        raise DataError(
            f"{path}: the first line must be {','.join(_COLUMNS)}, got {found}. Correct the file."
        )
    table: dict[str, list[str]] = {name: [] for name in _COLUMNS[1:]}
    for row in rows[1:]:
        if len(row) != 4 or set(row[1:]) - {"0", "1"} or row[1:].count("1") > 1:
            raise DataError(
                f"{path}: every line must be a building and three flags, at most one of them 1, got "
                f"'{','.join(row)}'. Correct the line."
            )
        if "1" in row[1:]:
            table[_COLUMNS[1 + row[1:].index("1")]].append(row[0])
    repeated = [name for name, count in Counter(row[0] for row in rows[1:]).items() if count > 1]
    if repeated:
        raise DataError(f"{path}: buildings must be listed once, got '{repeated[0]}' twice. Remove one.")
    if not table["train"]:
        raise DataError(f"{path}: at least one building must be for training, got none. Correct the file.")
    return table


def scan_buildings(
    root: Path, splits: Mapping[SourceSplit, Sequence[str]], domains: Mapping[str, Sequence[str]]
) -> list[Building]:
    """List every building of the splits.

    Args:
        root: Folder of the data set.
        splits: Buildings per split.
        domains: Per domain, the names its folder can have.

    Raises:
        DataError: If no layout fits, or a folder cannot be listed.
    """
    names = [(building, split) for split, buildings in splits.items() for building in buildings]
    layout = _find_layout(root, [building for building, _ in names], domains)
    return [_scan(root, layout, building, split, domains) for building, split in names]


def _find_layout(root: Path, buildings: Sequence[str], domains: Mapping[str, Sequence[str]]) -> str:
    for layout in LAYOUTS:
        for building in buildings:
            if _folder(root, layout, building, domains["rgb"]) is not None:
                return layout
    raise DataError(
        f"{root}: data set taskonomy must hold rgb files as DOMAIN/taskonomy/BUILDING, DOMAIN/BUILDING or "
        f"BUILDING/DOMAIN, got none of {', '.join(buildings[:3])}, ... . Give the folder that holds them, or "
        "set data.taskonomy.split."
    )


def _folder(root: Path, layout: str, building: str, names: Sequence[str]) -> Path | None:
    # A level for the split is named after it; which of train, val and test it is does not matter.
    splits = ("train", "val", "test") if "{split}" in layout else ("",)
    places = (
        root / layout.format(domain=name, building=building, split=split)
        for name in names
        for split in splits
    )
    return next((place for place in places if place.is_dir()), None)


def _scan(
    root: Path, layout: str, name: str, split: SourceSplit, domains: Mapping[str, Sequence[str]]
) -> Building:
    folders: dict[str, tuple[Path, str]] = {}
    views: dict[str, Views] = {}
    for domain, names in domains.items():
        folder = _folder(root, layout, name, names)
        if folder is not None:
            spelt, views[domain] = _list_views(folder)
            folders[domain] = (folder, spelt)
    return Building(name, split, folders, views)


def _list_views(folder: Path) -> tuple[str, Views]:
    """The spelling of the domain that most file names use, and the views with it."""
    try:
        listed = os.listdir(folder)
    except OSError as error:
        raise DataError(
            f"{folder}: must be a readable folder, got '{error.strerror}'. Complete the data set."
        ) from error
    found: dict[str, list[int]] = {}
    for name in listed:
        match = _FILE.fullmatch(name)
        if match:
            found.setdefault(match[3], []).append(int(match[1]) << 32 | int(match[2]))
    if not found:
        return folder.name, np.zeros(0, dtype=np.uint64)
    spelt = max(found, key=lambda each: (len(found[each]), each))
    return spelt, np.sort(np.array(found[spelt], dtype=np.uint64))
