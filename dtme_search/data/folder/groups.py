"""Which images belong together according to the description, and whether that fits the images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from dtme_search.config import FolderGroups
from dtme_search.data.reading.folders import read_pairs
from dtme_search.errors import DataError


class Groups:
    """Groups of a description.

    Args:
        config: File or pattern; ``None`` = every image is its own group.
        root: Folder of the data.

    Raises:
        DataError: If the file cannot be read or gives an id two groups.
    """

    def __init__(self, config: FolderGroups | None, root: Path) -> None:
        self._pattern = re.compile(config.pattern) if config and config.pattern else None
        self._file = root / config.file if config and config.file else None
        self._listed = read_pairs(self._file) if self._file else {}

    def of(self, ids: Sequence[str]) -> list[str] | None:
        """Group of each id, or the id itself if nothing is known about it; ``None`` without groups."""
        if self._file is None and self._pattern is None:
            return None
        return [sample_id if (group := self._find(sample_id)) is None else group for sample_id in ids]

    def check(self, ids: Sequence[str]) -> list[str]:
        """Sentences about images without a group, and lines that name no image.

        Raises:
            DataError: If none of the images has a group.
        """
        if self.of(ids) is None:
            return []
        alone = [sample_id for sample_id in ids if self._find(sample_id) is None]
        source = (
            f"{self._file}" if self._file else f"pattern '{self._pattern.pattern if self._pattern else ''}'"
        )
        if len(alone) == len(ids):
            example = f", which names '{next(iter(self._listed), '')}' first" if self._file else ""
            raise DataError(
                f"groups: {source} must give a group to the images, got none for '{ids[0]}' and the other "
                f"{len(ids) - 1}{example}. "
                "Write each line as the id without its ending, a space, and the group."
            )
        found = []
        if alone:
            found.append(
                f"groups: {len(alone)} of {len(ids)} images have no group in {source} and form one each, "
                f"'{alone[0]}' first"
            )
        strange = sorted(self._listed.keys() - set(ids))
        if strange:
            found.append(f"groups: {len(strange)} ids of {source} are not images, '{strange[0]}' first")
        return found

    def check_apart(self, train: Sequence[str], test: Sequence[str]) -> None:
        """Refuse a group with images both for training and for the test.

        Raises:
            DataError: Names the first.
        """
        shared = sorted(set(self.of(train) or ()) & set(self.of(test) or ()))
        # An id in both lists is reported where splits are made.
        if shared and not set(train) & set(test):
            raise DataError(
                f"groups: training and test must share no group, got {len(shared)} in both, '{shared[0]}' "
                "first. Move its ids to one list, or correct the groups."
            )

    def _find(self, sample_id: str) -> str | None:
        if self._pattern is None:
            return self._listed.get(sample_id)
        match = self._pattern.search(sample_id)
        return match[1] if match else None
