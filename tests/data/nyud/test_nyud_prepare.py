"""The official MATLAB file becomes the published folder, or one line says why not."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
from mat_file import FRAME, NAMES, frame, write_mat
from scipy.io import savemat

from dtme_search.config import DataConfig, NyudConfig
from dtme_search.data import split_ids
from dtme_search.data.nyud.dataset import NyudDataset
from dtme_search.data.prepare import PREPARERS, prepare
from dtme_search.errors import ConfigError, DataError

CROP = np.s_[45:470, 40:600]


def run(source, out, jobs=1):
    steps = []
    report = prepare(
        "nyud", source, out, jobs=jobs, on_progress=lambda done, total: steps.append((done, total))
    )
    return report, steps


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    source = write_mat(folder / "official")
    report, steps = run(source, folder / "NYUDv2")
    return folder / "NYUDv2", report, steps


@pytest.fixture
def dataset(prepared, tmp_path):
    return NyudDataset(prepared[0], NyudConfig(), tmp_path)


def test_every_image_is_written_once_and_told(prepared):
    _, report, steps = prepared
    assert report.num_samples == 3
    assert steps[0] == (0, 3)
    assert steps[-1] == (3, 3)


def test_the_split_and_the_scenes_are_the_official_ones(dataset):
    assert dataset.ids("train") == ("0001", "0003")
    assert dataset.ids("test") == ("0002",)
    assert dataset.groups(["0001", "0002", "0003"]) == ["kitchen_0000", "kitchen_0000", "kitchen_0001"]
    kitchen = dataset.tasks["scene"].class_names.index("kitchen")
    assert dataset.read("0003", ("scene",)).labels["scene"].item() == kitchen


def test_images_and_labels_are_the_crop_the_right_way_round(dataset):
    sample = dataset.read("0002", ("semseg", "depth"))
    original = frame(2)
    np.testing.assert_array_equal(sample.image, original["images"][CROP])
    np.testing.assert_array_equal(sample.labels["depth"], original["depths"][CROP])
    names = [("unlabelled", *NAMES)[label] for label in original["labels"][CROP].ravel()]
    expected = [{"hooks": "otherprop"}.get(name, name) for name in names]
    spec = dataset.tasks["semseg"]
    found = np.where(sample.valid["semseg"], sample.labels["semseg"].astype(int), -1).ravel()
    assert [spec.class_names[index] if index >= 0 else "unlabelled" for index in found] == expected


def test_normals_of_a_wall_face_the_camera_and_say_that_they_are_derived(dataset):
    sample = dataset.read("0001", ("normals",))
    # Coded in 8 bits, 0 becomes 0.004.
    assert sample.valid["normals"].all()
    assert np.abs(sample.labels["normals"] - (0, 0, -1)).max() < 0.006
    assert dataset.tasks["normals"].derived_from == "depth"


def test_edges_part_instances_too_and_leave_unlabelled_areas_out(dataset):
    sample = dataset.read("0001", ("edge",))
    edge, valid = sample.labels["edge"], sample.valid["edge"]
    row = np.flatnonzero(edge[250 - 45])
    # Left side of the first chair, the line between the two, right side of the second; floor further down.
    np.testing.assert_allclose(row + 40, [99, 149, 199], atol=1)
    assert edge[:, 300].nonzero()[0] == pytest.approx([399 - 45], abs=1)
    assert not valid[120 - 45 : 160 - 45, 420 - 40 : 480 - 40].any()
    assert dataset.tasks["edge"].derived_from == "regions of label and instance"


def test_a_scene_is_never_split(dataset):
    splits = split_ids(dataset, DataConfig(name="nyud", holdout_fraction=0.5), final=False)
    assert {splits.train, splits.holdout} == {("0001",), ("0003",)}


def test_an_interrupted_call_goes_on_and_a_finished_one_does_nothing(tmp_path):
    source, out = write_mat(tmp_path / "official", 2), tmp_path / "out"

    class Killed(Exception):
        pass

    def stop_at_once(done, total):
        raise Killed

    with pytest.raises(Killed):
        prepare("nyud", source, out, jobs=1, on_progress=stop_at_once)
    # Without its lists nobody takes it for a data set.
    with pytest.raises(DataError, match=r"got no gt_sets/train\.txt"):
        NyudDataset(out, NyudConfig(), tmp_path)
    assert run(source, out)[0].num_samples == 2
    kept = (out / "images" / "0001.png").stat().st_mtime_ns
    (out / "edge" / "0002.png").unlink()
    (out / "edge" / ".0002.png.partial").write_bytes(b"half")
    report, steps = run(source, out)
    assert report.num_samples == 1
    assert steps == [(1, 2), (2, 2)]
    assert (out / "images" / "0001.png").stat().st_mtime_ns == kept
    assert not list((out / "edge").glob(".*"))
    assert run(source, out)[0].num_samples == 0


def test_without_the_mapping_the_named_classes_remain(tmp_path):
    source = write_mat(tmp_path / "official", 2, mapping=False)
    run(source, tmp_path / "out")
    with pytest.raises(DataError, match=r"names 37 classes, so data\.nyud\.num_classes must be 37, got 40"):
        NyudDataset(tmp_path / "out", NyudConfig(), tmp_path)
    dataset = NyudDataset(tmp_path / "out", NyudConfig(num_classes=37), tmp_path)
    assert dataset.tasks["semseg"].class_names[-1] == "bag"
    hooks = np.s_[110 - 45, 70 - 40]
    assert not dataset.read("0001", ("semseg",)).valid["semseg"][hooks]


@pytest.mark.slow
def test_several_processes_write_the_same_files(tmp_path):
    source = write_mat(tmp_path / "official", 17)
    for jobs in (1, 2):
        run(source, tmp_path / f"jobs{jobs}", jobs)
    one, two = (
        {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
        for folder in (tmp_path / "jobs1", tmp_path / "jobs2")
    )
    assert one == two
    assert len(one) == 17 * 5 + 5 + 1


def reshaped(name, shape, dtype):
    return {name: np.ones(shape, dtype=dtype)}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"depths": None}, r"variable 'depths' must exist, got .*images.*\. Give nyu_depth_v2_labeled"),
        # As a reader sees the file that forgets the reversed axes.
        (
            reshaped("images", (3, 480, 640, 3), np.uint8),
            r"'images' must have the shape \(3, 3, 640, 480\), axes",
        ),
        (reshaped("labels", (2, 640, 480), np.uint16), r"'labels' must have the shape \(3, 640, 480\)"),
        (
            reshaped("depths", (3, 640, 480), np.float32) | {"depths": np.full((3, 640, 480), 2000.0)},
            "must be metres",
        ),
        ({"depths": np.full((3, 640, 480), np.nan)}, "must be metres, above 0 and up to 100, got up to nan"),
        ({"labels": np.full((3, 640, 480), 77, np.uint16)}, r"labels of image 1 must be 0 to 40, got 77"),
        ({"names": np.ones((1, 4))}, "variable 'names' must be a cell array of texts, got float64"),
    ],
)
def test_a_file_of_other_content_is_refused_in_one_line(tmp_path, changed, message):
    source = write_mat(tmp_path / "official", **changed)
    with pytest.raises(DataError, match=message) as refused:
        run(source, tmp_path / "out")
    assert "\n" not in str(refused.value)


def no_hdf5(folder):
    (folder / "nyu_depth_v2_labeled.mat").write_bytes(b"MATLAB 5.0 MAT-file" * 20)


def half(folder):
    path = folder / "nyu_depth_v2_labeled.mat"
    path.write_bytes(path.read_bytes()[:-5000])


def no_split(folder):
    (folder / "splits.mat").unlink()


def broken_split(folder):
    (folder / "splits.mat").write_bytes(b"x" * 300)


def overlapping_split(folder):
    savemat(folder / "splits.mat", {"trainNdxs": [[1], [2]], "testNdxs": [[2], [3]]})


def foreign_split(folder):
    savemat(folder / "splits.mat", {"trainNdxs": [[1], [2]], "testNdxs": [[1449]]})


def nameless_split(folder):
    savemat(folder / "splits.mat", {"train": [[1], [2]]})


def short_mapping(folder):
    savemat(folder / "classMapping40.mat", {"mapClass": [[1, 2, 40]]})


def other_mapping(folder):
    savemat(folder / "classMapping40.mat", {"mapClass": np.ones((1, 894))})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_hdf5, "cannot be read as MATLAB v7.3"),
        (half, "cannot be read as MATLAB v7.3.*Download the file again"),
        (no_split, r"splits\.mat: the file must be next to the source; it holds the official split\. Get it"),
        (broken_split, r"splits\.mat: the file cannot be read"),
        (overlapping_split, r"list each image 1 to 3 at most once, got 4 numbers, 3 different"),
        (foreign_split, r"list each image 1 to 3 at most once, .* 1 to 1449"),
        (nameless_split, r"must hold whole numbers named 'trainNdxs', got none"),
        (short_mapping, r"must give each of 40 labels one of the classes 1 to 40, got 3 values"),
        (other_mapping, r"got 894 values from 1 to 1"),
    ],
)
def test_a_broken_or_missing_file_is_named_in_one_line(tmp_path, damage, message):
    source = write_mat(tmp_path / "official")
    damage(source.parent)
    with pytest.raises(DataError, match=message) as refused:
        run(source, tmp_path / "out")
    assert "\n" not in str(refused.value)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    source, out = write_mat(tmp_path / "official"), tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("mine")
    with pytest.raises(DataError, match="must be empty or from an earlier call"):
        run(source, out)
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "prepared.json").write_text('{"source": "another.mat"}')
    with pytest.raises(DataError, match="was prepared from another file"):
        run(source, other)


def test_a_missing_package_is_told_with_its_extra(tmp_path, monkeypatch):
    source = write_mat(tmp_path / "official")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(
        DataError, match=r"h5py must be installed, got none\. Run: pip install 'dtme-search\[data\]'"
    ):
        run(source, tmp_path / "out")


def test_what_cannot_be_prepared_is_told(tmp_path):
    source = write_mat(tmp_path / "official", 1)
    nothing = itertools.count
    with pytest.raises(ConfigError, match=r"nothing to prepare is named 'nyu'\. Did you mean 'nyud'"):
        prepare("nyu", source, tmp_path / "out", jobs=1, on_progress=nothing)
    with pytest.raises(DataError, match="the source of data set nyud must exist"):
        prepare("nyud", tmp_path / "none.mat", tmp_path / "out", jobs=1, on_progress=nothing)
    with pytest.raises(DataError, match="must be a folder, got a file"):
        prepare("nyud", source, source, jobs=1, on_progress=nothing)
    with pytest.raises(DataError, match="must be another folder than the source"):
        prepare("nyud", tmp_path, tmp_path, jobs=1, on_progress=nothing)
    with pytest.raises(ValueError, match="jobs must be at least 1"):
        prepare("nyud", source, tmp_path / "out", jobs=0, on_progress=nothing)
    assert "nyud" in PREPARERS


def test_the_frame_is_that_of_the_camera():
    assert frame(1)["images"].shape == (*FRAME, 3)
