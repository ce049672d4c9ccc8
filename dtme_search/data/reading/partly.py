"""Images that lack labels of some tasks (``data.missing: skip``)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Labelled = Mapping[str, Bools]
"""Task -> whether each of some ids has its label, shape (N,)."""


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


def beside_classes(presence: Sequence[Bools], labelled: Labelled | None) -> Bools | None:
    """Presence of classes, each (N, C), and a column for each task with gaps; ``None`` if there is neither.

    So a hold-out gets labels of such a task, too.
    """
    columns = [*presence, *(there[:, None] for there in (labelled or {}).values())]
    return np.concatenate(columns, axis=1) if columns else None
