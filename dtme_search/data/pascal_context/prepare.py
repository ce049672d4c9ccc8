"""Convert the published PASCAL-Context release into the folders that ``pascal_context/dataset.py`` reads.

    SOURCE/ImageSets/Context/train.txt, val.txt       one id per line
    SOURCE/JPEGImages/ID.jpg
    SOURCE/semseg/VOC12/ID.png, else semseg/pascal-context/ID.png
    SOURCE/pascal-context/trainval/ID.mat             LabelMap, 459 region classes
    SOURCE/human_parts/ID.mat                         anno of PASCAL-Part
    SOURCE/normals_distill/ID.png                     optional
    SOURCE/sal_distill/ID.png                         optional
    SOURCE/db_info/nyu_classes.json, context_classes.json    name -> id; needed where normals_distill is

Thinning edges and parsing MATLAB files would take most of the time of every epoch, so it is done once here.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
from PIL import Image

from dtme_search.data.pascal_context.labels import edges_of, read_label_map, read_parts
from dtme_search.data.reading.files import read_normals
from dtme_search.data.reading.folders import claim_folder, content_digest, read_ids, write_whole
from dtme_search.errors import DataError

_LISTS = ("ImageSets/Context/train.txt", "ImageSets/Context/val.txt")
_REQUIRED = (*_LISTS, "JPEGImages", "semseg", "pascal-context/trainval", "human_parts")
_TABLES = ("nyu_classes.json", "context_classes.json")
_TABLE_FOLDERS = ("db_info", "json")
_UNKNOWN_NORMAL = 128
"""Grey: a vector of length 0, which the reader treats as no normal."""
_NO_PARTS = 255
_PREPARE_VERSION = 1
"""Raise it whenever the same release would give other files."""


def prepare_pascal_context(
    source: Path, out: Path, *, jobs: int, on_progress: Callable[[int, int], None]
) -> int:
    """Write the data set to ``out``; called again after an interruption it continues.

    Images and published pngs become hard links, or copies on another file system. Edges, human parts and
    normals (only where the region class is one that NYU has too) are written as pngs.

    Args:
        source: Folder of the published release; only read.
        out: Folder to write to.
        jobs: Processes.
        on_progress: Called with the number of images done and in total.

    Returns:
        Number of images written by this call; those of an earlier call do not count.

    Raises:
        DataError: If the layout is incomplete or, after all others were written, for the first broken image.
    """
    _check_layout(source)
    normal_classes = _normal_classes(source) if (source / "normals_distill").is_dir() else None
    preparation = _Preparation(source, out, normal_classes, (source / "sal_distill").is_dir())
    ids = list(dict.fromkeys(sample_id for name in _LISTS for sample_id in read_ids(source / name)))
    claim_folder(
        out,
        {
            "lists": [content_digest(source / name) for name in _LISTS],
            "normal_classes": normal_classes,
            "saliency": preparation.with_saliency,
            "version": _PREPARE_VERSION,
        },
    )
    for folder in preparation.folders:
        (out / folder).mkdir(parents=True, exist_ok=True)
    todo = [sample_id for sample_id in ids if not preparation.is_done(sample_id)]
    done = len(ids) - len(todo)
    on_progress(done, len(ids))
    problems = []
    pool = joblib.Parallel(n_jobs=jobs, return_as="generator")
    for problem in pool(joblib.delayed(preparation.write)(sample_id) for sample_id in todo):
        done += 1
        on_progress(done, len(ids))
        if problem is not None:
            problems.append(problem)
    if problems:
        others = f" {len(problems) - 1} more images are broken." if len(problems) > 1 else ""
        raise DataError(
            f"{problems[0]}{others} Everything else was written; run the same command again to resume."
        )
    # The lists come last, because without them the folder is not recognised as a data set.
    for name in _LISTS:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, out / name)
    return len(todo)


@dataclass(frozen=True)
class _Preparation:
    """The work on one image; sent to every process."""

    source: Path
    out: Path
    normal_classes: Sequence[int] | None
    with_saliency: bool

    @property
    def folders(self) -> list[str]:
        optional = {"normals": self.normal_classes is not None, "sal": self.with_saliency}
        return [
            "JPEGImages",
            "semseg",
            "human_parts",
            "edge",
            *(name for name, there in optional.items() if there),
        ]

    def is_done(self, sample_id: str) -> bool:
        return all(self._target(folder, sample_id).exists() for folder in self.folders)

    def write(self, sample_id: str) -> str | None:
        """Write one image with its labels; returns what is wrong with its files, if anything."""
        try:
            label_map = read_label_map(self.source / "pascal-context" / "trainval" / f"{sample_id}.mat")
            self._save("edge", sample_id, np.where(edges_of(label_map), 255, 0).astype(np.uint8))
            parts = read_parts(self.source / "human_parts" / f"{sample_id}.mat")
            nothing = np.full(label_map.shape, _NO_PARTS, dtype=np.uint8)
            self._save("human_parts", sample_id, nothing if parts is None else parts)
            if self.normal_classes is not None:
                self._save("normals", sample_id, self._normals(sample_id, label_map, self.normal_classes))
            semseg = self.source / "semseg" / "VOC12" / f"{sample_id}.png"
            if not semseg.exists():
                semseg = self.source / "semseg" / "pascal-context" / f"{sample_id}.png"
            self._link(semseg, "semseg", sample_id)
            if self.with_saliency:
                self._link(self.source / "sal_distill" / f"{sample_id}.png", "sal", sample_id)
            self._link(self.source / "JPEGImages" / f"{sample_id}.jpg", "JPEGImages", sample_id)
        except DataError as error:
            return str(error)
        return None

    def _normals(
        self, sample_id: str, label_map: npt.NDArray[np.uint16], classes: Sequence[int]
    ) -> npt.NDArray[np.uint8]:
        path = self.source / "normals_distill" / f"{sample_id}.png"
        vectors, valid = read_normals(path)
        if valid.shape != label_map.shape:
            raise DataError(
                f"{path}: normals must have the size of the region map, {label_map.shape[0]}x"
                f"{label_map.shape[1]}, got {valid.shape[0]}x{valid.shape[1]}. Replace one."
            )
        counts = valid & np.isin(label_map, classes)
        codes = np.rint(255 * (vectors + 1) / 2)
        return np.where(counts[..., None], codes, _UNKNOWN_NORMAL).astype(np.uint8)

    def _target(self, folder: str, sample_id: str) -> Path:
        return self.out / folder / (sample_id + (".jpg" if folder == "JPEGImages" else ".png"))

    def _save(self, folder: str, sample_id: str, values: npt.NDArray[np.uint8]) -> None:
        picture = Image.fromarray(values)
        write_whole(self._target(folder, sample_id), partial(picture.save, format="png"))

    def _link(self, path: Path, folder: str, sample_id: str) -> None:
        if not path.is_file():
            raise DataError(f"{path}: the file is missing. Complete the data set.")
        target = self._target(folder, sample_id)
        target.unlink(missing_ok=True)
        try:
            os.link(path, target)
        except OSError:
            # Another file system, or one without hard links.
            with path.open("rb") as published:
                write_whole(target, partial(shutil.copyfileobj, published))


def _normal_classes(source: Path) -> list[int]:
    """Ids of the region classes whose pixels have normals: those that share their name with a class of NYU.

    ASTMT's rule, kept by everyone since: "unknown" is not one of them, "tvmonitor" is.
    """
    tables = [
        next((folder for folder in _TABLE_FOLDERS if (source / folder / name).is_file()), None)
        for name in _TABLES
    ]
    if None in tables:
        raise DataError(
            f"{source}: normals count only on classes that NYU has too, so db_info must hold "
            f"{' and '.join(_TABLES)}, got no {_TABLES[tables.index(None)]}. Copy both from data/db_info of "
            "ASTMT, ATRC or InvPT, or leave normals_distill out."
        )
    nyu, context = (
        _read_table(source / str(folder) / name) for folder, name in zip(tables, _TABLES, strict=True)
    )
    shared = (set(nyu) - {"unknown"} | {"tvmonitor"}) & set(context)
    return sorted(context[name] for name in shared)


def _read_table(path: Path) -> dict[str, int]:
    try:
        table: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: the file cannot be read as JSON ({error}). Replace it.") from error
    if not isinstance(table, dict) or not all(isinstance(value, int) for value in table.values()):
        raise DataError(f"{path}: must be a table from class name to id, got another form. Replace the file.")
    return table


def _check_layout(source: Path) -> None:
    missing = [name for name in _REQUIRED if not (source / name).exists()]
    if missing:
        inside = next((source / n for n in ("PASCALContext", "PASCAL_MT") if (source / n).is_dir()), None)
        advice = f"Did you mean {inside}?" if inside else "Give --source the folder that holds them."
        raise DataError(
            f"{source}: the release of pascal_context must have {', '.join(_REQUIRED)}, got no "
            f"{', '.join(missing)}. {advice}"
        )
