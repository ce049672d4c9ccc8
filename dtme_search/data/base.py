"""What a data set provides (``Dataset``, ``Sample``) and what training receives (``Batch``).

Shapes: B images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from dtme_search.errors import nearest
from dtme_search.tasks import TaskSpec

if TYPE_CHECKING:
    from torch import Tensor

SourceSplit = Literal["train", "test"]
"""Splits a data set comes with."""
Split = Literal["train", "holdout", "test"]
"""Splits a run uses: the hold-out is taken from the training ids."""


@dataclass(frozen=True)
class Sample:
    """One image with its labels at native size.

    Attributes:
        image: RGB, uint8, shape (H, W, 3).
        labels: Per task, by kind: classes uint8 (H, W); distance float32 (H, W) in metres; normals float32
            (H, W, 3), unit length, camera frame (x right, y down, z away from the camera, so that a
            surface facing the camera has negative z); mask uint8 (H, W) or (H, W, C) of 0 and 1; values
            float32 (H, W, C). A label of the whole image has H = W = 1. Values at invalid pixels are
            meaningless.
        valid: Per task, bool (H, W): where the label counts.
    """

    image: npt.NDArray[np.uint8]
    labels: Mapping[str, npt.NDArray[Any]]
    valid: Mapping[str, npt.NDArray[np.bool_]]


class Dataset(Protocol):
    """A source of samples. Several threads or processes may read at once."""

    @property
    def tasks(self) -> Mapping[str, TaskSpec]:
        """Every task that it has labels for."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes with the content of a training file; part of the identity of baselines and trials.

        A data set may also have ``test_fingerprint``, which changes with the test split and is read by final
        runs only (a search opens no test file); ``remarks()``, sentences for ``data check``; and
        ``labelled(ids)``, which returns, for each task with missing labels, whether each id has its label,
        bool (N,), or ``None``. Batches are then drawn so that no task goes without.
        """
        ...

    def ids(self, split: SourceSplit) -> tuple[str, ...]:
        """Ids of a split in a fixed order."""
        ...

    def groups(self, ids: Sequence[str]) -> Sequence[str] | None:
        """Scene, building or other group of each id; a hold-out never splits one. ``None`` if none is known.

        An id about which nothing is known is its own group, with its own name. Reads no label and no image.
        """
        ...

    def class_presence(self, ids: Sequence[str]) -> npt.NDArray[np.bool_] | None:
        """Which classes occur in which sample, shape (N, C), so that a hold-out can get all of them.

        Called for training ids only. ``None`` if finding out would cost too much or there are no classes;
        then splits ignore classes.
        """
        ...

    def read(self, sample_id: str, tasks: Sequence[str]) -> Sample:
        """Read one sample with the labels of ``tasks``.

        Raises:
            DataError: Names the missing or broken file.
        """
        ...


@dataclass(frozen=True)
class Batch:
    """Images and targets as the model and the losses take them; no numbers with a special meaning.

    Attributes:
        images: Normalised float32, shape (B, 3, H, W).
        targets: Per task: classes int64 (B, H, W); every other kind float32 (B, C, H, W). H = W = 1 for
            labels of whole images.
        valid: Per task, bool (B, 1, H, W): where the target counts.
        indices: Position of each image in its split, int64 (B,).
    """

    images: Tensor
    targets: Mapping[str, Tensor]
    valid: Mapping[str, Tensor]
    indices: Tensor

    def split(self, parts: int) -> list[Batch]:
        """The batch in ``parts`` of (almost) equal size, at least one image each, without copying tensors."""
        parts = min(parts, len(self.images))
        images, indices = self.images.tensor_split(parts), self.indices.tensor_split(parts)
        targets = {task: target.tensor_split(parts) for task, target in self.targets.items()}
        valid = {task: where.tensor_split(parts) for task, where in self.valid.items()}
        return [
            Batch(
                images[part],
                {task: of_task[part] for task, of_task in targets.items()},
                {task: of_task[part] for task, of_task in valid.items()},
                indices[part],
            )
            for part in range(parts)
        ]


def chosen_specs(offered: Mapping[str, TaskSpec], tasks: Sequence[str]) -> dict[str, TaskSpec]:
    """The tasks that are asked for, of those that a data set has.

    Raises:
        ValueError: Names the first one that it does not have, and its nearest known neighbour.
    """
    for task in tasks:
        if task not in offered:
            raise ValueError(f"task must be known, got '{task}'.{nearest(task, offered)}")
    return {task: offered[task] for task in tasks}
