"""What tasks about the whole image say, in words and as numbers."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from dtme_search.reporting.targets import write_csv
from dtme_search.tasks import TaskSpec
from dtme_search.training import Prediction

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LONGEST_LINE, _MOST_LINES = 24, 6


def in_words(spec: TaskSpec, label: npt.NDArray[Any], *, counts: bool = True) -> str:
    """A label or prediction of an image in words.

    Args:
        spec: The task.
        label: In the form of a label, (1, 1) or (1, 1, C); several labels as 0 and 1 or as probabilities.
        counts: Whether there is a label.

    Example:
        >>> import numpy as np
        >>> from dtme_search.tasks import image_class, image_labels, image_value
        >>> in_words(image_class("room", ("bath", "hall")), np.array([[1]]))
        'hall'
        >>> in_words(image_labels("signs", ("red", "old", "ill")), np.array([[[0.9, 0.2, 0.7]]]))
        'red, ill'
        >>> in_words(image_value("crop", ("kg", "count")), np.array([[[3.25, 7.0]]]))
        'kg 3.25, count 7'
    """
    if not counts:
        return "no label"
    values, names = label.reshape(-1), spec.channel_names
    if spec.kind == "classes":
        return names[int(values[0])]
    if spec.kind == "mask":
        return ", ".join(name for name, value in zip(names, values, strict=True) if value > 0.5) or "none"
    if len(values) == 1:
        return f"{values[0]:.4g}"
    return ", ".join(f"{name} {value:.4g}" for name, value in zip(names, values, strict=True))


def write_words(axes: Axes, words: str) -> None:
    """Write into the middle of an empty picture."""
    lines = textwrap.fill(words, _LONGEST_LINE, max_lines=_MOST_LINES)
    axes.text(0.5, 0.5, lines, transform=axes.transAxes, ha="center", va="center", fontsize=9)


def save_numbers(prediction: Prediction, task: str, target: Path) -> None:
    """Write a csv with a row for each class or label and its probability, or for each number."""
    spec, raw = prediction.specs[task], prediction.outputs[task].flatten()
    if spec.kind == "classes":
        raw = raw.softmax(0)
    elif spec.kind == "mask":
        raw = raw.sigmoid()
    named = zip(spec.channel_names, raw.tolist(), strict=True)
    header = (task, "value" if spec.kind == "values" else "probability")
    write_csv(target, header, ((name, f"{value:.6g}") for name, value in named))
