"""Output files: none overwrites another one, or a file that somebody else wrote."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from dtme_search.errors import ConfigError, ExportError

MARK = "dtme-search"
"""Mark in every file that we write for a user."""
_END_BYTES = 4096


def refuse_foreign(path: Path) -> None:
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
            raise ConfigError(
                f"{path} already exists and was not written by {MARK}. Give --out another name."
            )


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
    for place in places:
        if not place.is_dir():
            found[place] = None
            continue
        inside = [
            path
            for path in sorted(place.rglob("*"))
            if path.suffix.lower() in PICTURES and path.is_file() and not path.is_relative_to(out)
        ]
        if not inside:
            raise ConfigError(f"{place}: must hold pictures ({', '.join(PICTURES)}), got none.")
        found.update(dict.fromkeys(inside))
    return list(found)


_OF_PANELS = "-panels.png"


def panel_names(pictures: Sequence[Path]) -> list[str]:
    """A unique name for the panels of each picture.

    If pictures share a name, folders and ending distinguish them, otherwise a number does.

    Example:
        >>> panel_names([Path("a/shot.jpg"), Path("b/shot.jpg"), Path("leaf.png")])
        ['a-shot.jpg-panels.png', 'b-shot.jpg-panels.png', 'leaf-panels.png']
    """
    # Some file systems do not distinguish A and a.
    stems = Counter(path.stem.casefold() for path in pictures)
    names = []
    for path in pictures:
        alone = stems[path.stem.casefold()] == 1
        parts = [part for part in path.parts if part not in ("/", "..", ".")]
        names.append(path.stem if alone else "-".join(parts))
    return [f"{name}{_OF_PANELS}" for name in unique_names(names)]


def stem_of_panels(panels: Path) -> str:
    """The beginning of the name of a panel."""
    return panels.name.removesuffix(_OF_PANELS)


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
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *tasks])
        writer.writerows([name, *(values[task] for task in tasks)] for name, values in rows)
