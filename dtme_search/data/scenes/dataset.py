"""Numbered scenes with a cache on disk: the data set ``scenes``."""

from __future__ import annotations

import logging
import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dtme_search import tasks as task_specs
from dtme_search.config import ScenesConfig, fingerprint
from dtme_search.data.base import Sample, SourceSplit
from dtme_search.data.reading.cache import cache_folder
from dtme_search.data.reading.threads import numpy_header_lock
from dtme_search.data.scenes.render import boundaries, render
from dtme_search.data.scenes.rooms import CLASSES, Label, random_scene
from dtme_search.data.scenes.scene import Scene
from dtme_search.errors import nearest
from dtme_search.tasks import TaskSpec

RENDERER_VERSION = 2
"""Raise it whenever the same scene would look different or be labelled differently."""

ROOM_TYPES = {
    "living room": (Label.SOFA,),
    "dining room": (Label.TABLE, Label.CHAIR),
    "store room": (Label.CABINET,),
    "hall": (),
}
"""Types of rooms, and the furniture that makes them."""
_FURNISHED = 0.08
"""A room in which no furniture covers this share of the image is a hall."""

Arrays = dict[str, npt.NDArray[Any]]

_SPLITS: tuple[SourceSplit, ...] = ("train", "test")
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
_log = logging.getLogger(__name__)


class ScenesDataset:
    """Rendered rooms: a type, and exact labels for semseg, depth, normals and edge, each valid everywhere.

    A scene depends only on the seed, its split and its number. So a larger set begins with the smaller one,
    and at another image size the same camera sees the same room. Edges are the boundaries between instances,
    one pixel wide; each wall is an instance, so the corners of a room are edges too. The type of a room
    follows from the furniture that covers most of the image (:func:`room_type`).

    A sample is rendered when first read and kept as one file of about 21 bytes per pixel. Processes may share
    the folder: files are written atomically, and an unreadable one is rendered again.

    Args:
        config: How many scenes, and the seed.
        image_size: Height and width in pixels.
        cache_dir: Folder for rendered scenes, by default that of ``cache_folder``.
    """

    def __init__(
        self, config: ScenesConfig, image_size: tuple[int, int], cache_dir: Path | None = None
    ) -> None:
        self._config = config
        self._image_size = image_size
        counts = {"train": config.num_train, "test": config.num_test}
        self._seeds = {
            f"{split}-{number:05d}": (config.seed, place, number)
            for place, split in enumerate(_SPLITS)
            for number in range(counts[split])
        }
        # Without the counts, so that sets of different sizes share their files.
        content = fingerprint("scenes", RENDERER_VERSION, config.seed, image_size)
        self._folder = cache_folder(cache_dir) / "scenes" / content
        self._can_write = True

    @property
    def tasks(self) -> Mapping[str, TaskSpec]:
        """semseg, depth, normals, edge and room."""
        specs = (
            task_specs.semseg(CLASSES),
            task_specs.depth(),
            task_specs.normals(),
            task_specs.edge(),
            task_specs.image_class("room", tuple(ROOM_TYPES), derived_from="semseg"),
        )
        return {spec.name: spec for spec in specs}

    @property
    def fingerprint(self) -> str:
        """Identifies the version of the renderer, the config and the image size."""
        return fingerprint("scenes", RENDERER_VERSION, self._config.model_dump(), self._image_size)

    def ids(self, split: SourceSplit) -> tuple[str, ...]:
        """``train-00000``, ``train-00001``, ..."""
        return tuple(sample_id for sample_id in self._seeds if sample_id.startswith(f"{split}-"))

    def groups(self, ids: Sequence[str]) -> None:
        """``None``: every scene is a separate room."""

    def class_presence(self, ids: Sequence[str]) -> None:
        """``None``: rooms are random, so hundreds of them have every class on either side."""

    def scene(self, sample_id: str) -> Scene:
        """Room, things, lights and camera of a sample; ``scene.camera.intrinsics`` gives its camera matrix.

        Raises:
            ValueError: If there is no such sample.
        """
        return random_scene(self._generator(sample_id, "scene"))

    def read(self, sample_id: str, tasks: Sequence[str]) -> Sample:
        """Take a sample from the cache, or render it.

        Raises:
            ValueError: If there is no such sample or task.
        """
        unknown = [task for task in tasks if task not in self.tasks]
        if unknown:
            raise ValueError(f"scenes: there is no task '{unknown[0]}'.{nearest(unknown[0], self.tasks)}")
        noise = self._generator(sample_id, "noise")
        path = self._folder / f"{sample_id}.npz"
        stored = ["semseg" if task == "room" else task for task in tasks]
        arrays = _load(path, ("image", *stored))
        if arrays is None:
            arrays = _arrays(self.scene(sample_id), self._image_size, noise)
            self._store(path, arrays)
        labels = {
            task: np.full((1, 1), room_type(arrays["semseg"]), np.uint8) if task == "room" else arrays[task]
            for task in tasks
        }
        valid = {task: np.ones(label.shape[:2], dtype=np.bool_) for task, label in labels.items()}
        return Sample(arrays["image"], labels, valid)

    def _generator(self, sample_id: str, purpose: str) -> np.random.Generator:
        """Scene and noise have separate generators: larger images need more noise, not another room."""
        if sample_id not in self._seeds:
            raise ValueError(
                f"scenes: there is no sample '{sample_id}' among {self._config.num_train} training and "
                f"{self._config.num_test} test scenes."
            )
        return np.random.default_rng([*self._seeds[sample_id], ("scene", "noise").index(purpose)])

    def _store(self, path: Path, arrays: Arrays) -> None:
        if not self._can_write:
            return
        try:
            _write_whole(path, arrays)
        except OSError as error:
            # Rendering again costs time, not correctness, so one line for the whole set is enough.
            self._can_write = False
            _log.warning(
                "%s: scenes are rendered on every start, they cannot be kept: %s", path.parent, error
            )


def room_type(classes: npt.NDArray[np.integer[Any]]) -> int:
    """Type of the room in an image, a place in ``ROOM_TYPES``: that of the furniture which covers most of it,
    the last one if none covers 8 %.

    Args:
        classes: Semantic classes, shape (H, W).

    Example:
        >>> room_type(np.array([[Label.WALL, Label.CHAIR, Label.TABLE, Label.SOFA]]))
        1
    """
    shares = [float(np.isin(classes, labels).mean()) for labels in ROOM_TYPES.values()]
    largest = int(np.argmax(shares))
    return largest if shares[largest] >= _FURNISHED else len(ROOM_TYPES) - 1


def _arrays(scene: Scene, image_size: tuple[int, int], noise: np.random.Generator) -> Arrays:
    rendering = render(scene, image_size, noise)
    return {
        "image": rendering.image,
        "semseg": rendering.classes,
        "depth": rendering.depth,
        "normals": rendering.normals,
        "edge": boundaries(rendering.instances),
    }


def _load(path: Path, names: Sequence[str]) -> Arrays | None:
    """Arrays of a file, or nothing if it is missing or broken; zip files detect a single wrong bit."""
    try:
        with open(path, "rb") as file, numpy_header_lock, np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in names}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except _UNREADABLE as error:
        _log.warning("%s: rendered again, the file cannot be read: %s", path, error)
        return None


def _write_whole(path: Path, arrays: dict[str, Any]) -> None:
    """Write to a temporary file and move it into place, so that no reader ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **arrays)
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise
