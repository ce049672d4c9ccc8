"""Images that lack labels of some tasks (``data.missing: skip``)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from dtme_search.data.reading.files import Label
from dtme_search.tasks import TaskSpec

Labelled = Mapping[str, npt.NDArray[np.bool_]]
"""Task -> whether each of some ids has its label, shape (N,)."""


def no_label(spec: TaskSpec, size: tuple[int, ...]) -> Label:
    """The label of an image of ``size`` (H, W) that has none: no pixel counts."""
    channels = {"normals": (3,), "values": (spec.channels,)}.get(spec.kind, ())
    kind = np.uint8 if spec.kind in ("classes", "mask") else np.float32
    return np.zeros((*size, *channels), kind), np.zeros(size, np.bool_)


def with_gaps(
    ids: Sequence[str], tasks: Iterable[str], has_label: Callable[[str, str], bool]
) -> Labelled | None:
    """Tasks of which some of the ids lack the label; ``None`` if there is none.

    Args:
        ids: Samples.
        tasks: Tasks that may have gaps.
        has_label: Whether a task, the first argument, has a label for an id.
    """
    found = {task: np.array([has_label(task, each) for each in ids], np.bool_) for task in tasks}
    return {task: there for task, there in found.items() if not there.all()} or None


def beside_classes(presence: npt.NDArray[np.bool_], labelled: Labelled | None) -> npt.NDArray[np.bool_]:
    """Presence of classes (N, C), and a column for each task with gaps: a hold-out gets labels of it, too."""
    return np.concatenate([presence, *(there[:, None] for there in (labelled or {}).values())], axis=1)
