"""Taskonomy: which files belong together, what their numbers mean, and what can be wrong."""

from __future__ import annotations

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from nyud_folder import save_png
from scipy import ndimage
from taskonomy_folder import (
    BITS8,
    BITS16,
    DOMAINS,
    SIZE,
    TEST,
    TRAIN,
    VIEWS,
    path_of,
    write_split,
    write_taskonomy,
)

from dtme_search.config import DataConfig, TaskonomyConfig
from dtme_search.data import check_dataset, split_ids
from dtme_search.data.taskonomy.dataset import TaskonomyDataset
from dtme_search.data.taskonomy.index import LAYOUTS, TINY, read_splits
from dtme_search.data.taskonomy.targets import DOMAINS as TARGETS
from dtme_search.errors import DataError

HERE = ("hanson", 0, 0)
OLD_NAMES = {row.folder: row.old_folder for row in TARGETS.values() if row.old_folder}


@pytest.fixture
def root(tmp_path):
    write_taskonomy(tmp_path / "data", buildings=("hanson", "ihlen"))
    write_split(tmp_path / "data" / "small.csv", ["hanson"], [], ["ihlen"])
    return tmp_path / "data"


def open_taskonomy(root, split="small.csv", require_complete=True, **fields):
    return TaskonomyDataset(root, TaskonomyConfig(split=split, **fields), require_complete=require_complete)


def expect(pattern):
    return pytest.raises(DataError, match=rf"^\S*{pattern}")


def put(root, domain, values):
    save_png(path_of(root, domain, *HERE), values)


def label_of(root, task, **fields):
    sample = open_taskonomy(root, mask_margin=0, **fields).read("hanson/0/0", [task])
    return sample.labels[task], sample.valid[task]


def filled(value, dtype=np.uint16, channels=()):
    return np.full((*SIZE, *channels), value, dtype=dtype)


# ---- targets, by hand


@pytest.mark.parametrize(
    ("task", "stored", "target"),
    [
        ("depth_euclidean", 0, 0.0),
        ("depth_euclidean", 511, math.log(512) / math.log(65536)),
        ("depth_zbuffer", 4095, 12 / 16),
        ("edge_texture", 0, -1.0),
        ("edge_texture", 2621.4, 0.0),
        ("edge_texture", 5243, 1.0),
        ("edge_texture", 65535, 1.0),
        ("keypoints2d", 0, -1.0),
        ("keypoints2d", 328, 1.0),
        ("keypoints2d", 164, 0.001),
        ("keypoints3d", 65535, 1.0),
        ("keypoints3d", 0, -1.0),
        # 0.00625 of the full range is 409.6; beyond it the ramp goes straight on.
        ("edge_occlusion", 0, -1.0),
        ("edge_occlusion", 4096, 19.0),
        ("segment_unsup2d", 255, 1.0),
        ("segment_unsup25d", 51, -0.6),
    ],
)
def test_targets_are_the_canonical_ones(root, task, stored, target):
    put(root, TARGETS[task].folder, filled(int(stored), np.uint8 if task in BITS8 else np.uint16))
    label, _ = label_of(root, task)
    assert label.dtype == np.float32
    np.testing.assert_allclose(label, target, atol=2e-3)


def test_colours_are_decoded_by_channel(root):
    put(root, "principal_curvature", filled([155, 99, 7], np.uint8, (3,)))
    label, _ = label_of(root, "principal_curvature")
    assert label.shape == (*SIZE, 2)
    np.testing.assert_allclose(label[0, 0], [(155 - 123.572) / 31.922, (99 - 120.1) / 21.658], rtol=1e-5)
    put(root, "reshading", filled(51, np.uint8, (3,)))
    np.testing.assert_allclose(label_of(root, "reshading")[0], -0.6, atol=1e-6)
    put(root, "normal", filled([255, 127, 0], np.uint8, (3,)))
    vector = np.array([1.0, -1 / 255, -1.0])
    np.testing.assert_allclose(label_of(root, "normals")[0][3, 4], vector / np.linalg.norm(vector), atol=1e-6)


def test_occlusion_edges_are_blurred_by_four_pixels(root):
    spot = filled(0)
    spot[12, 12] = 40960
    put(root, "edge_occlusion", spot)
    ramp = np.full(SIZE, -1.0)
    ramp[12, 12] = 199.0
    np.testing.assert_allclose(
        label_of(root, "edge_occlusion")[0], ndimage.gaussian_filter(ramp, 4), atol=1e-4
    )


def test_what_was_not_seen_does_not_count(root):
    depth = filled(1000)
    depth[5, 7], depth[0, 0], depth[9, 9] = 65535, 64500, 64499
    put(root, "depth_zbuffer", depth)
    sample = open_taskonomy(root, mask_margin=0).read("hanson/0/0", list(TARGETS))
    for task, row in TARGETS.items():
        unseen = np.argwhere(~sample.valid[task]).tolist()
        assert unseen == ([[0, 0], [5, 7]] if row.masked else [])
    assert {task for task, row in TARGETS.items() if not row.masked} == {
        *("edge_texture", "keypoints2d", "segment_unsup2d", "segment_unsup25d")
    }


def test_the_margin_around_holes_does_not_count_but_the_frame_is_no_hole(root):
    depth = filled(1000)
    depth[12, 2] = 65535
    put(root, "depth_zbuffer", depth)
    valid = open_taskonomy(root, mask_margin=4).read("hanson/0/0", ["reshading"]).valid["reshading"]
    expected = np.ones(SIZE, bool)
    expected[8:17, :7] = False
    np.testing.assert_array_equal(valid, expected)
    assert TaskonomyConfig().mask_margin == 4


# ---- which files belong together


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_found_and_read_alike(root, tmp_path, layout):
    write_taskonomy(tmp_path / "other", layout, ("hanson", "ihlen"))
    split = str(root / "small.csv")
    here, there = open_taskonomy(root), open_taskonomy(tmp_path / "other", split)
    assert here.ids("train") == there.ids("train") and here.ids("test") == there.ids("test")
    assert here.fingerprint == there.fingerprint
    left, right = (dataset.read("hanson/10/3", list(TARGETS)) for dataset in (here, there))
    for task in TARGETS:
        np.testing.assert_array_equal(left.labels[task], right.labels[task])


def test_older_names_of_folders_and_files_are_known(root, tmp_path):
    write_taskonomy(tmp_path / "old", buildings=("hanson", "ihlen"), old_names=OLD_NAMES)
    old = open_taskonomy(tmp_path / "old", str(root / "small.csv"))
    assert list(old.tasks) == list(TARGETS)
    left, right = (each.read("ihlen/0/1", list(TARGETS)) for each in (open_taskonomy(root), old))
    for task in TARGETS:
        np.testing.assert_array_equal(left.labels[task], right.labels[task])


def test_files_may_spell_the_domain_otherwise_than_their_folder(root):
    for building, (point, view) in itertools.product(("hanson", "ihlen"), VIEWS):
        path = path_of(root, "keypoints2d", building, point, view)
        path.rename(path_of(root, "keypoints2d", building, point, view, spelt="keypoint2d"))
    (root / "keypoints2d" / "taskonomy" / "hanson" / "notes.txt").write_text("no view")
    assert len(open_taskonomy(root).ids("train")) == len(VIEWS)
    open_taskonomy(root).read("hanson/2/0", ["keypoints2d"])


def test_ids_follow_the_numbers_not_the_names(root):
    assert open_taskonomy(root).ids("train") == ("hanson/0/0", "hanson/0/1", "hanson/2/0", "hanson/10/3")


def test_a_missing_file_shifts_no_label(root):
    whole = open_taskonomy(root).read("hanson/2/0", ["edge_texture"]).labels["edge_texture"]
    path_of(root, "edge_texture", *HERE).unlink()
    dataset = open_taskonomy(root, incomplete="skip")
    assert "hanson/0/0" not in dataset.ids("train") and len(dataset.ids("train")) == len(VIEWS) - 1
    np.testing.assert_array_equal(dataset.read("hanson/2/0", ["edge_texture"]).labels["edge_texture"], whole)


def test_domains_that_are_not_there_are_no_tasks(tmp_path):
    domains = ("rgb", "edge_texture", "segment_unsup2d")
    write_taskonomy(tmp_path, domains=domains, buildings=("hanson", "ihlen"))
    write_split(tmp_path / "small.csv", ["hanson"], [], ["ihlen"])
    dataset = open_taskonomy(tmp_path)
    assert list(dataset.tasks) == ["edge_texture", "segment_unsup2d"]
    assert dataset.read("ihlen/0/0", tuple(dataset.tasks)).valid["edge_texture"].all()


def test_masked_domains_need_the_depth_that_masks_them(tmp_path):
    write_taskonomy(tmp_path, domains=("rgb", "reshading"), buildings=("hanson",))
    write_split(tmp_path / "small.csv", ["hanson"])
    with expect(r": reshading need the folder depth_zbuffer"):
        open_taskonomy(tmp_path)


# ---- splits


def test_the_tiny_split_is_built_in():
    assert [len(TINY[name]) for name in ("train", "val", "test")] == [25, 5, 5]
    assert len({name for names in TINY.values() for name in names}) == 35


def test_training_has_the_validation_buildings_and_the_hold_out_is_a_building(tmp_path):
    write_taskonomy(tmp_path)
    dataset = open_taskonomy(tmp_path, "tiny", incomplete="skip")
    assert set(dataset.groups(dataset.ids("train"))) == set(TRAIN)
    assert set(dataset.groups(dataset.ids("test"))) == set(TEST)
    splits = split_ids(dataset, DataConfig(name="taskonomy", holdout_fraction=0.3), final=False)
    assert len(set(dataset.groups(splits.holdout))) == 1
    assert not set(dataset.groups(splits.holdout)) & set(dataset.groups(splits.train))


@pytest.mark.parametrize("line_end", ["\r", "\n", "\r\n"])
def test_split_files_may_end_their_lines_as_they_like(tmp_path, line_end):
    write_split(tmp_path / "own.csv", ["a", "b"], ["c"], ["d"], line_end)
    assert read_splits("own.csv", tmp_path) == {"train": ("a", "b", "c"), "test": ("d",)}
    assert read_splits(str(tmp_path / "own.csv"), tmp_path) == read_splits("own.csv", tmp_path)


def test_a_building_of_no_split_is_left_out(tmp_path):
    (tmp_path / "own.csv").write_bytes(b"id,train,val,test\ra,1,0,0\rb,0,0,0\rc,0,0,1\r")
    assert read_splits("own.csv", tmp_path) == {"train": ("a",), "test": ("c",)}


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", r"the first line must be id,train,val,test, got nothing"),
        ("name,train\rx,1", r"the first line must be id,train,val,test, got name,train\. Correct"),
        ("id,train,val,test\ra,1,0", r"three flags, at most one of them 1, got 'a,1,0'\."),
        ("id,train,val,test\ra,yes,0,0", r"three flags.*got 'a,yes,0,0'"),
        ("id,train,val,test\ra,1,0,1", r"at most one of them 1, got 'a,1,0,1'"),
        ("id,train,val,test\ra,1,0,0\ra,0,0,1", r"must be listed once, got 'a' twice"),
        ("id,train,val,test\ra,0,0,1", r"at least one building must be for training, got none"),
    ],
)
def test_a_split_file_of_another_form_is_named(root, text, rule):
    (root / "small.csv").write_text(text, newline="")
    with expect(rf"small\.csv: .*{rule}"):
        open_taskonomy(root)


def test_a_split_file_that_is_not_there_is_named(root):
    with expect(r"medium\.csv: the split file cannot be read .*Set data\.taskonomy\.split"):
        open_taskonomy(root, "medium.csv")


def test_a_choice_of_test_views_is_fixed_and_grows(root):
    everything = open_taskonomy(root).ids("test")
    two, three = (open_taskonomy(root, test_images=number).ids("test") for number in (2, 3))
    assert len(two) == 2 and set(two) < set(three) < set(everything)
    assert open_taskonomy(root, test_images=100).ids("test") == everything


# ---- what can be wrong


def test_buildings_that_are_not_there_are_named_or_left_out(root, caplog):
    write_split(root / "small.csv", ["hanson", "merom"], ["darden"], ["ihlen"])
    for options in ({}, {"require_complete": False}):
        with expect(
            r"data: every building of the split must exist, .*, got no building merom, darden\. "
            r"Complete the data, set data\.taskonomy\.incomplete: skip to leave these out, or data\.missing: "
        ):
            open_taskonomy(root, **options)
    assert len(open_taskonomy(root, incomplete="skip").ids("train")) == len(VIEWS)
    assert "left out what is incomplete: no building merom, darden" in caplog.text


def test_missing_files_are_counted_and_the_check_names_each(root):
    for point, view in VIEWS[:2]:
        path_of(root, "edge_texture", "hanson", point, view).unlink()
    path_of(root, "rgb", "ihlen", 2, 0).unlink()
    with expect(
        r"data: every .*, got 2 of 4 edge_texture files of hanson missing; "
        r"1 of 4 rgb files of ihlen missing\."
    ):
        open_taskonomy(root)
    problems = check_dataset(open_taskonomy(root, require_complete=False)).problems
    assert [(problem.split, problem.sample_id) for problem in problems] == [
        *(("train", "hanson/0/0"), ("train", "hanson/0/1"), ("test", "ihlen/2/0"))
    ]
    assert (
        problems[2].message
        == f"{path_of(root, 'rgb', 'ihlen', 2, 0)}: the file is missing. Complete the data set."
    )


def test_nothing_to_train_on_is_an_error(root):
    for point, view in VIEWS:
        path_of(root, "rgb", "hanson", point, view).unlink()
    with expect(r"data: at least one training view must be complete, got none\."):
        open_taskonomy(root, incomplete="skip")


def test_a_folder_of_something_else_is_named(tmp_path):
    with expect(r": data set taskonomy must hold rgb files as DOMAIN/taskonomy/BUILDING.*got none of hanson"):
        open_taskonomy(tmp_path, "tiny")


@pytest.mark.parametrize(
    ("domain", "values", "rule"),
    [
        *((domain, filled(9, np.uint8), r"must be a 16-bit grey png, got mode L") for domain in BITS16),
        *((domain, filled(9), r"must be an 8-bit grey png, got mode I;16") for domain in BITS8),
        ("normal", filled(9), r"normals must be an RGB png, got mode I;16"),
        ("reshading", filled(9, np.uint8), r"reshading must be an RGB png, got mode L"),
    ],
)
def test_a_file_of_another_depth_is_named(root, domain, values, rule):
    put(root, domain, values)
    task = next(task for task, row in TARGETS.items() if row.folder == domain)
    with expect(rf"{domain}/taskonomy/hanson/point_0_view_0_domain_{domain}\.png: .*{rule}"):
        open_taskonomy(root).read("hanson/0/0", [task])


# ---- size


def test_what_is_held_is_the_numbers_of_the_views(root, monkeypatch):
    """6,000 views of twelve domains: their paths alone would take 7 megabytes, at any time or for good."""
    names = {
        domain: [f"point_{n // 40}_view_{n % 40}_domain_{domain}.png" for n in range(3000)]
        for domain in DOMAINS
    }
    monkeypatch.setattr("os.listdir", lambda folder: names[str(folder).split("/")[-3]])
    tracemalloc.start()
    dataset = open_taskonomy(root)
    held, peak = tracemalloc.get_traced_memory()
    ids = dataset.ids("train")
    with_ids = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(ids) == 3000 and ids[41] == "hanson/1/1"
    # 8 bytes per view; while a building is looked at, the numbers of all its domains and one folder's names.
    assert held < 6000 * 8 + 100_000
    assert peak - held < 1_500_000
    # Ids of both splits are made when they are asked for.
    assert with_ids - held < 6000 * 120
