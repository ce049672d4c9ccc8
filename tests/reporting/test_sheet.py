"""The contact sheet: a picture for every image and task, and a key that names what stands on it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from dtme_search import tasks
from dtme_search.config import DataConfig
from dtme_search.data import Batch
from dtme_search.data.batches.augment import restore_colours
from dtme_search.reporting import label_sheet
from dtme_search.reporting.colours import class_colours, stripes
from dtme_search.tasks import TaskSpec

SPECS = {
    "semseg": tasks.semseg(("wall", "floor", "a very long name of a class", "never there")),
    "depth": tasks.depth(),
    "normals": tasks.normals("depth"),
    "edge": tasks.edge(),
    "light": TaskSpec("light", 2, "values", "l1", "l1", "none", False),
}
SIZE = (16, 24)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    valid = torch.ones(2, 1, *SIZE, dtype=torch.bool)
    valid[:, :, :8] = False
    targets = {
        "semseg": torch.randint(0, 3, (2, *SIZE), generator=generator),
        "depth": torch.rand(2, 1, *SIZE, generator=generator) + 1,
        "normals": torch.tensor([0.0, 0.0, -1.0])[None, :, None, None].expand(2, 3, *SIZE),
        "edge": torch.zeros(2, 1, *SIZE),
        "light": torch.rand(2, 2, *SIZE, generator=generator),
    }
    masks = {task: torch.ones_like(valid) if task == "depth" else valid for task in SPECS}
    images = torch.zeros(2, 3, *SIZE)
    return Batch(images, targets, masks, torch.arange(2))


@pytest.fixture
def figure(batch):
    return label_sheet(batch, SPECS, DataConfig(image_size=SIZE), "orchard, seed 0")


def pictures(figure):
    return [axis.images[0].get_array() for axis in figure.axes if axis.images]


def texts(figure):
    return [text.get_text() for axis in figure.axes for text in (*axis.texts, axis.title) if text.get_text()]


def test_there_is_a_column_per_task_and_a_row_per_image(figure):
    grid = pictures(figure)[: 2 * 6]
    assert all(picture.shape == (*SIZE, 3) for picture in grid)
    assert texts(figure)[:6] == ["image", *SPECS]
    assert figure.texts[0].get_text() == "orchard, seed 0"


def test_pixels_without_a_label_are_striped_and_said_to_be(figure, batch):
    semseg, depth = pictures(figure)[1], pictures(figure)[2]
    np.testing.assert_array_equal(semseg[:8], stripes(SIZE)[:8])
    colours = class_colours(4)
    np.testing.assert_array_equal(semseg[8:], colours[batch.targets["semseg"][0, 8:].numpy()])
    assert not np.array_equal(depth[:8], stripes(SIZE)[:8])
    # One for each task but depth, which is known everywhere.
    assert texts(figure).count("no label") == 4


def test_the_key_names_what_occurs_and_what_is_derived(figure):
    shown = texts(figure)
    assert {"wall", "floor", "a very long na…", "yes", "no", "to the camera"} <= set(shown)
    assert "never there" not in shown
    assert "normals, where the surface faces (derived from depth)" in shown
    assert "light, length of 2 channels" in shown
    metres = [float(text) for text in shown if text.replace(".", "").isdigit()][:5]
    assert metres == sorted(metres)
    assert 1.0 <= metres[0] < metres[-1] <= 2.0


def test_it_can_be_saved_at_any_number_of_tasks_and_images(batch, tmp_path):
    one = Batch(
        batch.images[:1],
        {"edge": batch.targets["edge"][:1]},
        {"edge": batch.valid["edge"][:1]},
        torch.zeros(1),
    )
    figure = label_sheet(one, {"edge": SPECS["edge"]}, DataConfig(image_size=SIZE), "one")
    figure.savefig(tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 5000
    assert to_rgb(figure.get_facecolor()) == (1, 1, 1)


@pytest.mark.parametrize("normalize", ["imagenet", "half"])
def test_colours_come_back_from_the_normalisation(normalize):
    from dtme_search.data.batches.augment import Draws, prepare_batch
    from dtme_search.data.batches.tensors import RawSamples

    image = torch.randint(
        0, 256, (1, 3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    config = DataConfig(image_size=SIZE, normalize=normalize)
    raw = RawSamples(image, {}, {}, torch.tensor([SIZE]))
    prepared = prepare_batch(raw, torch.zeros(1), Draws.neutral(1), {}, config)
    assert torch.equal(restore_colours(prepared.images, config), image)
