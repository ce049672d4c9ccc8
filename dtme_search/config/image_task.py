"""``ImageTask``: a task of a user's own data whose label belongs to the whole image."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dtme_search.config.section import Section
from dtme_search.tasks import LossName, MetricName

ImageKind = Literal["image_class", "image_labels", "image_value"]

IMAGE_LOSSES: dict[ImageKind, tuple[LossName, ...]] = {
    "image_class": ("cross_entropy",),
    "image_labels": ("bce", "balanced_bce", "batch_balanced_bce"),
    "image_value": ("l1", "mse"),
}
"""Losses that suit a kind, the default first."""

IMAGE_METRICS: dict[ImageKind, tuple[MetricName, ...]] = {
    "image_class": ("accuracy", "macro_f1", "miou"),
    "image_labels": ("mean_ap", "iou"),
    "image_value": ("l1", "rmse"),
}
"""Metrics that suit a kind, the default first."""

Missing = Literal["refuse", "skip"]
"""What to do if an image has no label of a task: refuse the data, or train and measure without that label."""


class ImageTask(Section):
    """One task about whole images: where its labels are and what they mean."""

    kind: ImageKind
    """image_class (one class of each image), image_labels (any number of them), or image_value (numbers)."""
    file: str | None = None
    """A csv below root (or a tsv, separated by tabs) with a header and one row for each image."""
    key: str = "id"
    """Its column with the id of the image; the name of the image file will do, too."""
    column: str | list[str] = []
    """Its column with the label; several for image_value, and for image_labels with 0 or 1 in each. An empty
    cell is no label."""
    separator: Annotated[str, Field(min_length=1)] | None = None
    """image_labels in one column: what is between two labels. Nothing else in a cell means none of them."""
    pattern: str | None = None
    """Instead of a file: a regular expression that is searched in the id; its first bracket is the label. For
    a folder of each class: '^(.+?)/'."""
    classes: list[str] | dict[str, str | list[str]] = []
    """Names of the classes or labels as the cells have them, or each name with its cell or cells."""
    scale: Annotated[float, Field(gt=0.0)] = 1.0
    """image_value: factor of the numbers."""
    offset: float = 0.0
    """Added to them afterwards."""
    range: tuple[float, float] | None = None
    """Smallest and largest number allowed after scale and offset; others are refused."""
    loss: LossName | None = None
    """Training loss; empty = the usual one of the kind."""
    metric: MetricName | None = None
    """Metric; empty = the usual one of the kind."""
    derived_from: str | None = None
    """What the labels were computed from, if nobody annotated them; shown beside every result."""
    missing: Missing | None = None
    """refuse, or skip: images without a label are used for other tasks; empty = as the description says."""

    @model_validator(mode="after")
    def _parts_suit_the_kind(self) -> Self:
        check_suits("loss", self.loss, IMAGE_LOSSES[self.kind], self.kind)
        check_suits("metric", self.metric, IMAGE_METRICS[self.kind], self.kind)
        check_range(self.range)
        if self.separator is not None and (self.kind != "image_labels" or len(self.columns) != 1):
            raise ValueError(
                "separator must be empty except for kind image_labels with one column, got "
                f"'{self.separator}'"
            )
        return self

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if (self.file is None) == (self.pattern is None):
            raise ValueError("must have either file (a csv) or pattern (labels in the ids)")
        if self.pattern is not None:
            if self.kind == "image_labels":
                raise ValueError("pattern must be empty for kind image_labels, which needs a file")
            check_one_bracket(self.pattern)
            if self.columns:
                raise ValueError(f"column must be empty with a pattern, got {list(self.columns)}")
        elif not self.columns:
            raise ValueError("column must name the column of the labels, got none")
        if len(set(self.columns)) != len(self.columns):
            raise ValueError(f"column must name different columns, got {list(self.columns)}")
        if self.kind == "image_class" and len(self.columns) > 1:
            raise ValueError(f"column must name one column for kind image_class, got {list(self.columns)}")
        if self.kind == "image_labels" and len(self.columns) == 1 and self.separator is None:
            raise ValueError("separator must be given for kind image_labels with one column, for example ';'")
        return self

    @model_validator(mode="after")
    def _classes_have_cells(self) -> Self:
        if self.kind == "image_value" or (self.kind == "image_labels" and self.separator is None):
            if self.classes:
                why = "whose labels are its columns" if self.kind == "image_labels" else "which has none"
                raise ValueError(f"classes must be empty for kind {self.kind} here, {why}")
            return self
        least = 2 if self.kind == "image_class" else 1
        if not least <= len(self.classes) <= 255:
            raise ValueError(f"classes must name {least} to 255 classes, got {len(self.classes)}")
        seen: set[str] = set()
        for name, cells in self.cells_of_classes:
            for cell in cells:
                if not cell or cell != cell.strip():
                    raise ValueError(f"classes.{name} must be text without blanks around it, got '{cell}'")
                if cell in seen:
                    raise ValueError(f"classes must have different names and cells, got '{cell}' twice")
                seen.add(cell)
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the file, in the order of the channels where there are several."""
        return (self.column,) if isinstance(self.column, str) else tuple(self.column)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes or labels; none for numbers."""
        if self.kind == "image_value":
            return ()
        return tuple(self.classes) or self.columns

    @property
    def cells_of_classes(self) -> list[tuple[str, tuple[str, ...]]]:
        """Each class and its cells; a name may occur twice in a list, which is an error."""
        if isinstance(self.classes, list):
            return [(name, (name,)) for name in self.classes]
        return [
            (name, (cells,) if isinstance(cells, str) else tuple(cells))
            for name, cells in self.classes.items()
        ]


def check_suits(name: str, value: str | None, suitable: Sequence[str], kind: str) -> None:
    """Refuse a choice that does not suit the kind of its task.

    Raises:
        ValueError: Names those that do.
    """
    if value is not None and value not in suitable:
        raise ValueError(f"{name} must be {' or '.join(suitable)} for kind {kind}, got '{value}'")


def check_range(span: tuple[float, float] | None) -> None:
    """Refuse a range whose ends are not in order.

    Raises:
        ValueError: Says what it must be.
    """
    if span is not None and not span[0] < span[1]:
        raise ValueError(f"range must be [low, high] with low < high, got {list(span)}")


def check_one_bracket(pattern: str) -> None:
    """Refuse a regular expression that is none, or has not exactly one group in brackets.

    Raises:
        ValueError: Says which.
    """
    try:
        brackets = re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"pattern must be a regular expression, got an error: {error}") from error
    if brackets != 1:
        raise ValueError(f"pattern must have one group in brackets, got {brackets} in '{pattern}'")
