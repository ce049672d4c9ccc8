"""Predictions as pictures: the image beside a panel for every task, each with its legend.

Shapes: H height, W width of an image.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from dtme_search.config import RunConfig
from dtme_search.data import Split, TaskData, read_image, restore_colours
from dtme_search.models import MultiTaskViT
from dtme_search.reporting.colours import CONTINUOUS, class_colours, paint, value_limits
from dtme_search.reporting.figures.heat_map import save_png
from dtme_search.reporting.rasters import save_raster
from dtme_search.reporting.targets import refuse_foreign, unique_names
from dtme_search.reporting.whole_image import in_words, write_words
from dtme_search.tasks import TaskSpec
from dtme_search.training import Predictor, as_label
from dtme_search.training.prediction import shown_size

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 2.9
"""Inches of a panel."""
_LEGEND = 0.95
"""Inches below the panels."""
_LONGEST = 1200
"""Pixels of the longer side of a panel; more would not be visible."""
_MOST_CLASSES = 10
"""Number of classes named in a legend, the most frequent ones."""
_DIRECTIONS = (("right", (1.0, 0.0, 0.0)), ("up", (0.0, -1.0, 0.0)), ("to the camera", (0.0, 0.0, -1.0)))


@dataclass(frozen=True)
class PanelRow:
    """One row of panels: what the tasks say about an image.

    Attributes:
        name: Name of the row, for example ``prediction``.
        labels: Task -> label or prediction in the form of a label, (H, W) or (H, W, C).
        valid: Task -> where it counts, (H, W); everywhere for tasks not included.
    """

    name: str
    labels: Mapping[str, npt.NDArray[Any]]
    valid: Mapping[str, npt.NDArray[np.bool_]]


def draw_panels(
    image: npt.NDArray[np.uint8], rows: Sequence[PanelRow], specs: Mapping[str, TaskSpec], title: str
) -> Figure:
    """The image and a panel per task, in the image's own aspect ratio, with a legend below each task.

    Args:
        image: RGB, (H, W, 3).
        rows: Lines of panels; colour scales are those of the first line.
        specs: The tasks, in the order of the panels.
        title: Shown above.
    """
    from matplotlib.figure import Figure

    aspect = image.shape[0] / image.shape[1]
    panel = _WIDTH * min(1.0, 1.4 / aspect), _WIDTH * min(1.4, aspect)
    height = len(rows) * (panel[1] + 0.3) + _LEGEND + 0.35
    figure = Figure(figsize=((len(specs) + 1) * (panel[0] + 0.12) + 0.2, height))
    figure.text(0.01, 1 - 0.06 / height, title, ha="left", va="top", fontsize=10)
    grid = figure.add_gridspec(
        len(rows), len(specs) + 1, left=0.01, right=0.99, wspace=0.04, hspace=0.3 / panel[1],
        top=1 - 0.55 / height, bottom=_LEGEND / height,
    )  # fmt: skip
    blank = np.full_like(image, 255)
    for line, row in enumerate(rows):
        if line == 0:
            _panel(figure.add_subplot(grid[line, 0]), image, "image")
        for column, (task, spec) in enumerate(specs.items(), start=1):
            axes, name = figure.add_subplot(grid[line, column]), f"{task}, {row.name}"
            label, valid = row.labels[task], row.valid.get(task)
            if spec.of_image:
                counts = valid is None or bool(valid.all())
                write_words(_panel(axes, blank, name), in_words(spec, label, counts=counts))
                continue
            limits = _limits(rows[0], task, spec)
            _panel(axes, paint(spec, label, valid, limits), name)
            if line == len(rows) - 1:
                shown = np.concatenate([each.labels[task].ravel() for each in rows])
                _legend(figure, axes, spec, shown, limits, height)
    return figure


def predict_image(
    predictor: Predictor,
    path: Path,
    target: Path,
    *,
    rasters: Mapping[str, Path] | None = None,
    on_words: Callable[[str, str], None] = lambda _task, _words: None,
) -> list[Path]:
    """Predict all tasks of a picture and write the panels as PNG to ``target``; returns the written paths.

    Args:
        predictor: The network.
        path: The picture.
        target: File for the panels, which are at most 1,200 pixels per side.
        rasters: Task -> file for its numbers at the picture's own size, see :func:`save_raster`.
        on_words: Called with every task about the whole image, and what it says.
    """
    image = read_image(path)
    found = predictor(image)
    labels = {task: found.label(task, _LONGEST) for task in predictor.specs}
    title = f"{path.name}, {image.shape[1]}x{image.shape[0]}"
    height, width = shown_size(found.size, _LONGEST)
    shown = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    save_png(draw_panels(shown, [PanelRow("predicted", labels, {})], predictor.specs, title), target)
    for task, file in (rasters or {}).items():
        save_raster(found, task, file)
    for task, spec in predictor.specs.items():
        if spec.of_image:
            on_words(task, in_words(spec, labels[task]))
    return [target, *(rasters or {}).values()]


def split_panels(ids: Sequence[str], split: Split, count: int, folder: Path) -> list[Path]:
    """Files that :func:`save_split_panels` writes for the first ``count`` of these ids of a split."""
    names = unique_names([re.sub(r"[^\w.-]+", "_", each) for each in ids[:count]])
    return [folder / f"{split}-{name}.png" for name in names]


@torch.no_grad()
def save_split_panels(
    model: MultiTaskViT,
    config: RunConfig,
    data: TaskData,
    split: Split,
    targets: Sequence[Path],
    *,
    force: bool = False,
) -> list[Path]:
    """Write labels above predictions for the first images of a split.

    Args:
        model: The network.
        config: Of its run.
        data: Its data.
        split: Split of the images.
        targets: A file for each, see :func:`split_panels`.
        force: Replace files that are not ours.

    Raises:
        ConfigError: If there is one, before anything is drawn.
    """
    for path in () if force else targets:
        refuse_foreign(path)
    ids = data.splits.ids(split)
    model.eval()
    for path, batch in zip(targets, data.eval_batches(split, 1), strict=False):
        outputs = model(batch.images, tuple(data.specs))
        image = restore_colours(batch.images, config.data)[0].permute(1, 2, 0).cpu().numpy()
        valid = {task: mask[0, 0].cpu().numpy() for task, mask in batch.valid.items()}
        target = {task: _plain(label, data.specs[task]) for task, label in batch.targets.items()}
        guess = {
            task: as_label(out.float(), data.specs[task])[0].cpu().numpy() for task, out in outputs.items()
        }
        rows = [PanelRow("labelled", target, valid), PanelRow("predicted", guess, {})]
        sample = ids[int(batch.indices[0])]
        save_png(draw_panels(image, rows, data.specs, f"{split} split, {sample}"), path)
    return list(targets)


def _plain(target: torch.Tensor, spec: TaskSpec) -> npt.NDArray[Any]:
    """The first target of a batch in the form of a label."""
    if spec.kind == "classes":
        return target[0].cpu().numpy()
    label = target[0].permute(1, 2, 0).cpu().numpy()
    return label[..., 0] if label.shape[-1] == 1 else label


def _limits(row: PanelRow, task: str, spec: TaskSpec) -> tuple[float, float] | None:
    if spec.kind not in ("distance", "values"):
        return None
    label = row.labels[task]
    values = label if label.ndim == 2 else np.linalg.norm(label, axis=-1)
    return value_limits(values, row.valid.get(task, np.ones(values.shape, dtype=bool)))


def _panel(axes: Axes, picture: npt.NDArray[np.uint8], title: str) -> Axes:
    axes.imshow(picture, aspect="equal")
    axes.set_title(title, fontsize=9, pad=3)
    axes.set_xticks([])
    axes.set_yticks([])
    return axes


def _legend(
    figure: Figure,
    axes: Axes,
    spec: TaskSpec,
    shown: npt.NDArray[Any],
    limits: tuple[float, float] | None,
    height: float,
) -> None:
    place = axes.get_position()
    if limits is not None:
        _colour_bar(figure, (place.x0, place.width, height), spec, limits)
        return
    entries = _entries(spec, shown)
    from matplotlib.patches import Patch

    handles = [
        Patch(
            facecolor=_hex(colour),
            edgecolor="black",
            linewidth=0.4,
            label=name,
        )
        for name, colour in entries
    ]
    figure.legend(
        handles=handles, loc="upper center", ncols=2 if len(entries) > 3 else 1, fontsize=6.5, frameon=False,
        bbox_to_anchor=(place.x0 + place.width / 2, (_LEGEND - 0.02) / height), handlelength=1.2,
        columnspacing=1.0, labelspacing=0.25,
    )  # fmt: skip


def _hex(colour: Sequence[int]) -> str:
    return "#" + "".join(f"{int(channel):02x}" for channel in colour)


def _colour_bar(
    figure: Figure, place: tuple[float, float, float], spec: TaskSpec, limits: tuple[float, float]
) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    left, width, height = place
    axes = figure.add_axes((left + 0.1 * width, (_LEGEND - 0.22) / height, 0.8 * width, 0.1 / height))
    bar = figure.colorbar(ScalarMappable(Normalize(*limits), CONTINUOUS), cax=axes, orientation="horizontal")
    bar.set_label(spec.name if spec.unit == "none" else f"{spec.name} ({spec.unit})", fontsize=7)
    bar.ax.tick_params(labelsize=6.5)


def _entries(spec: TaskSpec, shown: npt.NDArray[Any]) -> list[tuple[str, Sequence[int]]]:
    if spec.kind == "classes":
        counts = np.bincount(np.clip(shown.astype(np.int64), 0, spec.channels - 1), minlength=spec.channels)
        frequent = [
            int(index) for index in np.argsort(-counts, kind="stable")[:_MOST_CLASSES] if counts[index]
        ]
        colours = class_colours(spec.channels)
        return [(spec.channel_names[index], colours[index]) for index in frequent]
    if spec.kind == "normals":
        return [
            (name, paint(spec, np.array([[normal]], dtype=np.float32))[0, 0]) for name, normal in _DIRECTIONS
        ]
    return [(f"{spec.name}, certain", (0, 0, 0)), ("none", (255, 255, 255))]
