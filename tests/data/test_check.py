"""`check_dataset` names every broken file and counts the rest; `verify_readable` stops a study early."""

from __future__ import annotations

import math

import numpy as np
import pytest
from fake_dataset import TASKS, FakeDataset
from nyud_folder import SIZE, TEST, TRAIN, save_png, truncate, write_nyud
from PIL import Image

from dtme_search.config import NyudConfig
from dtme_search.data.check import check_dataset, verify_readable
from dtme_search.data.nyud.dataset import NyudDataset
from dtme_search.errors import DataError


@pytest.fixture
def root(tmp_path):
    return write_nyud(tmp_path / "published")


def check(root, tmp_path, **options):
    return check_dataset(NyudDataset(root, NyudConfig(), tmp_path / "cache", **options))


def stored(root, folder, ids=TRAIN + TEST):
    return np.stack([np.asarray(Image.open(root / folder / f"{i}.png")) for i in ids]).astype(np.float64)


def test_a_whole_folder_is_counted_and_measured(root, tmp_path):
    report = check(root, tmp_path)
    assert report.ok and report.problems == ()
    assert report.num_listed == report.num_whole == {"train": 3, "test": 2}
    assert report.sizes == {SIZE: 5}
    semseg, depth, normals, edge = report.labels

    metres = stored(root, "depth") / 1000
    assert (depth.num_pixels, depth.num_valid, depth.num_empty) == (metres.size, metres.size, 0)
    assert depth.minimum == pytest.approx((metres.min(),))
    assert depth.maximum == pytest.approx((metres.max(),))
    assert depth.mean == pytest.approx((metres.mean(),))

    ids = stored(root, "segmentation").astype(int)
    assert semseg.num_valid == (ids > 0).sum()
    assert semseg.class_pixels == tuple(np.bincount(ids[ids > 0] - 1, minlength=40))

    vectors = 2 * stored(root, "normals") / 255 - 1
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    assert normals.mean == pytest.approx(vectors.reshape(-1, 3).mean(0), abs=1e-6)
    assert edge.mean == pytest.approx((stored(root, "edge").mean() / 255,))


def test_the_report_comes_as_rows(root, tmp_path):
    tables = check(root, tmp_path).tables()
    assert tables["splits"] == [
        {"split": "train", "listed": 3, "whole": 3},
        {"split": "test", "listed": 2, "whole": 2},
    ]
    assert tables["sizes"] == [{"height": 24, "width": 32, "images": 5}]
    assert [row["task"] for row in tables["values"]] == [
        *("semseg", "depth", "normals.x", "normals.y", "normals.z", "edge")
    ]
    assert len(tables["classes"]) == 40 and tables["classes"][0]["class"] == "wall"
    assert sum(row["percent"] for row in tables["classes"]) == pytest.approx(100)
    assert tables["problems"] == []


def test_every_broken_file_is_named_and_the_rest_is_still_read(root, tmp_path):
    truncate(root / "images" / "0003.png")
    truncate(root / "edge" / "0003.png")
    (root / "segmentation" / "0009.png").unlink()
    save_png(root / "depth" / "0002.png", np.zeros((5, 5), dtype=np.uint16))
    report = check(root, tmp_path, require_complete=False)
    assert not report.ok
    assert [(problem.split, problem.sample_id) for problem in report.problems] == [
        *(("train", "0003"), ("train", "0003"), ("train", "0009"), ("test", "0002"))
    ]
    for problem, name in zip(
        report.problems,
        ("images/0003.png", "edge/0003.png", "segmentation/0009.png", "depth/0002.png"),
        strict=True,
    ):
        assert problem.message.startswith(str(root / name))
        assert "\n" not in problem.message
    assert "missing" in report.problems[2].message and "24x32, got 5x5" in report.problems[3].message
    assert report.num_listed == {"train": 3, "test": 2}
    assert report.num_whole == {"train": 1, "test": 1}
    depth = stored(root, "depth", ("0004", "0001")) / 1000
    assert report.labels[1].mean == pytest.approx((depth.mean(),))
    assert report.lines()[-1] == "4 files are missing or broken"


def test_a_broken_source_counts_once_though_two_labels_need_it(tmp_path):
    root = write_nyud(tmp_path / "bare", published=())
    truncate(root / "depth" / "0004.png")
    assert len(check(root, tmp_path).problems) == 1


def test_nothing_readable_and_nothing_valid_still_give_a_report(root, tmp_path):
    for sample_id in TRAIN + TEST:
        save_png(root / "segmentation" / f"{sample_id}.png", np.zeros(SIZE, dtype=np.uint8))
    report = check(root, tmp_path)
    assert report.ok
    assert (report.labels[0].num_valid, report.labels[0].num_empty) == (0, 5)
    assert math.isnan(report.labels[0].minimum[0]) and sum(report.labels[0].class_pixels) == 0
    for sample_id in TRAIN + TEST:
        truncate(root / "images" / f"{sample_id}.png")
    report = check(root, tmp_path)
    assert len(report.problems) == 5 and report.sizes == {}
    assert all(math.isnan(value) for label in report.labels for value in label.mean)
    assert report.lines()[-1] == "5 files are missing or broken"


def test_any_data_set_can_be_checked():
    dataset = FakeDataset(num_train=7, num_test=3, broken=("a002", "t001"))
    seen = []
    report = check_dataset(dataset, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 10) for done in range(1, 11)]
    assert [problem.sample_id for problem in report.problems] == ["a002", "t001"]
    assert [label.spec for label in report.labels] == list(TASKS.values())
    assert len(report.labels[-1].mean) == 2
    assert report.num_whole == {"train": 6, "test": 2}


def test_readable_samples_pass_and_only_they_are_read():
    dataset = FakeDataset(broken=("a009", "t000"))
    verify_readable(dataset, ["a001", "a002"], tasks=("depth",))
    assert sorted(dataset.reads) == ["a001", "a002"]


def test_the_first_broken_sample_is_named_with_the_count():
    dataset = FakeDataset(broken=("a006", "a003", "a008"))
    with pytest.raises(
        DataError,
        match=r"^images/a003\.png: cannot be read\. Download it again\. 2 more files are missing or broken; "
        r"'dtme-search data check' lists them all\.$",
    ):
        verify_readable(dataset, dataset.ids("train"))


def test_labels_of_other_tasks_do_not_stop_a_study(root, tmp_path):
    truncate(root / "edge" / "0009.png")
    dataset = NyudDataset(root, NyudConfig(), tmp_path / "cache")
    verify_readable(dataset, TRAIN, tasks=("semseg", "depth"))
    with pytest.raises(
        DataError, match=r"^\S*edge/0009\.png: the file cannot be read .*'dtme-search data check'"
    ):
        verify_readable(dataset, TRAIN)


def test_derived_labels_are_in_the_cache_afterwards(tmp_path, monkeypatch):
    root = write_nyud(tmp_path / "bare", published=())
    dataset = NyudDataset(root, NyudConfig(), tmp_path / "cache")
    verify_readable(dataset, TRAIN)
    monkeypatch.setattr("dtme_search.data.nyud.dataset.normals_from_depth", None)
    dataset.read(TRAIN[-1], ("normals",))
