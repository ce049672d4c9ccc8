"""Taskonomy (Zamir et al., CVPR 2018): eleven tasks on views of scanned buildings.

    ROOT/DOMAIN/taskonomy/BUILDING/point_P_view_V_domain_DOMAIN.png    as omnidata downloads it
    ROOT/DOMAIN/BUILDING/..., ROOT/BUILDING/DOMAIN/...                 other copies, also with a split level

``data/taskonomy/targets.py`` defines the content of the files, ``data/taskonomy/index.py`` finds them. Only
the numbers of the views are held in memory.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from functools import cached_property, reduce
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dtme_search.config import TaskonomyConfig, fingerprint
from dtme_search.data.base import Sample, SourceSplit, chosen_specs
from dtme_search.data.reading.files import Label, make_sample, read_levels
from dtme_search.data.reading.folders import content_digest
from dtme_search.data.reading.partly import Labelled, beside_classes, with_gaps
from dtme_search.data.reading.pictures import read_image
from dtme_search.data.stratify import hashed_order
from dtme_search.data.taskonomy.index import Building, Views, read_splits, scan_buildings
from dtme_search.data.taskonomy.targets import DOMAINS, MASK_DOMAIN, seen_in
from dtme_search.errors import DataError
from dtme_search.tasks import TaskSpec

_NUM_PROBES = 16
_NOTHING: Views = np.zeros(0, dtype=np.uint64)
_log = logging.getLogger(__name__)


class TaskonomyDataset:
    """The tasks of Taskonomy whose folders exist, ids ``BUILDING/POINT/VIEW``.

    An id needs the file of every domain in this copy, so that runs on one task and on all tasks have the same
    images. If files are missing, ``data.taskonomy.incomplete`` decides. In a partly labelled copy an id needs
    its image and one label.

    Args:
        root: Folder of one of the layouts above; it is never written to.
        config: Split, mask, and what to do about missing files.
        require_complete: Refuse missing files if the config says so. ``check_dataset`` gets a data set
            without this, to name each of them.
        partly_labelled: Whether views may lack labels of some tasks.

    Raises:
        DataError: If the folder, a split file, or files are missing.
    """

    def __init__(
        self,
        root: Path,
        config: TaskonomyConfig,
        *,
        require_complete: bool = True,
        partly_labelled: bool = False,
    ) -> None:
        self._config = config
        folders = {row.folder: tuple(filter(None, (row.folder, row.old_folder))) for row in DOMAINS.values()}
        buildings = scan_buildings(root, read_splits(config.split, root), {"rgb": ("rgb",), **folders})
        self._domains = [
            domain
            for domain in ("rgb", *folders)
            if any(domain in building.folders for building in buildings)
        ]
        self._check_mask(root)
        only_whole = config.incomplete == "skip"
        absent = [building.name for building in buildings if not building.folders]
        needed = [
            domain
            for domain in self._domains
            if domain == "rgb"
            or not partly_labelled
            or not any(len(each.views.get(domain, ())) for each in buildings)
        ]
        gaps = _name_gaps(buildings, self._domains, needed)
        missing = [f"no building {_first(absent, ', ')}"] * bool(absent) + gaps
        if missing and only_whole:
            _log.warning("%s: left out what is incomplete: %s", root, _first(missing, "; "))
        elif absent or (gaps and require_complete):
            raise DataError(
                f"{root}: every building of the split must exist, and every view with a file of each "
                f"domain ({', '.join(self._domains)}), got {_first(missing, '; ')}. Complete the data, set "
                "data.taskonomy.incomplete: skip to leave these out, or data.missing: skip to train with the "
                "labels that exist."
            )
        # Only the views that are used, and what they lack, are needed from here on.
        self._folders = {building.name: building.folders for building in buildings}
        self._splits = {building.name: building.split for building in buildings}
        join = _with_any_label if partly_labelled else _whole if only_whole else _all_views
        self._views = {building.name: join(building, self._domains) for building in buildings}
        self._lacking = self._find_lacking(buildings) if partly_labelled else {}
        if not any(len(self._views[each.name]) for each in buildings if each.split == "train"):
            raise DataError(
                f"{root}: at least one training view must be complete, got none. Complete the data."
            )

    @property
    def tasks(self) -> Mapping[str, TaskSpec]:
        """Tasks whose folder exists."""
        return {task: row.spec for task, row in DOMAINS.items() if row.folder in self._domains}

    @cached_property
    def fingerprint(self) -> str:
        """From the names of all files and the margin of the mask, and the bytes of a few training samples."""
        names = [
            (building, self._splits[building], hashlib.sha256(views.tobytes()).hexdigest())
            for building, views in self._views.items()
        ]
        train = self.ids("train")
        probes = train[:: max(1, len(train) // _NUM_PROBES)]
        contents = [
            content_digest(path)
            for sample_id in probes
            for domain in self._domains
            for path in (self._path(domain, sample_id),)
            if path.is_file()
        ]
        lacking = [
            (building, domain, hashlib.sha256(views.tobytes()).hexdigest())
            for (building, domain), views in self._lacking.items()
        ]
        more = [lacking] if lacking else []
        return fingerprint("taskonomy", self._domains, self._config.mask_margin, names, contents, *more)

    def ids(self, split: SourceSplit) -> tuple[str, ...]:
        """Ids by building, point and view.

        Training uses the official train and val buildings; the test split uses the views of the test
        buildings, or a selection of ``data.taskonomy.test_images`` if that is given.
        """
        return self._ids[split]

    @cached_property
    def _ids(self) -> dict[SourceSplit, tuple[str, ...]]:
        listed: dict[SourceSplit, list[str]] = {"train": [], "test": []}
        for building, views in self._views.items():
            listed[self._splits[building]] += [
                f"{building}/{code >> 32}/{code & 0xFFFFFFFF}" for code in views.tolist()
            ]
        limit = self._config.test_images
        if limit is not None and limit < len(listed["test"]):
            chosen = set(hashed_order(listed["test"], 0, "test images")[:limit])
            listed["test"] = [sample_id for sample_id in listed["test"] if sample_id in chosen]
        return {split: tuple(ids) for split, ids in listed.items()}

    def groups(self, ids: Sequence[str]) -> list[str]:
        """The building of each id: a hold-out never splits one."""
        return [sample_id.partition("/")[0] for sample_id in ids]

    def class_presence(self, ids: Sequence[str]) -> npt.NDArray[np.bool_] | None:
        """For each task with missing files, whether there is a label; there are no classes."""
        return beside_classes([], self.labelled(ids))

    def labelled(self, ids: Sequence[str]) -> Labelled | None:
        """For each task with missing files, whether each id has one, shape (N,); opens no file."""
        if not self._lacking:
            return None
        return with_gaps(ids, self.tasks, lambda task, sample_id: not self._lacks(task, sample_id))

    def read(self, sample_id: str, tasks: Sequence[str]) -> Sample:
        """Read one view with the labels of ``tasks``.

        Raises:
            DataError: Names the file that is missing, broken, of another depth or of another size than the
                image.
            ValueError: If a task is not one of ``tasks``.
        """
        specs = chosen_specs(self.tasks, tasks)
        labels = {
            task: self._read_label(task, sample_id) for task in tasks if not self._lacks(task, sample_id)
        }
        if any(DOMAINS[task].masked for task in labels):
            labels = self._masked(labels, sample_id)
        image = read_image(self._path("rgb", sample_id))
        return make_sample(image, specs, labels, lambda task: self._path(DOMAINS[task].folder, sample_id))

    def _read_label(self, task: str, sample_id: str) -> Label:
        row = DOMAINS[task]
        target = row.decode(read_levels(self._path(row.folder, sample_id), task, row.bits))
        return target, np.ones(target.shape[:2], dtype=np.bool_)

    def _masked(self, labels: Mapping[str, Label], sample_id: str) -> dict[str, Label]:
        path = self._path(MASK_DOMAIN, sample_id)
        seen = seen_in(read_levels(path, MASK_DOMAIN, 16), self._config.mask_margin)
        masked = {}
        for task, (target, everywhere) in labels.items():
            row = DOMAINS[task]
            if row.masked and everywhere.shape != seen.shape:
                raise DataError(
                    f"{self._path(row.folder, sample_id)}: the size of {task} must be that of {path.name}, "
                    f"{seen.shape[0]}x{seen.shape[1]}, got {target.shape[0]}x{target.shape[1]}. Replace one."
                )
            masked[task] = (target, seen if row.masked else everywhere)
        return masked

    def _check_mask(self, root: Path) -> None:
        masked = [row.folder for row in DOMAINS.values() if row.masked and row.folder in self._domains]
        if masked and MASK_DOMAIN not in self._domains:
            raise DataError(
                f"{root}: {', '.join(masked)} need the folder {MASK_DOMAIN}, which says where something was "
                "seen, got none. Add it."
            )

    def _lacks(self, task: str, sample_id: str) -> bool:
        """Whether a view lacks, and may lack, the label of a task or the mask that says where it counts."""
        building, point, view = sample_id.split("/")
        code = np.uint64(int(point) << 32 | int(view))
        for domain in (DOMAINS[task].folder, *([MASK_DOMAIN] if DOMAINS[task].masked else [])):
            views = self._lacking.get((building, domain))
            if views is not None:
                place = int(views.searchsorted(code))
                if place < len(views) and views[place] == code:
                    return True
        return False

    def _find_lacking(self, buildings: Sequence[Building]) -> dict[tuple[str, str], Views]:
        """Per building and domain the views that are used without a file of it; only where there are some."""
        found = {
            (building.name, domain): np.setdiff1d(
                self._views[building.name], building.views.get(domain, _NOTHING)
            )
            for building in buildings
            for domain in self._domains
        }
        return {place: views for place, views in found.items() if len(views)}

    def _path(self, domain: str, sample_id: str) -> Path:
        building, point, view = sample_id.split("/")
        folder, spelt = self._folders[building].get(domain, (Path(building) / domain, domain))
        return folder / f"point_{point}_view_{view}_domain_{spelt}.png"


def _all_views(building: Building, domains: Sequence[str]) -> Views:
    return reduce(np.union1d, [building.views.get(domain, _NOTHING) for domain in domains])


def _whole(building: Building, domains: Sequence[str]) -> Views:
    return reduce(np.intersect1d, [building.views.get(domain, _NOTHING) for domain in domains])


def _with_any_label(building: Building, domains: Sequence[str]) -> Views:
    labelled = _all_views(building, [domain for domain in domains if domain != "rgb"])
    views: Views = np.intersect1d(building.views.get("rgb", _NOTHING), labelled)
    return views


def _name_gaps(buildings: Sequence[Building], domains: Sequence[str], needed: Sequence[str]) -> list[str]:
    """Which needed domains of which buildings lack files of views that other domains have."""
    gaps = []
    for building in buildings:
        num_views = len(_all_views(building, domains))
        for domain in needed:
            missing = num_views - len(building.views.get(domain, ()))
            if missing:
                gaps.append(f"{missing} of {num_views} {domain} files of {building.name} missing")
    return gaps


def _first(parts: Sequence[str], separator: str) -> str:
    return separator.join(parts[:3]) + f"{separator}..." * (len(parts) > 3)
