"""The published NYUDv2 layout: exact values, derived labels and their cache, and what can be wrong."""

from __future__ import annotations

import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from nyud_folder import SIZE, TEST, TRAIN, save_npy, save_png, truncate, write_nyud
from PIL import Image, ImageFile

from dtme_search.config import DataConfig, NyudConfig
from dtme_search.data import build_data, build_dataset
from dtme_search.data.nyud import dataset as nyud
from dtme_search.data.nyud.dataset import NyudDataset
from dtme_search.data.nyud.names import CLASS_NAMES
from dtme_search.errors import DataError

REAL = Path(__file__).parents[4] / "shared" / "data" / "NYUDv2"
ALL = ("semseg", "depth", "normals", "edge")


def open_nyud(root, tmp_path, num_classes=40, **options):
    return NyudDataset(root, NyudConfig(num_classes=num_classes), tmp_path / "cache", **options)


@pytest.fixture
def root(tmp_path):
    return write_nyud(tmp_path / "published")


@pytest.fixture
def bare_root(tmp_path):
    """Without normals and edge."""
    return write_nyud(tmp_path / "bare", published=())


def replace(root, folder, values, sample_id="0003"):
    """Put an array in the place of a file, as png if it is unsigned, else as npy."""
    (root / folder / f"{sample_id}.png").unlink()
    if values.dtype.kind == "u":
        save_png(root / folder / f"{sample_id}.png", values)
    else:
        save_npy(root / folder / f"{sample_id}.npy", values)


def label_of(root, tmp_path, task, sample_id="0003"):
    sample = open_nyud(root, tmp_path).read(sample_id, [task])
    return sample.labels[task], sample.valid[task]


def slanted_plane(size, normal, distance):
    """Depth in metres of the plane that a camera with the frame's intrinsics sees, independently written."""
    scale = size[1] / 640
    v, u = np.mgrid[: size[0], : size[1]] + 0.5
    ray = np.stack([(u / scale - 325.582) / 518.858, (v / scale - 253.736) / 519.470, np.ones(size)], axis=-1)
    return -distance / (ray @ normal)


def degrees_between(a, b):
    return np.degrees(np.arccos(np.clip((a * b).sum(-1), -1, 1)))


# ---- values


def test_splits_follow_the_list_files(root, tmp_path):
    dataset = open_nyud(root, tmp_path)
    assert dataset.ids("train") == TRAIN
    assert dataset.ids("test") == TEST


def test_a_byte_order_mark_and_blank_lines_are_no_ids(root, tmp_path):
    (root / "gt_sets" / "val.txt").write_bytes(b"\xef\xbb\xbf0001\r\n\r\n0002\r\n")
    assert open_nyud(root, tmp_path).ids("test") == TEST


def test_published_pngs_are_decoded_exactly(root, tmp_path):
    sample = open_nyud(root, tmp_path).read("0004", ALL)

    def stored(folder):
        return np.asarray(Image.open(root / folder / "0004.png")).astype(np.float64)

    assert sample.image.dtype == np.uint8
    np.testing.assert_array_equal(sample.image, stored("images"))

    ids = stored("segmentation")
    assert sample.labels["semseg"].dtype == np.uint8
    np.testing.assert_array_equal(sample.valid["semseg"], ids > 0)
    np.testing.assert_array_equal(sample.labels["semseg"][ids > 0], ids[ids > 0] - 1)

    assert sample.labels["depth"].dtype == np.float32
    np.testing.assert_array_equal(sample.labels["depth"], np.float32(stored("depth") / 1000))

    vectors = 2 * stored("normals") / 255 - 1
    unit = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    assert sample.labels["normals"].dtype == np.float32
    np.testing.assert_allclose(sample.labels["normals"], unit, atol=1e-6)

    assert sample.labels["edge"].dtype == np.uint8
    np.testing.assert_array_equal(sample.labels["edge"], stored("edge") == 255)
    assert all(sample.valid[task].all() for task in ("depth", "normals", "edge"))


@pytest.mark.parametrize("shape", [SIZE, (*SIZE, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_npy_depth_is_metres_and_what_was_not_measured_does_not_count(root, tmp_path, shape, dtype):
    metres = np.full(SIZE, 2.5, dtype=dtype)
    metres[0, :4] = 0, -1, np.nan, np.inf
    replace(root, "depth", metres.reshape(shape))
    label, valid = label_of(root, tmp_path, "depth")
    assert label.shape == SIZE and label.dtype == np.float32
    assert not valid[0, :4].any() and valid.sum() == valid.size - 4
    assert (label[valid] == 2.5).all()
    assert np.isfinite(label).all()


def test_png_depth_of_zero_does_not_count(root, tmp_path):
    millimetres = np.full(SIZE, 1234, dtype=np.uint16)
    millimetres[3, 5] = 0
    replace(root, "depth", millimetres)
    label, valid = label_of(root, tmp_path, "depth")
    assert label[valid] == pytest.approx(1.234)
    assert np.argwhere(~valid).tolist() == [[3, 5]]


def test_normals_without_a_direction_do_not_count(root, tmp_path):
    encoded = np.full((*SIZE, 3), 255, dtype=np.uint8)
    encoded[2, 2] = 127
    encoded[2, 3] = 128
    replace(root, "normals", encoded)
    label, valid = label_of(root, tmp_path, "normals")
    assert np.argwhere(~valid).tolist() == [[2, 2], [2, 3]]
    assert label[valid] == pytest.approx(1 / np.sqrt(3))

    vectors = np.zeros((*SIZE, 3), dtype=np.float32)
    vectors[..., 1] = -2
    vectors[0, 0] = 0
    vectors[0, 1] = np.nan
    save_npy(root / "normals" / "0004.npy", vectors)
    (root / "normals" / "0004.png").unlink()
    label, valid = label_of(root, tmp_path, "normals", "0004")
    assert np.argwhere(~valid).tolist() == [[0, 0], [0, 1]]
    np.testing.assert_array_equal(label[5, 5], [0, -1, 0])


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.bool_])
@pytest.mark.parametrize("shape", [SIZE, (*SIZE, 1)])
def test_npy_edges(root, tmp_path, dtype, shape):
    edge = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) % 3 == 0
    replace(root, "edge", edge.astype(dtype).reshape(shape))
    label, valid = label_of(root, tmp_path, "edge")
    np.testing.assert_array_equal(label, edge)
    assert valid.all() and label.dtype == np.uint8


def test_an_edge_png_of_0_and_1_is_not_empty(root, tmp_path):
    edge = (np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) % 5 == 0).astype(np.uint8)
    replace(root, "edge", edge)
    np.testing.assert_array_equal(label_of(root, tmp_path, "edge")[0], edge)


def test_palette_pngs_give_ids_not_colours(root, tmp_path):
    ids = np.arange(SIZE[0] * SIZE[1], dtype=np.uint8).reshape(SIZE) % 41
    picture = Image.fromarray(ids).convert("P")
    picture.putpalette([7] * 768)
    picture.putdata(ids.ravel().tolist())
    picture.save(root / "segmentation" / "0003.png")
    label, valid = label_of(root, tmp_path, "semseg")
    np.testing.assert_array_equal(label[valid], ids[ids > 0] - 1)


@pytest.mark.parametrize("suffix", [".jpg", ".JPG", ".jpeg"])
def test_images_may_be_jpegs_and_grey(root, tmp_path, suffix):
    (root / "images" / "0003.png").unlink()
    Image.fromarray(np.full(SIZE, 90, dtype=np.uint8)).save(root / "images" / f"0003{suffix}", format="JPEG")
    image = open_nyud(root, tmp_path).read("0003", ()).image
    assert image.shape == (*SIZE, 3)
    assert (image == 90).all()


def test_only_the_tasks_asked_for_are_read(root, tmp_path):
    dataset = open_nyud(root, tmp_path)
    truncate(root / "depth" / "0003.png")
    sample = dataset.read("0003", ("edge", "semseg"))
    assert tuple(sample.labels) == tuple(sample.valid) == ("edge", "semseg")


def test_class_names_are_the_forty_in_order(root, tmp_path):
    assert len(set(CLASS_NAMES)) == 40
    assert (CLASS_NAMES[0], CLASS_NAMES[9], CLASS_NAMES[23]) == ("wall", "bookshelf", "refridgerator")
    assert open_nyud(root, tmp_path).tasks["semseg"].class_names == CLASS_NAMES
    spec = open_nyud(root, tmp_path, num_classes=39).tasks["semseg"]
    assert spec.channels == 39
    assert spec.class_names == CLASS_NAMES[:39] and "otherprop" not in spec.class_names


def test_the_scene_file_groups_what_it_lists(root, tmp_path):
    assert open_nyud(root, tmp_path).groups(["0003"]) is None
    (root / "gt_sets" / "scenes.txt").write_text("0003 kitchen_0001\n0004 kitchen_0001\n")
    dataset = open_nyud(root, tmp_path)
    assert dataset.groups(["0003", "0004", "0009"]) == ["kitchen_0001", "kitchen_0001", "0009"]


def test_the_scene_file_gives_each_image_the_type_of_its_scene(root, tmp_path):
    plain = open_nyud(root, tmp_path)
    assert "scene" not in plain.tasks and plain.labelled(plain.ids("train")) is None

    def with_scenes(*lines):
        (root / "gt_sets" / "scenes.txt").write_text("".join(f"{line}\n" for line in lines))
        return open_nyud(root, tmp_path)

    train, test = plain.ids("train"), plain.ids("test")
    names = ["home_office_0004", "study_0002b", *(f"bedroom_{n:04d}" for n in range(len(train) - 3))]
    listed = [f"{sample_id} {name}" for sample_id, name in zip(train, names, strict=False)]
    dataset = with_scenes(*listed, f"{test[0]} kitchen_0003")
    spec = dataset.tasks["scene"]
    assert (spec.of_image, spec.channels, spec.metric) == (True, 10, "accuracy")
    for sample_id, kind in ((train[0], "home_office"), (train[1], "others"), (test[0], "kitchen")):
        sample = dataset.read(sample_id, ("depth", "scene"))
        assert spec.class_names[sample.labels["scene"].item()] == kind
        assert sample.valid["scene"].all() and sample.valid["depth"].shape == sample.image.shape[:2]
    assert not dataset.read(train[-1], ("scene",)).valid["scene"].any()
    assert dataset.labelled(train)["scene"].tolist() == [True] * (len(train) - 1) + [False]
    presence = dataset.class_presence(train)
    assert presence[:, 40:].sum(1).tolist() == [1] * (len(train) - 1) + [0]
    changed = [listed[0].replace("home_office", "office"), *listed[1:]]
    assert with_scenes(*changed, f"{test[0]} kitchen_0003").fingerprint != dataset.fingerprint
    moved = with_scenes(*listed, f"{test[0]} office_0003")
    assert moved.fingerprint == dataset.fingerprint and moved.test_fingerprint != dataset.test_fingerprint


# ---- derived labels


def test_derived_tasks_say_so(root, bare_root, tmp_path):
    assert [spec.derived_from for spec in open_nyud(root, tmp_path).tasks.values()] == [None] * 4
    tasks = open_nyud(bare_root, tmp_path).tasks
    assert tasks["normals"].derived_from == "depth"
    assert tasks["edge"].derived_from == "segmentation labels"
    assert tasks["semseg"].derived_from is tasks["depth"].derived_from is None


def test_one_published_folder_is_enough_for_its_task(tmp_path):
    root = write_nyud(tmp_path / "half", published=("edge",))
    tasks = open_nyud(root, tmp_path).tasks
    assert tasks["edge"].derived_from is None and tasks["normals"].derived_from == "depth"


@pytest.mark.parametrize("normal", [(0.0, 0.0, -1.0), (0.6, 0.0, -0.8), (0.1, -0.9, -0.4)])
def test_a_frame_scaled_to_half_gives_the_normals_of_its_plane(tmp_path, normal):
    size = (240, 320)
    root = write_nyud(tmp_path / "frames", published=())
    replace(root, "images", np.zeros((*size, 3), dtype=np.uint8))
    direction = np.array(normal) / np.linalg.norm(normal)
    metres = slanted_plane(size, direction, 1.5)
    seen = (metres > 0.4) & (metres < 6)
    # Rounded to 16 mm as in the copy at hand.
    replace(root, "depth", np.where(seen, 16 * np.rint(metres / 0.016), 0).astype(np.uint16))
    label, valid = label_of(root, tmp_path, "normals")
    error = degrees_between(label, direction)[valid]
    assert error.mean() < 1 and np.quantile(error, 0.99) < 3
    inside = np.zeros(size, dtype=bool)
    inside[23:235, 20:300] = True
    assert not valid[~inside].any()
    assert valid[inside & seen].mean() > 0.97


def test_the_published_crop_has_its_own_centre(tmp_path):
    root = write_nyud(tmp_path / "crop", published=())
    replace(root, "images", np.zeros((425, 560, 3), dtype=np.uint8))
    normal = np.array([0.5, -0.5, -np.sqrt(0.5)])
    metres = slanted_plane((480, 640), normal, 2.0)[45:470, 40:600]
    replace(root, "depth", np.where((metres > 0) & (metres < 10), metres, 0).astype(np.float32))
    label, valid = label_of(root, tmp_path, "normals")
    assert degrees_between(label, normal)[valid].max() < 0.4
    assert valid[metres > 0].mean() > 0.9


def test_another_size_is_refused_for_derived_normals_only(tmp_path):
    root = write_nyud(tmp_path / "square", published=(), size=(40, 40))
    dataset = open_nyud(root, tmp_path)
    dataset.read("0003", ("semseg", "depth", "edge"))
    with pytest.raises(
        DataError, match=r"depth/0003\.png: depth must be a 4:3 frame or the 425x560 crop.*got 40x40"
    ):
        dataset.read("0003", ("normals",))


def test_derived_edges_follow_the_labels(tmp_path):
    root = write_nyud(tmp_path / "edges", published=())
    ids = np.full(SIZE, 7, dtype=np.uint8)
    ids[:, 16:] = 3
    ids[:, 15] = 0
    replace(root, "segmentation", ids)
    label, valid = label_of(root, tmp_path, "edge")
    assert valid.all()
    assert (label.sum(axis=1) == 1).all()
    assert label[:, 13:17].sum() == SIZE[0]


def files_below(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_the_data_folder_is_never_written_to(bare_root, tmp_path):
    before = files_below(bare_root)
    for folder in (bare_root, *(path for path in bare_root.iterdir())):
        folder.chmod(0o555)
    open_nyud(bare_root, tmp_path).read("0003", ALL)
    assert files_below(bare_root) == before
    assert any(path.name == "output.pkl" for path in (tmp_path / "cache").rglob("*"))


def test_the_cache_is_where_the_environment_says(bare_root, tmp_path, monkeypatch):
    monkeypatch.setenv("DTME_CACHE", str(tmp_path / "elsewhere"))
    NyudDataset(bare_root, NyudConfig()).read("0003", ["edge"])
    assert files_below(tmp_path / "elsewhere")
    monkeypatch.delenv("DTME_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    NyudDataset(bare_root, NyudConfig()).read("0003", ["edge"])
    assert files_below(tmp_path / "home" / ".cache" / "dtme-search")


def forbid_deriving(monkeypatch):
    def fail(*arguments):
        raise AssertionError("derived again")

    monkeypatch.setattr(nyud, "normals_from_depth", fail)
    monkeypatch.setattr(nyud, "edges_from_labels", fail)


def test_cached_labels_equal_fresh_ones_even_after_a_move(bare_root, tmp_path, monkeypatch):
    fresh = open_nyud(bare_root, tmp_path).read("0003", ALL)
    forbid_deriving(monkeypatch)
    cached = open_nyud(bare_root, tmp_path).read("0003", ALL)
    moved = open_nyud(shutil.copytree(bare_root, tmp_path / "moved"), tmp_path).read("0003", ALL)
    for sample in (cached, moved):
        for task in ALL:
            np.testing.assert_array_equal(sample.labels[task], fresh.labels[task])
            np.testing.assert_array_equal(sample.valid[task], fresh.valid[task])


def test_changed_depth_is_derived_again(bare_root, tmp_path):
    before = label_of(bare_root, tmp_path, "normals")
    replace(bare_root, "depth", np.full(SIZE, 2000, dtype=np.uint16))
    after = label_of(bare_root, tmp_path, "normals")
    assert not np.array_equal(before[0], after[0])


def test_published_labels_need_no_cache(root, tmp_path):
    open_nyud(root, tmp_path).read("0003", ALL)
    assert not (tmp_path / "cache").exists()


def test_a_copy_in_another_process_reads_the_same(bare_root, tmp_path):
    dataset = open_nyud(bare_root, tmp_path)
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.fingerprint == dataset.fingerprint
    one, other = dataset.read("0004", ALL), copy.read("0004", ALL)
    for task in ALL:
        np.testing.assert_array_equal(one.labels[task], other.labels[task])


# ---- identity


def test_the_fingerprint_follows_the_content_and_not_the_place(root, tmp_path):
    fingerprint = open_nyud(root, tmp_path).fingerprint
    assert open_nyud(shutil.copytree(root, tmp_path / "copy"), tmp_path).fingerprint == fingerprint
    assert open_nyud(root, tmp_path, num_classes=39).fingerprint != fingerprint

    # Same size, other bytes, as when depth in npy files is scaled.
    path = root / "depth" / "0003.png"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert open_nyud(root, tmp_path).fingerprint != fingerprint
    path.write_bytes(content)
    assert open_nyud(root, tmp_path).fingerprint == fingerprint


def test_derived_labels_are_another_data_set(root, tmp_path):
    bare = shutil.copytree(root, tmp_path / "copy", ignore=shutil.ignore_patterns("normals", "edge"))
    assert open_nyud(bare, tmp_path).fingerprint != open_nyud(root, tmp_path).fingerprint


# ---- what can be wrong


def expect(text):
    """A one-line DataError with these words."""
    return pytest.raises(DataError, match=re.compile(rf"^[^\n]*{text}[^\n]*$"))


def test_a_missing_root_says_how_to_give_one(tmp_path):
    with expect(
        r"nowhere: the folder of data set nyud must exist\. Pass --data-root DIR or set DTME_DATA_ROOT"
    ):
        open_nyud(tmp_path / "nowhere", tmp_path)


def test_a_folder_of_another_layout_names_what_is_missing(root, tmp_path):
    shutil.rmtree(root / "images")
    (root / "gt_sets" / "val.txt").unlink()
    with expect(r"must have gt_sets/train\.txt, .*, got no gt_sets/val\.txt, images\. "):
        open_nyud(root, tmp_path)


def test_the_folder_above_is_recognised(root, tmp_path):
    above = tmp_path / "above"
    above.mkdir()
    root.rename(above / "NYUDv2")
    with expect(r"Did you mean .*above/NYUDv2\?"):
        open_nyud(above, tmp_path)


def test_an_empty_or_repeating_list_is_named(root, tmp_path):
    (root / "gt_sets" / "val.txt").write_text("\n")
    with expect(r"val\.txt: the list of ids must not be empty"):
        open_nyud(root, tmp_path)
    (root / "gt_sets" / "val.txt").write_text("0001\n0002\n0001\n")
    with expect(r"val\.txt: ids must be listed once, got 1 repeated, '0001' first"):
        open_nyud(root, tmp_path)


def test_half_complete_data_is_counted_and_named(root, tmp_path):
    for sample_id in ("0003", "0004", "0009", "0001"):
        (root / "segmentation" / f"{sample_id}.png").unlink()
    (root / "normals" / "0002.png").unlink()
    with expect(
        r"got segmentation: 4 of 5 missing \(0003, 0004, 0009, \.\.\.\); normals: 1 of 5 missing \(0002\)\. "
        r".*or remove the folder normals to have it derived"
    ):
        open_nyud(root, tmp_path)


def test_a_file_that_vanished_is_named(root, bare_root, tmp_path):
    dataset, derived = open_nyud(root, tmp_path), open_nyud(bare_root, tmp_path)
    for folder in (root, bare_root):
        (folder / "depth" / "0003.png").unlink()
    for source, task in ((dataset, "depth"), (derived, "normals")):
        with expect(r"depth/0003\.png: the file is missing"):
            source.read("0003", [task])


@pytest.mark.parametrize(
    ("folder", "task"),
    [
        ("images", "depth"),
        ("segmentation", "semseg"),
        ("depth", "depth"),
        ("normals", "normals"),
        ("edge", "edge"),
    ],
)
@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_a_damaged_png_is_named(root, tmp_path, folder, task, damage):
    path = root / folder / "0003.png"
    content = path.read_bytes()
    path.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "text": b"hello"}[damage])
    with expect(rf"{folder}/0003\.png: the file cannot be read \(.+\)\. Replace it"):
        open_nyud(root, tmp_path).read("0003", [task])


def test_a_truncated_jpeg_is_named_and_never_completed_with_grey(root, tmp_path):
    (root / "images" / "0003.png").unlink()
    path = root / "images" / "0003.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE, 3)).astype(np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-20])
    with expect(r"images/0003\.jpg: the file cannot be read \(image file is truncated"):
        open_nyud(root, tmp_path).read("0003", ())
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"no array"])
def test_a_damaged_npy_is_named(root, tmp_path, content):
    (root / "depth" / "0003.png").unlink()
    (root / "depth" / "0003.npy").write_bytes(content)
    with expect(r"depth/0003\.npy: the file cannot be read \(not a whole npy array\)"):
        open_nyud(root, tmp_path).read("0003", ["depth"])


def test_a_pickle_is_not_unpickled(root, tmp_path):
    (root / "depth" / "0003.png").unlink()
    np.save(root / "depth" / "0003.npy", np.array([{}], dtype=object), allow_pickle=True)
    with expect(r"depth/0003\.npy: the file cannot be read"):
        open_nyud(root, tmp_path).read("0003", ["depth"])


def test_a_broken_source_of_a_derived_label_is_named(bare_root, tmp_path):
    truncate(bare_root / "depth" / "0003.png")
    with expect(r"depth/0003\.png: the file cannot be read"):
        open_nyud(bare_root, tmp_path).read("0003", ["normals"])


def test_ids_beyond_the_classes_are_named_with_advice(root, tmp_path):
    ids = np.full(SIZE, 12, dtype=np.uint8)
    ids[0, 0] = 40
    replace(root, "segmentation", ids)
    open_nyud(root, tmp_path).read("0003", ["semseg"])
    with expect(
        r"segmentation/0003\.png: segmentation ids must be 0 \(unlabelled\) to 39 .*, got 12 to 40\. "
        r"Set data\.nyud\.num_classes to 40\."
    ):
        open_nyud(root, tmp_path, num_classes=39).read("0003", ["semseg"])
    ids[0, 0] = 255
    replace(root, "segmentation", ids)
    with expect(r"got 12 to 255\. Replace it with a file that has the ids of the 40 classes"):
        open_nyud(root, tmp_path).read("0003", ["semseg"])


@pytest.mark.parametrize(
    ("folder", "task", "values", "rule"),
    [
        ("depth", "depth", np.zeros(SIZE, np.uint8), r"0003\.png: depth must be a 16-bit grey png.*mode L"),
        ("depth", "depth", np.full(SIZE, 2500), r"depth must be floating metres of shape \(H, W\).*int64"),
        ("depth", "depth", np.full(SIZE, 2500.0), r"depth must be in metres, got values up to 2500\. Divide"),
        ("depth", "depth", np.ones((*SIZE, 2)), r"depth must be floating metres.*\(24, 32, 2\)"),
        ("segmentation", "semseg", np.ones(SIZE), r"segmentation must be integer ids.*float64"),
        ("segmentation", "semseg", np.full(SIZE, -3), r"segmentation ids must be 0.*got -3 to"),
        ("segmentation", "semseg", np.zeros((*SIZE, 3), np.uint8), r"integer ids of shape \(H, W\)"),
        ("normals", "normals", np.zeros(SIZE, np.uint8), r"normals must be an RGB png, got mode L"),
        ("normals", "normals", np.zeros((3, *SIZE)), r"normals must be floats of shape \(H, W, 3\)"),
        ("edge", "edge", np.zeros((*SIZE, 3), np.uint8), r"edge must be numbers of shape \(H, W\)"),
        ("edge", "edge", np.zeros((12, 32), np.uint8), r"size of edge must be .* 24x32, got 12x32"),
        ("images", "depth", np.zeros((30, 40, 3), np.uint8), r"size of depth must be .* 30x40, got 24x32"),
    ],
)
def test_a_file_with_other_content_is_named(root, tmp_path, folder, task, values, rule):
    replace(root, folder, values)
    name = folder if folder != "images" else "depth"
    with expect(rf"{name}/0003.*{rule}" if not rule.startswith("0003") else rf"{name}/{rule}"):
        open_nyud(root, tmp_path).read("0003", [task])


def test_a_folder_that_cannot_be_the_cache_is_named(bare_root, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with expect(r"cache: the cache folder must be writable.*Set DTME_CACHE"):
        open_nyud(bare_root, tmp_path)


def test_an_unknown_task_is_a_programming_error(root, tmp_path):
    with pytest.raises(ValueError, match=r"got 'semsge'\. Did you mean 'semseg'"):
        open_nyud(root, tmp_path).read("0003", ["semsge"])


# ---- through the registry, and on the real copy


def test_the_registry_opens_it(root, monkeypatch):
    monkeypatch.setenv("DTME_DATA_ROOT", str(root))
    assert build_dataset(DataConfig(name="nyud")).ids("train") == TRAIN


@pytest.mark.skipif(not REAL.is_dir(), reason="no copy of NYUDv2 beside the repository")
def test_the_real_copy_works_as_it_is(tmp_path):
    dataset = open_nyud(REAL, tmp_path, num_classes=39)
    assert (len(dataset.ids("train")), len(dataset.ids("test"))) == (795, 100)
    for sample_id in (dataset.ids("train")[0], dataset.ids("train")[400], dataset.ids("test")[-1]):
        sample = dataset.read(sample_id, ALL)
        assert sample.image.shape == (240, 320, 3)
        assert sample.valid["depth"].all()
        assert 0.3 < sample.labels["depth"].mean() < 10
        normals, valid = sample.labels["normals"], sample.valid["normals"]
        np.testing.assert_allclose(np.linalg.norm(normals[valid], axis=-1), 1, atol=1e-3)
        assert 0.6 < valid.mean() < 0.78
        # Most of what a camera indoors sees faces it, and floors and tables face up (negative y).
        assert normals[valid][:, 2].mean() < -0.4
        assert np.quantile(normals[valid][:, 1], 0.1) < -0.5
        assert 0.01 < sample.labels["edge"].mean() < 0.08


def test_a_search_opens_no_file_of_the_test_split(root, tmp_path):
    for path in root.rglob("*"):
        if path.stem in TEST:
            # Listed and as long as ever, but not to be read.
            path.write_bytes(b"x" * path.stat().st_size)
    dataset = open_nyud(root, tmp_path)
    config = DataConfig(
        name="nyud", image_size=SIZE, holdout_fraction=0.3, nyud=NyudConfig(num_classes=40), storage="device"
    )
    data = build_data(config, tuple(dataset.tasks), torch.device("cpu"), dataset=dataset)
    assert data.fingerprint
    assert len(next(data.train_batches(2, 0)).images) == 2
    assert len(next(data.eval_batches("holdout", 4)).images) == 1
    assert data.target_means()
    with pytest.raises(DataError, match="cannot be read"):
        next(data.eval_batches("test", 4))


def test_class_presence_is_what_the_labels_show_and_is_kept(root, tmp_path):
    dataset = open_nyud(root, tmp_path)
    presence = dataset.class_presence(TRAIN)
    for row, sample_id in zip(presence, TRAIN, strict=True):
        stored = np.asarray(Image.open(root / "segmentation" / f"{sample_id}.png"))
        assert set(np.flatnonzero(row) + 1) == set(np.unique(stored)) - {0}
    for path in (root / "segmentation").iterdir():
        path.write_bytes(b"x" * path.stat().st_size)
    # The same data set, so nothing is read again.
    np.testing.assert_array_equal(dataset.class_presence(TRAIN), presence)
    with pytest.raises(DataError, match="cannot be read"):
        dataset.class_presence(TRAIN[:2])
