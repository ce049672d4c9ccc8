"""The heat map: every rate where it belongs, texts apart and readable, a file that opens."""

from __future__ import annotations

from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from dtme_search.reporting import conflict_heat_map, save_png
from dtme_search.token_space import ConflictReport

TASKS = ("semseg", "depth", "normals", "human_parts")


def report(tasks=TASKS, num_layers=12, low=0.38, high=0.46) -> ConflictReport:
    """Rates spread evenly; as close together as measured ones."""
    num_pairs = len(tasks) * (len(tasks) - 1) // 2
    rates = torch.linspace(low, high, 2 * num_layers * num_pairs).reshape(2, 1, num_layers, num_pairs)
    counts = (1000 * rates).round().to(torch.int64).expand(-1, 8, -1, -1)
    return ConflictReport(tasks, 100.0, 192, 1000, (50,) * num_layers, counts[0], counts[1])


def luminance(colour) -> float:
    """Relative luminance of the Web Content Accessibility Guidelines 2."""
    channels = np.asarray(mpl.colors.to_rgb(colour))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one, other) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_both_spaces_show_every_layer_and_pair_in_percent():
    shown = report()
    figure = conflict_heat_map(shown)
    for axis, space in zip(figure.axes, ("range", "null"), strict=False):
        assert axis.get_title().startswith(f"{space} space")
        assert [label.get_text() for label in axis.get_xticklabels()] == [f"{a}\n{b}" for a, b in shown.pairs]
        rates = shown.rates(space)
        (image,) = axis.get_images()
        for layer in range(12):
            for column, (a, b) in enumerate(shown.pairs):
                rate = 100 * rates[layer, TASKS.index(a), TASKS.index(b)].item()
                assert image.get_array()[layer, column] == pytest.approx(rate)
        written = [text.get_text() for text in axis.texts]
        assert written[0] == f"{100 * rates[0, 0, 1]:.1f}" and len(written) == 12 * 6
    first, second = (axis.get_images()[0].get_clim() for axis in figure.axes[:2])
    assert first == second, "one scale for both spaces"
    assert figure.axes[0].get_ylabel() and "%" in figure.axes[2].get_ylabel()
    assert "8 images" in figure.get_suptitle()


@pytest.mark.parametrize(
    "shown",
    [report(), report((*TASKS, "edge"), 24), report(TASKS[:2], 3), report(low=0.4, high=0.4)],
    ids=["12 layers, 6 pairs", "24 layers, 10 pairs", "3 layers, 1 pair", "all rates equal"],
)
def test_texts_do_not_touch_and_can_be_read(shown):
    figure = conflict_heat_map(shown)
    FigureCanvasAgg(figure).draw()
    for axis in figure.axes[:2]:
        (image,) = axis.get_images()
        boxes = [label.get_window_extent() for label in axis.get_xticklabels()]
        assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
        cell = axis.get_window_extent().width / len(shown.pairs)
        for text in axis.texts:
            column, layer = (round(number) for number in text.get_position())
            background = image.cmap(image.norm(image.get_array()[layer, column]))
            assert contrast(text.get_color(), background) > 4
            assert text.get_window_extent().width < cell
        rows = [text.get_window_extent() for text in axis.texts[:: len(shown.pairs)]]
        assert all(above.y0 > below.y1 for above, below in pairwise(rows))
    left, right, bar = (axis.get_tightbbox() for axis in figure.axes)
    assert left.x1 < right.x0 and right.x1 < bar.x0


def test_the_file_is_a_picture(tmp_path):
    path = tmp_path / "new" / "conflicts.png"
    save_png(conflict_heat_map(report()), path)
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.width > 1000 and picture.height > 500
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 50


def test_one_task_gives_a_sentence_instead_of_an_empty_map(tmp_path):
    counts = torch.zeros(4, 3, 0, dtype=torch.int64)
    figure = conflict_heat_map(ConflictReport(("depth",), 100.0, 192, 10, (5,) * 3, counts, counts))
    save_png(figure, tmp_path / "conflicts.png")
    assert "no conflicts" in figure.texts[0].get_text()


def test_each_measured_trial_has_its_picture(finished_study):
    folders = finished_study.workdir / "tiny" / "trials"
    drawn = {int(path.parent.name) for path in folders.glob("*/conflicts.png")}
    measured = {number for number in range(6) if finished_study.study.records.conflicts("tiny", number)}
    assert drawn == measured == {1, 3}
