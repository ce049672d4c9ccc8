"""``FolderDescription``: what is where in a folder of a user's own data (data.name: folder)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from dtme_search.config.image_task import ImageTask, Missing, check_one_bracket, check_range, check_suits
from dtme_search.config.messages import validate
from dtme_search.config.run import LONGEST_NAME
from dtme_search.config.section import Section
from dtme_search.config.yaml_text import read_yaml
from dtme_search.tasks import LossName, MetricName, TargetKind, Unit

Encoding = Literal["labels", "colours", "numbers", "rgb"]
"""How a label file stores its values:

``labels``   whole numbers: a grey or palette png of 8 or 16 bits, or npy
``colours``  an RGB picture in which every class has its own colour
``numbers``  numbers, times scale plus offset: a grey png of 8 or 16 bits, tiff, or npy of shape (H, W, C)
``rgb``      three channels of 8 bits: normals as 255 (n + 1) / 2; other values times scale plus offset
"""

FolderKind = TargetKind | Literal["edge"]
"""What a task of a folder may be; an ``edge`` is a mask of thin lines."""

ENCODINGS: dict[FolderKind, tuple[Encoding, ...]] = {
    "classes": ("labels", "colours"),
    "distance": ("numbers",),
    "normals": ("rgb", "numbers"),
    "mask": ("labels", "numbers"),
    "edge": ("labels", "numbers"),
    "values": ("numbers", "rgb"),
}
"""Encodings that suit a kind, the default first."""

LOSSES: dict[FolderKind, tuple[LossName, ...]] = {
    "classes": ("cross_entropy", "parts_cross_entropy"),
    "distance": ("l1", "mse"),
    "normals": ("normals_l1",),
    "mask": ("batch_balanced_bce", "balanced_bce"),
    "edge": ("balanced_bce", "batch_balanced_bce"),
    "values": ("l1", "mse"),
}
"""Losses that suit a kind, the default first."""

METRICS: dict[FolderKind, tuple[MetricName, ...]] = {
    "classes": ("miou", "parts_miou"),
    "distance": ("rmse", "l1"),
    "normals": ("mean_angle",),
    "mask": ("iou", "max_f", "max_f_double_sigmoid", "edge_f", "ods_f"),
    "edge": ("edge_f", "ods_f"),
    "values": ("l1", "rmse"),
}
"""Metrics that suit a kind, the default first."""

UNITS: dict[FolderKind, Unit] = {
    "classes": "fraction",
    "distance": "m",
    "normals": "deg",
    "mask": "fraction",
    "edge": "fraction",
    "values": "none",
}
"""Unit of the metric of a kind; fractions are better when higher, all others when lower."""

ClassValue = int | str | list[int] | list[str]
"""Values of one class in the files: a label or several, a colour ``#RRGGBB`` or several."""

LARGEST_LABEL = 2**31 - 1

_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")


class FolderTask(Section):
    """One task: where its labels are and what they mean."""

    files: str
    """Path of the label of an image below root, with {id} in it, for example masks/{id}.png."""
    kind: FolderKind
    """classes, distance (metres, less when zoomed in), normals, mask (yes or no, a region), edge (yes or no,
    thin lines), or values (any numbers)."""
    encoding: Encoding | None = None
    """labels, colours, numbers or rgb; empty = the usual one of the kind."""
    classes: list[str] | dict[str, ClassValue] = []
    """kind classes: the names in the order of their labels from 0, or each name with its label or colour."""
    positive: list[int] = []
    """kinds mask and edge, encoding labels: labels that mean yes; empty = all but 0."""
    ignore: list[int | float | str] = []
    """Labels (-1 too, in npy or tiff), colours or raw numbers of pixels that do not count."""
    scale: Annotated[float, Field(gt=0.0)] = 1.0
    """Factor of raw numbers, for example 0.001 for depth in millimetres."""
    offset: float = 0.0
    """Added to them afterwards."""
    range: tuple[float, float] | None = None
    """Smallest and largest number allowed after scale and offset; a file beyond it is refused."""
    channels: Annotated[int, Field(ge=1, le=64)] = 1
    """kind values: numbers per pixel."""
    loss: LossName | None = None
    """Training loss; empty = the usual one of the kind."""
    metric: MetricName | None = None
    """Metric; empty = the usual one of the kind."""
    edge_tolerance: Annotated[float, Field(gt=0.0, le=0.1)] = 0.011
    """Metrics of edges: largest distance of a match as a fraction of the image diagonal."""
    derived_from: str | None = None
    """What the labels were computed from, if nobody annotated them; shown beside every result."""
    missing: Missing | None = None
    """refuse, or skip: images without this file have no label here; empty = as the whole description says."""

    @field_validator("classes", mode="before")
    @classmethod
    def _names_are_text(cls, classes: Any) -> Any:
        # YAML reads 3, 1e5, null, 2024-05-01 and true as something else.
        for name in classes if isinstance(classes, (list, dict)) else ():
            if not isinstance(name, str):
                raise ValueError(
                    f"must have text as names, got {name!r}. Put a name in quotes; a mapping is 'name: label'"
                )
        return classes

    @field_validator("files")
    @classmethod
    def _files_name_the_id(cls, pattern: str) -> str:
        return _checked_pattern(pattern)

    @model_validator(mode="after")
    def _parts_suit_the_kind(self) -> Self:
        check_suits("encoding", self.encoding, ENCODINGS[self.kind], self.kind)
        check_suits("loss", self.loss, LOSSES[self.kind], self.kind)
        check_suits("metric", self.metric, METRICS[self.kind], self.kind)
        if self.kind != "classes" and self.classes:
            raise ValueError(f"classes must be empty for kind {self.kind}, got {len(self.classes)}")
        check_range(self.range)
        if self.target != "mask" and self.positive:
            raise ValueError(f"positive must be empty for kind {self.kind}, got {self.positive}")
        if self.kind != "values" and self.channels != 1:
            raise ValueError(f"channels must be 1 for kind {self.kind}, got {self.channels}")
        if self.encoding == "rgb" and self.kind == "values" and self.channels != 3:
            raise ValueError(f"channels must be 3 for encoding rgb, got {self.channels}")
        return self

    @model_validator(mode="after")
    def _classes_have_values(self) -> Self:
        if self.kind != "classes":
            for ignored in self.ignore:
                _check_ignored(ignored, self.how == "labels")
            return self
        if not 2 <= len(self.classes) <= 255:
            raise ValueError(f"classes must name 2 to 255 classes, got {len(self.classes)}")
        coloured = self.how == "colours"
        if isinstance(self.classes, list):
            if coloured:
                raise ValueError(
                    "classes must give each name its colour for encoding colours, got names only"
                )
            if len(set(self.classes)) != len(self.classes):
                raise ValueError("classes must have different names")
        seen: dict[int | str, str] = {}
        for name, values in self.class_values.items():
            for value in values:
                _check_value(value, f"classes.{name}", coloured)
                if value in seen:
                    raise ValueError(
                        f"classes.{name} must have its own value, got {value}, which {seen[value]} has too"
                    )
                seen[value] = name
        for ignored in self.ignore:
            _check_value(ignored, "ignore", coloured)
            if (ignored.lower() if isinstance(ignored, str) else ignored) in seen:
                raise ValueError(f"ignore must not name the value of a class, got {ignored}")
        return self

    @property
    def target(self) -> TargetKind:
        """How the labels behave, whatever their metric."""
        return "mask" if self.kind == "edge" else self.kind

    @property
    def how(self) -> Encoding:
        """The encoding, by default the usual one."""
        return self.encoding or ENCODINGS[self.kind][0]

    @property
    def class_values(self) -> dict[str, tuple[int | str, ...]]:
        """Per class, its labels or its colours in lower case."""
        if isinstance(self.classes, list):
            return {name: (label,) for label, name in enumerate(self.classes)}
        listed = {name: each if isinstance(each, list) else [each] for name, each in self.classes.items()}
        return {
            name: tuple(value.lower() if isinstance(value, str) else value for value in values)
            for name, values in listed.items()
        }


class FolderSplits(Section):
    """Which images are for training and which for the final test."""

    train: str | None = None
    """A text file with one id per line, or, with * in it, a pattern of ids."""
    test: str | None = None
    """Same for the test split."""
    test_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    """Without train and test: this share of all images, in whole groups, is for the test."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of that choice."""

    @model_validator(mode="after")
    def _both_or_neither(self) -> Self:
        if (self.train is None) != (self.test is None):
            missing = "test" if self.test is None else "train"
            raise ValueError(f"{missing} must be given too, or neither of train and test")
        return self


class FolderGroups(Section):
    """Which images belong together (one scene, one plant, one patient): a group is never split."""

    file: str | None = None
    """A text file with "ID GROUP" per line."""
    pattern: str | None = None
    """A regular expression that is searched in the id; its first bracket is the group."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.file is None) == (self.pattern is None):
            raise ValueError("must have either file or pattern")
        if self.pattern is not None:
            check_one_bracket(self.pattern)
        return self


def _model_of(values: Any) -> str:
    """Which model describes a task; messages know the models by their names."""
    kind = values.get("kind") if isinstance(values, dict) else getattr(values, "kind", None)
    return ImageTask.__name__ if str(kind).startswith("image") else FolderTask.__name__


AnyTask = Annotated[
    Annotated[FolderTask, Tag(FolderTask.__name__)] | Annotated[ImageTask, Tag(ImageTask.__name__)],
    Discriminator(_model_of),
]
"""A task with labels of every pixel, or of whole images."""


class FolderDescription(Section):
    """A user's own data: one image per id, and one label per id and task."""

    root: str = "."
    """Folder of the data, relative to this file; --data-root overrides it."""
    images: str
    """Path of an image below root, with {id} in it, for example photos/{id}.jpg."""
    tasks: dict[str, AnyTask]
    """The tasks by name; a config selects those to train."""
    splits: FolderSplits = FolderSplits()
    groups: FolderGroups | None = None
    missing: Missing = "refuse"
    """Missing labels: refuse the data, or skip: the image has no label of that task."""

    @field_validator("images")
    @classmethod
    def _images_name_the_id(cls, pattern: str) -> str:
        return _checked_pattern(pattern)

    @model_validator(mode="after")
    def _has_tasks(self) -> Self:
        if not self.tasks:
            raise ValueError("tasks must name at least one task, got none")
        for name in self.tasks:
            if not re.fullmatch(rf"[A-Za-z][A-Za-z0-9_]{{0,{LONGEST_NAME - 1}}}", name):
                raise ValueError(
                    f"tasks.{name}: a name must be letters, digits and underscores, {LONGEST_NAME} at most"
                )
        return self

    @property
    def dense(self) -> dict[str, FolderTask]:
        """Tasks with labels of every pixel."""
        return {name: task for name, task in self.tasks.items() if isinstance(task, FolderTask)}

    @property
    def of_images(self) -> dict[str, ImageTask]:
        """Tasks with labels of whole images."""
        return {name: task for name, task in self.tasks.items() if isinstance(task, ImageTask)}

    @property
    def partly_labelled(self) -> tuple[str, ...]:
        """Tasks whose labels may be missing."""
        return tuple(name for name, task in self.tasks.items() if (task.missing or self.missing) == "skip")


def load_description(path: Path) -> FolderDescription:
    """Read and check the YAML that describes a folder.

    Raises:
        ConfigError: With file, dotted path, rule, value and the nearest known name.
    """
    return validate(FolderDescription, read_yaml(path), str(path))


def _checked_pattern(pattern: str) -> str:
    if pattern.count("{id}") != 1 or not Path(pattern.replace("{id}", "x")).suffix:
        raise ValueError(f"must be a path with {{id}} once in it and an ending, got '{pattern}'")
    if pattern.startswith(("/", "~")) or ".." in Path(pattern).parts:
        raise ValueError(f"must lie below root, got '{pattern}'")
    return pattern


def _check_value(value: int | float | str, where: str, coloured: bool) -> None:
    if coloured and not (isinstance(value, str) and _COLOUR.fullmatch(value)):
        raise ValueError(f"{where} must be a colour '#RRGGBB' in quotes, got {value!r}")
    if not coloured and (not isinstance(value, int) or abs(value) > LARGEST_LABEL):
        raise ValueError(f"{where} must be a label, a whole number up to {LARGEST_LABEL}, got {value!r}")


def _check_ignored(value: int | float | str, whole: bool) -> None:
    if isinstance(value, str) or (whole and not isinstance(value, int)):
        raise ValueError(f"ignore must hold {'labels' if whole else 'numbers'}, got {value!r}")
