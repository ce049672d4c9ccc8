"""Read a whole data set once: what is in it, and what is broken.

Shapes: H height, W width, C channels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from dtme_search.data.base import Dataset, Sample, SourceSplit
from dtme_search.data.batches.resizing import Resizing
from dtme_search.data.reading.threads import map_in_threads
from dtme_search.data.shape import Shape, added, notes_on, shape_of
from dtme_search.data.spans import Span, span_of
from dtme_search.data.splits import Splits
from dtme_search.errors import DataError
from dtme_search.tasks import TaskSpec

Row = dict[str, Any]
Progress = Callable[[int, int], None]

MeasuredT = TypeVar("MeasuredT")

_CHANNELS = {"normals": ("x", "y", "z")}


@dataclass(frozen=True)
class Problem:
    """One missing or broken file.

    Attributes:
        split: Split of the sample.
        sample_id: Its id.
        message: Path, reason and what to do.
    """

    split: SourceSplit
    sample_id: str
    message: str


@dataclass(frozen=True)
class LabelSummary:
    """Content of one task over all samples whose files are all readable.

    Attributes:
        spec: The task.
        num_pixels: Pixels of all labels.
        num_valid: Those that count.
        num_empty: Samples in which no pixel counts.
        labelled: Per split of a run, the number of images, and of those in which some pixel counts.
        minimum: Smallest valid value per channel (C,), NaN if nothing is valid; likewise the next two.
        maximum: Largest.
        mean: Mean.
        class_pixels: Valid pixels per class, for kind classes; empty otherwise.
        class_images: Per split of a run, the samples in which each class occurs; like ``class_pixels``.
        spans: Per split of a run, smallest and largest valid value, ``None`` if nothing is valid.
        shape: What becomes of lines and areas at the size of the run.
    """

    spec: TaskSpec
    num_pixels: int
    num_valid: int
    num_empty: int
    labelled: Mapping[str, tuple[int, int]]
    minimum: tuple[float, ...]
    maximum: tuple[float, ...]
    mean: tuple[float, ...]
    class_pixels: tuple[int, ...]
    class_images: Mapping[str, tuple[int, ...]]
    spans: Mapping[str, Span | None]
    shape: Shape


_IN_TABLE = {"holdout": "holdout (of train)"}


@dataclass(frozen=True)
class CheckReport:
    """What ``check_dataset`` found.

    Attributes:
        num_listed: Samples per split of the data set; where there is a run also its hold-out, part of train.
        num_whole: Samples per split in which every file was read.
        sizes: Images per (H, W).
        labels: One summary per task.
        problems: Every missing or broken file, in the order of the splits and their ids.
        remarks: Remarks of the data set, for example which files it skipped.
        image_size: Size of the run, if one was given.
    """

    num_listed: Mapping[str, int]
    num_whole: Mapping[str, int]
    sizes: Mapping[tuple[int, int], int]
    labels: tuple[LabelSummary, ...]
    problems: tuple[Problem, ...]
    remarks: tuple[str, ...] = ()
    image_size: tuple[int, int] = (0, 0)

    @property
    def ok(self) -> bool:
        """Whether every file was read."""
        return not self.problems

    def notes(self) -> list[str]:
        """What is readable but makes numbers worse, for example labels that say nothing."""
        return [
            *self.remarks,
            *(
                f"{label.spec.name}: in the {split} images {_says_nothing(span, label.spec)}"
                for label in self.labels
                for split, span in label.spans.items()
                if span is None or span[0] == span[1]
            ),
            *self._absent_classes(),
            *(note for label in self.labels for note in notes_on(label.shape, label.spec, self.image_size)),
        ]

    def _absent_classes(self) -> list[str]:
        return [
            f"{label.spec.name}: no {split} image shows {', '.join(absent)}."
            + " A class that is neither there nor predicted counts as 0 in the mIoU."
            * (label.spec.metric in ("miou", "parts_miou"))
            for label in self.labels
            for split, counts in label.class_images.items()
            if (absent := [name for name, n in zip(label.spec.class_names, counts, strict=True) if not n])
        ]

    def tables(self) -> dict[str, list[Row]]:
        """Title -> rows of one form, ready to print or to save: splits, sizes, values, tasks with missing
        labels, classes, problems."""
        return {
            "splits": [
                {"split": _IN_TABLE.get(split, split), "listed": listed, "whole": self.num_whole[split]}
                for split, listed in self.num_listed.items()
            ],
            "sizes": [
                {"height": height, "width": width, "images": count}
                for (height, width), count in sorted(self.sizes.items())
            ],
            "values": [row for label in self.labels for row in _value_rows(label)],
            "partly labelled": [
                {"task": label.spec.name, "split": split, "images": images, "labelled": labelled}
                for label in self.labels
                if label.num_empty
                for split, (images, labelled) in label.labelled.items()
            ],
            "classes": [row for label in self.labels for row in _class_rows(label)],
            "problems": [
                {"split": problem.split, "id": problem.sample_id, "problem": problem.message}
                for problem in self.problems
            ],
        }

    def lines(self) -> list[str]:
        """The report in plain text, problems last."""
        text = []
        for title, rows in self.tables().items():
            if rows:
                text.append(f"{title}:")
                text += [
                    "  " + "  ".join(f"{key} {_short(value)}" for key, value in row.items()) for row in rows
                ]
        text.append("every file was read" if self.ok else f"{len(self.problems)} files are missing or broken")
        return text


def check_dataset(
    dataset: Dataset,
    on_progress: Progress | None = None,
    splits_of_run: Splits | None = None,
    *,
    image_size: tuple[int, int] | None = None,
    how: Resizing = "area",
) -> CheckReport:
    """Read every label of every sample of both splits; continues after a broken one.

    Args:
        dataset: What to read; for folders with missing files, opened so that it accepts them.
        on_progress: Called with the number of samples done and in total, from this thread.
        splits_of_run: Count the images of each class in these splits, otherwise in those of the data set.
        image_size: Check what labels lose when they are reduced to this size.
        how: ``data.resize``.
    """
    splits: tuple[SourceSplit, ...] = ("train", "test")
    listed = [(split, sample_id) for split in splits for sample_id in dataset.ids(split)]
    specs = dataset.tasks

    def measure(sample: Sample) -> tuple[tuple[int, int], dict[str, _Tally]]:
        tallies = {
            task: _tally(sample.labels[task], sample.valid[task], specs[task], image_size, how)
            for task in specs
        }
        return (sample.image.shape[0], sample.image.shape[1]), tallies

    sizes: Counter[tuple[int, int]] = Counter()
    held_out = set() if splits_of_run is None else set(splits_of_run.holdout)
    all_parts = ["train", *(["holdout"] if held_out else []), "test"]
    part_of = {sample_id: "holdout" if sample_id in held_out else split for split, sample_id in listed}
    tallies: dict[str, list[_Tally]] = {task: [] for task in specs}
    parts: list[str] = []
    problems: list[Problem] = []
    readings = _read_all(dataset, [sample_id for _, sample_id in listed], tuple(specs), measure, on_progress)
    for (split, sample_id), (measured, messages) in zip(listed, readings, strict=True):
        problems += [Problem(split, sample_id, message) for message in messages]
        if measured is not None:
            size, found = measured
            parts.append(part_of[sample_id])
            sizes[size] += 1
            for task, tally in found.items():
                tallies[task].append(tally)
    return CheckReport(
        num_listed=_counted(part_of.values(), all_parts),
        num_whole=_counted(parts, all_parts),
        sizes=dict(sizes),
        labels=tuple(_summary(spec, tallies[task], parts, all_parts) for task, spec in specs.items()),
        problems=tuple(problems),
        remarks=tuple(getattr(dataset, "remarks", tuple)()),
        image_size=image_size or (0, 0),
    )


def _counted(parts: Iterable[str], all_parts: Sequence[str]) -> dict[str, int]:
    counts = Counter(parts)
    counts["train"] += counts["holdout"]
    return {part: counts[part] for part in all_parts}


def verify_readable(
    dataset: Dataset,
    ids: Sequence[str],
    tasks: Sequence[str] | None = None,
    on_progress: Progress | None = None,
    on_spans: Callable[[str, dict[str, Span | None]], None] | None = None,
) -> None:
    """Decode every file of ``ids`` before training starts; derived labels are in the cache afterwards.

    Args:
        dataset: Source.
        ids: Samples for training or evaluation.
        tasks: Labels to read; all of the data set's if not given.
        on_progress: As for ``check_dataset``.
        on_spans: Called with each id and the spans of its labels.

    Raises:
        DataError: If a file is missing or broken: names the first one with its reason, and their number.
    """
    chosen = tuple(dataset.tasks) if tasks is None else tuple(tasks)
    messages: list[str] = []
    readings = _read_all(dataset, ids, chosen, _spans, on_progress)
    for sample_id, (spans, found) in zip(ids, readings, strict=True):
        messages += found
        if spans is not None and on_spans is not None:
            on_spans(sample_id, spans)
    if messages:
        others = f" {len(messages) - 1} more files are missing or broken;" if len(messages) > 1 else ""
        raise DataError(f"{messages[0]}{others} 'dtme-search data check' lists them all.")


def _spans(sample: Sample) -> dict[str, Span | None]:
    return {task: span_of(label, sample.valid[task]) for task, label in sample.labels.items()}


def _read_all(
    dataset: Dataset,
    ids: Sequence[str],
    tasks: tuple[str, ...],
    measure: Callable[[Sample], MeasuredT],
    on_progress: Progress | None,
) -> Iterator[tuple[MeasuredT | None, list[str]]]:
    """Per id, in order: the result of ``measure`` or ``None``, and a message per broken file."""

    def read(sample_id: str) -> tuple[MeasuredT | None, list[str]]:
        try:
            return measure(dataset.read(sample_id, tasks)), []
        except DataError as error:
            return None, _messages(dataset, sample_id, tasks) or [str(error)]

    for done, reading in enumerate(map_in_threads(read, ids), start=1):
        yield reading
        if on_progress is not None:
            on_progress(done, len(ids))


def _messages(dataset: Dataset, sample_id: str, tasks: tuple[str, ...]) -> list[str]:
    """Read the image and each label separately, so that each broken file is named once."""
    found: dict[str, None] = {}
    for part in ((), *((task,) for task in tasks)):
        try:
            dataset.read(sample_id, part)
        except DataError as error:
            found[str(error)] = None
    return list(found)


@dataclass(frozen=True)
class _Tally:
    """What one label adds to a summary; arrays are per channel (C,) or per class."""

    num_pixels: int
    num_valid: int
    minimum: npt.NDArray[np.float64]
    maximum: npt.NDArray[np.float64]
    total: npt.NDArray[np.float64]
    class_pixels: npt.NDArray[np.int64]
    shape: Shape


def _tally(
    label: npt.NDArray[Any],
    valid: npt.NDArray[np.bool_],
    spec: TaskSpec,
    image_size: tuple[int, int] | None,
    how: Resizing,
) -> _Tally:
    values = label.reshape(*valid.shape, -1)[valid]
    num_classes = spec.channels if spec.kind == "classes" else 0
    return _Tally(
        num_pixels=valid.size,
        num_valid=len(values),
        minimum=_reduced(np.min, values),
        maximum=_reduced(np.max, values),
        total=_reduced(np.sum, values),
        class_pixels=np.bincount(values[:, 0], minlength=num_classes)
        if num_classes
        else np.zeros(0, dtype=np.int64),
        shape=shape_of(label, valid, spec, image_size, how),
    )


def _reduced(reduce: Callable[..., npt.NDArray[Any]], values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Minimum, maximum or sum per channel; empty ones are left out of the summary."""
    return reduce(values.astype(np.float64), axis=0) if len(values) else np.zeros(values.shape[1])


def _summary(
    spec: TaskSpec, tallies: Sequence[_Tally], parts: Sequence[str], all_parts: Sequence[str]
) -> LabelSummary:
    filled = [tally for tally in tallies if tally.num_valid]
    num_valid = sum(tally.num_valid for tally in filled)
    nothing = (float("nan"),) * (1 if spec.kind == "classes" else spec.channels)
    return LabelSummary(
        spec,
        num_pixels=sum(tally.num_pixels for tally in tallies),
        num_valid=num_valid,
        num_empty=len(tallies) - len(filled),
        labelled={
            part: (len(of_part), sum(tally.num_valid > 0 for tally in of_part))
            for part in all_parts
            if (of_part := [tally for tally, each in zip(tallies, parts, strict=True) if each == part])
        },
        minimum=_floats(np.min([tally.minimum for tally in filled], axis=0)) if filled else nothing,
        maximum=_floats(np.max([tally.maximum for tally in filled], axis=0)) if filled else nothing,
        mean=_floats(np.sum([tally.total for tally in filled], axis=0) / num_valid) if filled else nothing,
        class_pixels=tuple(int(n) for n in np.sum([tally.class_pixels for tally in filled], axis=0))
        if filled
        else (0,) * len(spec.class_names),
        class_images={
            part: tuple(
                sum(
                    bool(tally.class_pixels[index])
                    for tally, each in zip(tallies, parts, strict=True)
                    if each == part
                )
                for index in range(spec.channels)
            )
            for part in all_parts
        }
        if spec.kind == "classes"
        else {},
        spans={part: _span_of_part(part, tallies, parts) for part in all_parts if part in parts},
        shape=added(tally.shape for tally in tallies),
    )


def _span_of_part(part: str, tallies: Sequence[_Tally], parts: Sequence[str]) -> Span | None:
    filled = [tally for tally, each in zip(tallies, parts, strict=True) if each == part and tally.num_valid]
    if not filled:
        return None
    return float(min(each.minimum.min() for each in filled)), float(
        max(each.maximum.max() for each in filled)
    )


def _says_nothing(span: Span | None, spec: TaskSpec) -> str:
    if span is None:
        return f"no {spec.labelled_thing} counts, so a run with this task is refused."
    return f"every {spec.labelled_thing} has the value {span[0]:g}, so there is nothing to learn."


def _floats(values: npt.NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _value_rows(label: LabelSummary) -> list[Row]:
    """One row per channel; the mean of class ids is meaningless and left out."""
    spec = label.spec
    names = _CHANNELS.get(spec.kind, spec.channel_names)
    return [
        {
            "task": spec.name if len(label.minimum) == 1 else f"{spec.name}.{names[channel]}",
            "derived_from": spec.derived_from,
            "minimum": label.minimum[channel],
            "maximum": label.maximum[channel],
            "mean": None if spec.kind == "classes" else label.mean[channel],
            "valid_percent": 100 * label.num_valid / max(label.num_pixels, 1),
            "images_without": label.num_empty,
            "metric": spec.metric,
        }
        for channel in range(len(label.minimum))
    ]


def _class_rows(label: LabelSummary) -> list[Row]:
    return [
        {
            "task": label.spec.name,
            "class": name,
            "pixels": None if label.spec.of_image else pixels,
            "percent": 100 * pixels / max(label.num_valid, 1),
            **{f"images_{split}": counts[index] for split, counts in label.class_images.items()},
        }
        for index, (name, pixels) in enumerate(zip(label.spec.class_names, label.class_pixels, strict=False))
    ]


def _short(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
