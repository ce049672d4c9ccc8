"""Panels: the image's own aspect, a legend for every task, predictions for images of any size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from dtme_search.config import RunConfig
from dtme_search.data import normalize_images
from dtme_search.models import build_model
from dtme_search.reporting.panels import PanelRow, draw_panels, predict_image
from dtme_search.tasks import depth, edge, normals, semseg
from dtme_search.training import Predictor, as_label

SPECS = {spec.name: spec for spec in (semseg(("wall", "floor", "bed")), depth(), normals("depth"), edge())}


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    from tiny import TINY

    config = RunConfig.model_validate(TINY)
    model = build_model(config.model, SPECS, config.data.image_size, seed=0)
    return Predictor(model, SPECS, config, torch.device("cpu"))


def labels(height: int, width: int) -> dict[str, np.ndarray]:
    facing = np.zeros((height, width, 3), np.float32)
    facing[..., 2] = -1
    return {
        "semseg": np.arange(height * width).reshape(height, width) % 2,
        "depth": np.linspace(1, 5, height * width, dtype=np.float32).reshape(height, width),
        "normals": facing,
        "edge": np.eye(height, width, dtype=np.float32),
    }


@pytest.mark.parametrize(("height", "width"), [(48, 64), (90, 30), (20, 200), (1, 1)])
def test_predictions_have_the_size_of_the_image_and_the_form_of_labels(predictor, height, width):
    found = predictor(torch.randint(0, 256, (3, height, width), dtype=torch.uint8))
    assert found.keys() == SPECS.keys()
    assert found["semseg"].shape == found["depth"].shape == found["edge"].shape == (height, width)
    assert found["semseg"].dtype == torch.int64 and found["semseg"].max() < 3
    assert found["normals"].shape == (height, width, 3)
    assert torch.allclose(found["normals"].norm(dim=-1), torch.ones(height, width), atol=1e-4)
    assert found["edge"].min() >= 0 and found["edge"].max() <= 1


def test_an_image_of_the_models_size_is_predicted_as_an_evaluation_does(predictor):
    image = torch.randint(0, 256, (3, 32, 48), dtype=torch.uint8)
    batch = normalize_images(image[None].float(), predictor.config.data.normalize)
    with torch.no_grad():
        outputs = predictor.model.eval()(batch)
    for name, label in predictor(image).items():
        assert torch.allclose(label, as_label(outputs[name].float(), SPECS[name])[0], atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(48, 64), (90, 40), (30, 120)])
def test_panels_keep_the_aspect_and_every_task_has_a_legend(height, width):
    valid = {"depth": np.zeros((height, width), bool)}
    rows = [
        PanelRow("labelled", labels(height, width), valid),
        PanelRow("predicted", labels(height, width), {}),
    ]
    figure = draw_panels(np.zeros((height, width, 3), np.uint8), rows, SPECS, "a title")
    FigureCanvasAgg(figure).draw()
    panels = [axes for axes in figure.axes if axes.get_images()]
    assert len(panels) == 10
    titles = [axes.get_title() for axes in panels if axes.get_title()]
    assert titles.count("image") == 2 and "depth, labelled" in titles and "edge, predicted" in titles
    for axes in panels:
        box = axes.get_window_extent()
        assert box.height / box.width == pytest.approx(height / width, rel=0.03)
    named = {text.get_text() for legend in figure.legends for text in legend.get_texts()}
    assert named == {"wall", "floor", "right", "up", "to the camera", "edge, certain", "none"}
    assert any("depth (m)" in axes.get_xlabel() for axes in figure.axes)
    canvas = figure.bbox
    for legend in figure.legends:
        box = legend.get_window_extent()
        assert box.y0 >= canvas.y0 - 1 and box.x0 >= canvas.x0 - 1 and box.x1 <= canvas.x1 + 1


def test_a_picture_becomes_panels(predictor, tmp_path):
    Image.fromarray(np.full((40, 30, 4), 120, np.uint8)).save(tmp_path / "photo.png")
    path = predict_image(predictor, tmp_path / "photo.png", tmp_path / "new" / "photo-panels.png")
    assert path == tmp_path / "new" / "photo-panels.png"
    with Image.open(path) as picture:
        assert picture.width > 1000
