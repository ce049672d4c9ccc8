"""``predict`` and ``evaluate`` on a run: folders, broken pictures, raw files, what is never written over."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from commands import invoke
from PIL import Image
from tiny import TINY, with_paths

from dtme_search.config import RunConfig
from dtme_search.errors import ConfigError, DataError
from dtme_search.search import train_final


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Folder of a run with baselines."""
    values = with_paths(TINY, {"tasks": {"semseg": {}, "depth": {}}, "train.num_steps": 2})
    workdir = tmp_path_factory.mktemp("trained")
    return train_final(RunConfig.model_validate(values), "net", workdir=workdir, device="cpu").folder


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Two pictures of one name, one below, and a file that only looks like one."""
    folder = tmp_path / "pictures"
    for name in ("shot.png", "shot.jpg", "below/leaf.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40), (200, 30, 90)).save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    return folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_folder_with_all_below(trained, pictures, tmp_path):
    out = tmp_path / "out"
    done = invoke("predict", trained, pictures, "--out", out, "--raw")
    assert done.exit_code == 0, done.output
    assert len(names(out)) == 9 and {"leaf-panels.png", "leaf-depth.png", "leaf-semseg.png"} < names(out)
    with Image.open(out / "leaf-semseg.png") as classes:
        assert classes.size == (60, 40)
    # Panels of an earlier call are renewed, but nobody can tell whose raw files these are.
    assert invoke("predict", trained, pictures, "--out", out).exit_code == 0
    again = invoke("predict", trained, pictures, "--out", out, "--raw")
    assert isinstance(again.exception, ConfigError) and "(and 5 more) already exists" in str(again.exception)
    assert invoke("predict", trained, pictures, "--out", out, "--raw", "--force").exit_code == 0


def test_pictures_that_were_written_are_none_to_predict(trained, pictures):
    for _ in range(2):
        assert invoke("predict", trained, pictures, "--out", pictures / "out").exit_code == 0
    assert len(names(pictures / "out")) == 3


def test_it_goes_on_after_a_broken_picture(trained, pictures, tmp_path):
    (pictures / "broken.png").write_bytes(b"\x89PNG\r\n")
    done = invoke("predict", trained, pictures, pictures / "missing.jpg", "--out", tmp_path / "out")
    assert isinstance(done.exception, DataError)
    assert str(done.exception) == "2 of 5 pictures could not be read; each is named above."
    assert "broken.png" in done.output and "missing.jpg" in done.output
    assert len(names(tmp_path / "out")) == 3


def test_a_folder_without_pictures(trained, tmp_path):
    (tmp_path / "empty").mkdir()
    done = invoke("predict", trained, tmp_path / "empty", "--out", tmp_path / "out")
    assert isinstance(done.exception, ConfigError) and "must hold pictures" in str(done.exception)


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".onnx", ".pt2"])
def test_a_deployed_network_predicts_the_same(trained, pictures, tmp_path, ending):
    file = tmp_path / f"net{ending}"
    assert invoke("deploy", trained, "--out", file).exit_code == 0
    for network, folder in ((trained, "one"), (file, "other")):
        done = invoke("predict", network, pictures / "below", "--out", tmp_path / folder, "--raw")
        assert done.exit_code == 0, done.output
    depths = [
        np.asarray(Image.open(tmp_path / folder / "leaf-depth.png")).astype(int)
        for folder in ("one", "other")
    ]
    assert depths[0].shape == (40, 60)
    # Padding of whole numbers is the mean colour up to half a step.
    assert np.abs(depths[0] - depths[1]).max() <= 20


def test_evaluate_as_json_and_by_image(trained, tmp_path):
    rows = tmp_path / "images.csv"
    words = ("evaluate", trained, "--per-image", rows, "--save-panels", 2, "--out", tmp_path / "panels")
    done = invoke(*words, "--format", "json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    written = json.loads((trained / "metrics.json").read_text())
    assert (found["split"], found["images"], found["size"]) == ("test", 4, "the labels' own size")
    assert found["delta_m_percent"] == pytest.approx(written["delta_m_percent"])
    of_depth = found["tasks"]["depth"]
    assert of_depth["value"] == pytest.approx(written["metrics"]["depth"])
    assert (of_depth["metric"], of_depth["unit"]) == ("rmse", "m")
    assert of_depth["no_image_prior"] > 0 and of_depth["gain_percent"] is not None
    with rows.open() as file:
        read = list(csv.DictReader(file))
    assert len(read) == 4 and list(read[0]) == ["id", "semseg", "depth"]
    # Images are equally large, so the squares of their errors have the square of the whole as mean.
    squares = [float(row["depth"]) ** 2 for row in read]
    assert np.mean(squares) ** 0.5 == pytest.approx(of_depth["value"], rel=0.05)
    assert {f"test-{row['id']}.png" for row in read[:2]} == names(tmp_path / "panels")
    again = invoke(*words)
    assert isinstance(again.exception, ConfigError) and "--force" in str(again.exception)


def test_evaluate_refuses_a_file_of_somebody_else_before_it_measures(trained, tmp_path, monkeypatch):
    panels = tmp_path / "panels"
    words = ("evaluate", trained, "--save-panels", 2, "--out", panels)
    assert invoke(*words).exit_code == 0
    theirs = min(panels.iterdir())
    theirs.write_bytes(b"mine")
    with monkeypatch.context() as patch:
        patch.setattr("dtme_search.search.evaluate_checkpoint", None)
        refused = invoke(*words)
    assert isinstance(refused.exception, ConfigError) and "--force" in str(refused.exception)
    assert theirs.read_bytes() == b"mine"
    assert invoke(*words, "--force").exit_code == 0
    assert theirs.read_bytes().startswith(b"\x89PNG")


def test_evaluate_shows_gains_where_they_are_known(trained):
    shown = invoke("evaluate", trained).output
    assert "gain" in shown and "no-image prior" in shown and "delta_m" in shown
