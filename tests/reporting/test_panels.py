"""Panels: the image's own aspect, a legend for every task, predictions for images of any size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from tiny import TINY

from dtme_search.config import RunConfig
from dtme_search.data import normalize_images
from dtme_search.models import build_model
from dtme_search.reporting.panels import PanelRow, draw_panels, predict_image
from dtme_search.reporting.rasters import raster_ending, save_raster
from dtme_search.tasks import depth, edge, normals, semseg
from dtme_search.training import Prediction, Predictor, as_label

SPECS = {spec.name: spec for spec in (semseg(("wall", "floor", "bed")), depth(), normals("depth"), edge())}


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    config = RunConfig.model_validate(TINY)
    model = build_model(config.model, SPECS, config.data.image_size, seed=0)
    return Predictor.of_model(model, SPECS, config, torch.device("cpu"))


def labels(height: int, width: int) -> dict[str, np.ndarray]:
    facing = np.zeros((height, width, 3), np.float32)
    facing[..., 2] = -1
    return {
        "semseg": np.arange(height * width).reshape(height, width) % 2,
        "depth": np.linspace(1, 5, height * width, dtype=np.float32).reshape(height, width),
        "normals": facing,
        "edge": np.eye(height, width, dtype=np.float32),
    }


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), [(48, 64), (90, 30), (20, 200), (1, 1)])
def test_predictions_have_the_size_of_the_image_and_the_form_of_labels(predictor, height, width):
    prediction = predictor(noise(height, width))
    found = {task: prediction.label(task) for task in SPECS}
    assert found["semseg"].shape == found["depth"].shape == found["edge"].shape == (height, width)
    assert found["semseg"].dtype == np.int64 and found["semseg"].max() < 3
    assert found["normals"].shape == (height, width, 3)
    assert np.allclose(np.linalg.norm(found["normals"], axis=-1), 1, atol=1e-4)
    assert found["edge"].min() >= 0 and found["edge"].max() <= 1


def test_an_image_of_the_models_size_is_predicted_as_an_evaluation_does(predictor):
    image = noise(32, 48)
    config = RunConfig.model_validate(TINY)
    model = build_model(config.model, SPECS, config.data.image_size, seed=0).eval()
    batch = normalize_images(torch.from_numpy(image).permute(2, 0, 1)[None].float(), config.data.normalize)
    with torch.no_grad():
        outputs = model(batch)
    prediction = predictor(image)
    for name, spec in SPECS.items():
        wanted = as_label(outputs[name].float(), spec)[0].numpy()
        assert np.allclose(prediction.label(name), wanted, atol=1e-5)


@pytest.mark.parametrize("size", [(60, 90), (17, 500), (300, 5)])
def test_bands_are_the_whole_and_as_torch_enlarges_it(predictor, size, monkeypatch):
    prediction = predictor(noise(*size))
    output = prediction.outputs["depth"][None]
    wanted = torch.nn.functional.interpolate(output, size, mode="bilinear", align_corners=False)[0, 0]
    assert np.allclose(prediction.label("depth"), wanted.numpy(), atol=1e-4)
    whole = prediction.label("normals")
    monkeypatch.setattr("dtme_search.training.prediction._BAND_VALUES", 7 * 3 * size[1])
    bands = list(prediction.bands("normals"))
    assert {len(band) for band in bands[:-1]} == {7} and np.array_equal(np.concatenate(bands), whole)


def test_rasters_hold_what_was_predicted(predictor, tmp_path):
    prediction = predictor(noise(70, 90))
    for task, spec in SPECS.items():
        save_raster(prediction, task, tmp_path / f"shot-{task}.{raster_ending(spec)}")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "shot-depth.png", "shot-edge.npy", "shot-normals.npy", "shot-semseg.png",
    ]  # fmt: skip
    with Image.open(tmp_path / "shot-semseg.png") as classes:
        assert classes.mode == "P" and np.array_equal(np.asarray(classes), prediction.label("semseg"))
    with Image.open(tmp_path / "shot-depth.png") as millimetres:
        metres = np.asarray(millimetres).astype(np.float64) / 1000
    assert np.allclose(metres, np.clip(prediction.label("depth"), 0, 65.535), atol=0.0006)
    for task in ("normals", "edge"):
        values = np.load(tmp_path / f"shot-{task}.npy")
        assert values.dtype == np.float32 and np.array_equal(values, prediction.label(task))


def test_depth_that_16_bits_cannot_hold_is_the_farthest(tmp_path):
    output = torch.tensor([[[-1.0, 1.0, 99.0]]])
    save_raster(Prediction({"depth": depth()}, {"depth": output}, (1, 3)), "depth", tmp_path / "d.png")
    with Image.open(tmp_path / "d.png") as picture:
        assert np.asarray(picture).tolist() == [[0, 1000, 65535]]


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
    assert len(panels) == 9
    titles = [axes.get_title() for axes in panels if axes.get_title()]
    assert titles.count("image") == 1 and "depth, labelled" in titles and "edge, predicted" in titles
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
    (path,) = predict_image(predictor, tmp_path / "photo.png", tmp_path / "new" / "photo-panels.png")
    assert path == tmp_path / "new" / "photo-panels.png"
    with Image.open(path) as picture:
        assert picture.width > 1000
