"""Output files: none overwrites another one, or a file that somebody else wrote."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Literal

from dtme_search.errors import ConfigError, ExportError

MARK = "dtme-search"
"""Mark in every file that we write for a user."""
_END_BYTES = 4096


def refuse_foreign(path: Path, way_out: str = "Give --out another name") -> None:
    """Refuse to overwrite a file that no earlier call has written.

    Raises:
        ConfigError: If there is one.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        ends = file.read(_END_BYTES)
        file.seek(max(0, path.stat().st_size - _END_BYTES))
        if MARK.encode() not in ends + file.read():
            raise ConfigError(f"{path} already exists and was not written by {MARK}. {way_out}.")


def write_own_text(path: Path, text: str) -> Path:
    """Write a text with our mark, unless a file without it is there; returns the path.

    Raises:
        ConfigError: If there is one.
        ExportError: If it cannot be written.
    """
    refuse_foreign(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ExportError(f"{path}: cannot be written: {error.strerror}. Give another --out.") from error
    return path


def refuse_existing(paths: Sequence[Path]) -> None:
    """Refuse to overwrite files that have no mark of ours, because their owner is unknown.

    Raises:
        ConfigError: Names the first one and how many there are.
    """
    there = [path for path in paths if path.exists()]
    if there:
        more = f" (and {len(there) - 1} more)" if len(there) > 1 else ""
        raise ConfigError(
            f"{there[0]}{more} already exists. Give --out another folder, or --force to replace it."
        )


PICTURES = (".bmp", ".gif", ".jpeg", ".jpg", ".mpo", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""File endings treated as pictures in a folder; a file given by name may have any."""


def find_pictures(places: Sequence[Path], out: Path) -> list[Path]:
    """The given files, and the pictures in the given folders and their subfolders, but none in ``out``, where
    earlier calls have written.

    Raises:
        ConfigError: If a place does not exist, or a folder holds no picture.
    """
    found: dict[Path, None] = {}
    written = out.resolve()
    for place in places:
        if not place.is_dir():
            found[place] = None
            continue
        inside = [
            path
            for path in sorted(place.rglob("*"))
            if path.suffix.lower() in PICTURES
            and path.is_file()
            and not path.resolve().is_relative_to(written)
        ]
        if not inside:
            raise ConfigError(f"{place}: must hold pictures ({', '.join(PICTURES)}), got none.")
        found.update(dict.fromkeys(inside))
    return list(found)


@dataclass(frozen=True)
class OutputNames:
    """Names of the files that a prediction writes for one picture.

    Attributes:
        panels: The drawing.
        rasters: Task -> file with its numbers.
    """

    panels: str
    rasters: Mapping[str, str]


def output_names(pictures: Sequence[Path], endings: Mapping[str, str] | None = None) -> list[OutputNames]:
    """Names for what is written about each picture: no two of all these files share one.

    If pictures share a name, folders and ending distinguish them, otherwise a number does.

    Args:
        pictures: The pictures.
        endings: Task -> ending of its file, without a dot.

    Example:
        >>> [each.panels for each in output_names([Path("a/shot.jpg"), Path("b/shot.jpg"), Path("leaf.png")])]
        ['a-shot.jpg-panels.png', 'b-shot.jpg-panels.png', 'leaf-panels.png']
        >>> output_names([Path("shot.jpg")], {"depth": "png"})[0].rasters
        {'depth': 'shot-depth.png'}
    """
    # Some file systems do not distinguish A and a.
    stems = Counter(path.stem.casefold() for path in pictures)
    of_tasks = endings or {}
    # A task may be called panels.
    suffixes = unique_names(["panels", *of_tasks])
    tails = [f"{name}.{ending}" for name, ending in zip(suffixes, ("png", *of_tasks.values()), strict=True)]
    taken: set[str] = set()
    names = []
    for path in pictures:
        alone = stems[path.stem.casefold()] == 1
        parts = [part for part in path.parts if part not in ("/", "..", ".")]
        stem = path.stem if alone else "-".join(parts)
        # The picture a-b with the task c, and the picture a with the task b-c, would share a name.
        numbered = chain([stem], (f"{stem}-{number}" for number in count(2)))
        files = ([f"{each}-{tail}" for tail in tails] for each in numbered)
        free = next(each for each in files if taken.isdisjoint(map(str.casefold, each)))
        taken.update(map(str.casefold, free))
        names.append(OutputNames(free[0], dict(zip(of_tasks, free[1:], strict=True))))
    return names


def unique_names(names: Sequence[str]) -> list[str]:
    """Names that differ even without regard to case: repeated ones get a number.

    Example:
        >>> unique_names(["shot", "Shot", "leaf"])
        ['shot', 'Shot-2', 'leaf']
    """
    found: list[str] = []
    known: set[str] = set()
    for name in names:
        number = 1
        while (name if number == 1 else f"{name}-{number}").casefold() in known:
            number += 1
        found.append(name if number == 1 else f"{name}-{number}")
        known.add(found[-1].casefold())
    return found


def save_metrics_of_images(
    path: Path, tasks: Sequence[str], rows: Iterable[tuple[str, Mapping[str, float | None]]]
) -> None:
    """Write a csv with a line per image; a cell is empty if nothing counts."""
    write_csv(path, ["id", *tasks], ([name, *(values[task] for task in tasks)] for name, values in rows))


def write_csv(
    path: Path, header: Sequence[str], rows: Iterable[Iterable[object]], *, mode: Literal["w", "x"] = "w"
) -> None:
    """Write a csv, in a folder that is made if it is not there; ``mode`` is that of ``open``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open(mode, newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
