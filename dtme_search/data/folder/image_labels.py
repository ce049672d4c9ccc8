"""Labels of whole images from a csv or from the ids; whatever does not fit is a ``DataError`` that names it.

Shapes: C channels.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from dtme_search.config import ImageTask
from dtme_search.data.folder.label_files import Bools, Label
from dtme_search.data.folder.specs import spec_of
from dtme_search.data.reading.files import no_label
from dtme_search.errors import DataError, nearest

_WORDS = {"0": 0, "1": 1, "no": 0, "yes": 1, "false": 0, "true": 1}


class ImageLabels:
    """Labels of one task of a description.

    Args:
        name: Name of the task.
        task: Its description.
        root: Folder of the data.
        images: Pattern of the images.

    Raises:
        DataError: If the file cannot be read, lacks a column, or names an image twice.
    """

    def __init__(self, name: str, task: ImageTask, root: Path, images: str) -> None:
        self.name = name
        self.task = task
        self._spec = spec_of(name, task)
        self.path = None if task.file is None else root / task.file
        self._pattern = None if task.pattern is None else re.compile(task.pattern)
        self._class_of = {
            cell: index for index, (_, cells) in enumerate(task.cells_of_classes) for cell in cells
        }
        self._rows = {} if self.path is None else _read(self.path, task, images)

    def cells(self, sample_id: str) -> tuple[str, ...]:
        """What the file or the id says, a text for each column; none if it says nothing about the image."""
        if self._pattern is not None:
            match = self._pattern.search(sample_id)
            return (match[1],) if match and match[1] else ()
        found = self._rows.get(sample_id, (0, ()))[1]
        return found if any(found) else ()

    def label(self, sample_id: str) -> Label:
        """Label and validity of an image, of one pixel: classes uint8 (1, 1), labels uint8 (1, 1, C), numbers
        float32 (1, 1, C).

        Raises:
            DataError: If a cell is not what the description says.
        """
        cells = self.cells(sample_id)
        if not cells:
            return no_label(self._spec, (1, 1))
        if self.task.kind == "image_class":
            label = np.array([[self._class(sample_id, cells[0])]], np.uint8)
        elif self.task.kind == "image_value":
            label = np.array([[self._numbers(sample_id, cells)]], np.float32)
        else:
            label = np.array([[self._yes_or_no(sample_id, cells)]], np.uint8)
        return label, np.ones((1, 1), np.bool_)

    @property
    def source(self) -> str:
        """Where labels come from, for messages."""
        return self.task.file or f"pattern {self.task.pattern}"

    def presence(self, ids: Sequence[str]) -> Bools:
        """Which classes or labels occur in which image, bool (N, C).

        Raises:
            DataError: As for :meth:`label`.
        """
        found = np.zeros((len(ids), self._spec.channels), np.bool_)
        for row, (label, valid) in enumerate(map(self.label, ids)):
            if self.task.kind == "image_class":
                found[row, label[valid]] = True
            else:
                found[row] = label[0, 0]
        return found

    def strangers(self, ids: Sequence[str]) -> list[str]:
        """A sentence about rows that are no images."""
        strange = sorted(self._rows.keys() - set(ids))
        if not strange:
            return []
        return [f"{self.name}: {len(strange)} rows of {self.path} are not images, '{strange[0]}' first"]

    def _class(self, sample_id: str, cell: str) -> int:
        if cell not in self._class_of:
            raise self._error(
                sample_id,
                f"must be one of its {len(self.task.names)} classes, got '{cell}'."
                f"{nearest(cell, self._class_of)} Add it to the description, or correct the cell.",
            )
        return self._class_of[cell]

    def _yes_or_no(self, sample_id: str, cells: Sequence[str]) -> list[int]:
        if self.task.separator is not None:
            found = [cell.strip() for cell in cells[0].split(self.task.separator)]
            chosen = {self._class(sample_id, cell) for cell in found if cell}
            return [int(index in chosen) for index in range(self._spec.channels)]
        for column, cell in zip(self.task.columns, cells, strict=True):
            if cell.lower() not in _WORDS:
                raise self._error(
                    sample_id,
                    f"must be 0 or 1, got '{cell}'. Correct it, or leave all columns of the task empty.",
                    column,
                )
        return [_WORDS[cell.lower()] for cell in cells]

    def _numbers(self, sample_id: str, cells: Sequence[str]) -> list[float]:
        found = []
        for column, cell in zip(self.task.columns or ("",), cells, strict=True):
            try:
                number = self.task.scale * float(cell) + self.task.offset
            except ValueError:
                number = math.nan
            low, high = self.task.range or (-math.inf, math.inf)
            if not math.isfinite(number):
                what = "Write it with a point, or leave all columns of the task empty."
                raise self._error(sample_id, f"must be a finite number, got '{cell}'. {what}", column)
            if not low <= number <= high:
                raise self._error(
                    sample_id,
                    f"must lie in {low:g} to {high:g}, got {number:g}. Set scale or range in the "
                    "description, or correct the cell.",
                    column,
                )
            found.append(number)
        return found

    def _error(self, sample_id: str, rule: str, column: str = "") -> DataError:
        if self.path is None:
            return DataError(f"{self.name}: the label in the id '{sample_id}' {rule}")
        named = column or ", ".join(self.task.columns)
        return DataError(f"{self.path}: row {self._rows[sample_id][0]}, {named}: {self.name} {rule}")


def _read(path: Path, task: ImageTask, images: str) -> Mapping[str, tuple[int, tuple[str, ...]]]:
    """Image id -> number of its row, counted from 1 with the header, and the cells of the task."""
    before, after = images.split("{id}")
    found: dict[str, tuple[int, tuple[str, ...]]] = {}
    for number, row in _rows(path, (task.key, *task.columns)):
        sample_id, cells = row[0], row[1:]
        if sample_id.lower().endswith(after.lower()):
            # A file name, with folders or without.
            sample_id = sample_id[: len(sample_id) - len(after)]
            known = (prefix for prefix in (before, before.rpartition("/")[2]) if sample_id.startswith(prefix))
            sample_id = sample_id.removeprefix(next(known, ""))
        if sample_id in found:
            raise DataError(
                f"{path}: an image must have one row, got rows {found[sample_id][0]} and {number} for "
                f"'{sample_id}'. Remove one."
            )
        found[sample_id] = (number, cells)
    return found


def _rows(path: Path, wanted: Sequence[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Number and wanted cells of each row after the header."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            header = [name.strip() for name in next(reader, [])]
            for name in wanted:
                if header.count(name) != 1:
                    raise DataError(
                        f"{path}: the header must name the column '{name}' once, got {header}."
                        f"{nearest(name, header)} Correct column or key in the description, or the file."
                    )
            places = [header.index(name) for name in wanted]
            for row in reader:
                if not any(cell.strip() for cell in row):
                    continue
                if len(row) != len(header):
                    raise DataError(
                        f"{path}: row {reader.line_num} must have {len(header)} cells, as the header, got "
                        f"{len(row)}. Put cells with commas in quotes."
                    )
                yield reader.line_num, tuple(row[place].strip() for place in places)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: the file cannot be read ({error}). Replace it.") from error
