"""Which files in a user's folder are samples, and which ones are skipped."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from dtme_search.errors import DataError

_PICTURES = {
    *(".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".heic", ".heif", ".avif", ".jp2"),
    *(".ppm", ".pgm", ".dng", ".cr2", ".nef", ".arw"),
}


class FolderFiles:
    """Files below ``root`` that match a pattern with ``{id}`` in it; file endings in capitals match too.

    Args:
        root: Folder of the data.
        images: Pattern of the images.
    """

    def __init__(self, root: Path, images: str) -> None:
        self.root = root
        self.images = images

    def path(self, pattern: str, sample_id: str) -> Path:
        """The file of an id, whatever the case of its ending; its name by the pattern if there is none."""
        path = self.root / pattern.replace("{id}", sample_id)
        if path.is_file():
            return path
        ending = path.suffix
        for other in (ending.upper(), ending.lower(), f".{ending[1:].capitalize()}"):
            if other != ending and (found := path.with_suffix(other)).is_file():
                return found
        return path

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Ids of all existing images, sorted.

        Raises:
            DataError: If there is none.
        """
        ids = {sample_id for sample_id, _ in self._listed if sample_id is not None}
        if not ids:
            raise DataError(
                f"{self.root / self.images}: it must match at least one image, got none. "
                "Correct root or images in the description."
            )
        return tuple(sorted(ids))

    def passed_over(self) -> list[str]:
        """Files that look like images but are not used: one sentence per ending, and duplicates."""
        strangers: defaultdict[str, list[str]] = defaultdict(list)
        names: defaultdict[str, list[str]] = defaultdict(list)
        for sample_id, name in self._listed:
            ending = Path(name).suffix.lower()
            if sample_id is not None:
                names[sample_id].append(name)
            elif ending in _PICTURES:
                strangers[ending].append(name)
        found = [
            f"images: {len(each)} pictures with the ending {ending} do not fit {self.images} and were left "
            f"out, {min(each)} first"
            for ending, each in sorted(strangers.items())
        ]
        twins = {sample_id: each for sample_id, each in names.items() if len(each) > 1}
        if twins:
            first = min(twins)
            found.append(
                f"images: {len(twins)} ids have two files that differ in the case of the ending, "
                f"{' and '.join(sorted(twins[first]))} first; one of them is used"
            )
        return found

    @cached_property
    def _listed(self) -> list[tuple[str | None, str]]:
        """Id (``None`` if it is not an image) and name of every file in the folders of the images."""
        before, after = self.images.split("{id}")
        # The part of a file name before the id is not a folder.
        folder = self.root / before.rpartition("/")[0]
        listed = []
        for path in _walk(folder):
            name = path.relative_to(self.root).as_posix()
            if path.name.startswith("."):
                continue
            fits = (
                name.startswith(before) and _ends_with(name, after) and len(name) > len(before) + len(after)
            )
            listed.append((name[len(before) : len(name) - len(after)] if fits else None, name))
        return listed


def _walk(folder: Path) -> Iterator[Path]:
    """Files below a folder, including linked folders, each folder once."""
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(parent, name) for name in names)


def _ends_with(name: str, after: str) -> bool:
    stem, _, ending = after.rpartition(".")
    start, _, last = name.rpartition(".")
    return last.lower() == ending.lower() and start.endswith(stem)
