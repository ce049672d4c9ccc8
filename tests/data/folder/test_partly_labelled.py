"""Images without the files of some tasks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from own_folder import DESCRIPTION, ids, write_own

from dtme_search.config import DataConfig, load_description
from dtme_search.data import build_data, check_dataset, split_ids
from dtme_search.data.folder.dataset import FolderDataset
from dtme_search.errors import DataError

NUM = 16
KEPT = {"outline": 5, "ripeness": 9}
"""Only these many images, every third first, have the label."""


def open_own(file):
    return FolderDataset(load_description(file), file.parent / "orchard")


def holders(task):
    order = sorted(ids(NUM), key=lambda each: (ids(NUM).index(each) % 3, each))
    return set(order[: KEPT[task]])


@pytest.fixture
def file(tmp_path):
    return partly(tmp_path, {"missing": "skip"})


def partly(tmp_path, where, **changes):
    tasks = {name: dict(task) for name, task in DESCRIPTION["tasks"].items()}
    for name in KEPT:
        tasks[name] |= where
    file = write_own(tmp_path, NUM, tasks=tasks, **changes)
    for name, folder in (("outline", "outline"), ("ripeness", "ripe")):
        for sample_id in set(ids(NUM)) - holders(name):
            (tmp_path / "orchard" / folder / f"{sample_id}.png").unlink()
    return file


def test_an_image_without_a_file_has_no_valid_pixel(file):
    dataset = open_own(file)
    for sample_id in ids(NUM):
        sample = dataset.read(sample_id, list(dataset.tasks))
        for task in KEPT:
            assert sample.valid[task].shape == sample.image.shape[:2]
            assert sample.valid[task].any() == (sample_id in holders(task))
        assert sample.valid["plants"].all()


def test_files_may_be_missing_only_where_the_description_says_so(tmp_path):
    with pytest.raises(DataError, match=r"ripeness \(ripe.*7 of 16 missing.*missing: skip"):
        open_own(partly(tmp_path / "strict", {}))
    open_own(partly(tmp_path / "all", {}, missing="skip"))
    with pytest.raises(DataError, match="7 of 16 missing"):
        open_own(partly(tmp_path / "but", {"missing": "refuse"}, missing="skip"))


def test_a_task_without_any_file_is_a_wrong_pattern(tmp_path):
    file = partly(tmp_path, {"missing": "skip", "files": "elsewhere/{id}.png"})
    with pytest.raises(DataError, match="16 of 16 missing"):
        open_own(file)


def test_the_identity_is_that_of_the_files(tmp_path, file):
    whole = write_own(tmp_path / "whole", NUM)
    allowed = write_own(tmp_path / "allowed", NUM, missing="skip")
    assert open_own(whole).fingerprint == open_own(allowed).fingerprint
    assert open_own(file).fingerprint != open_own(whole).fingerprint
    assert open_own(whole).labelled(ids(NUM)) is None


def test_the_check_counts_labels_by_task_and_split(file):
    dataset = open_own(file)
    report = check_dataset(dataset)
    assert report.ok
    rows = {(row["task"], row["split"]): row for row in report.tables()["partly labelled"]}
    assert {task for task, _ in rows} == set(KEPT)
    for (task, split), row in rows.items():
        listed = dataset.ids(split)
        assert (row["images"], row["labelled"]) == (len(listed), len(holders(task) & set(listed)))


def test_both_sides_of_the_hold_out_have_labels(file):
    dataset = open_own(file)
    for seed in range(6):
        splits = split_ids(dataset, DataConfig(name="folder", holdout_seed=seed), final=False)
        for side in (splits.train, splits.holdout):
            assert all(there.any() for there in (dataset.labelled(side) or {}).values())
            assert holders("outline") & set(side)


def test_every_batch_has_a_label_of_every_task_alone_and_together(file):
    config = DataConfig(name="folder", image_size=(32, 48), holdout_fraction=0.25)
    data = build_data(config, ["plants", "outline", "ripeness"], torch.device("cpu"), dataset=open_own(file))
    alone = data.for_tasks(["outline"]).train_batches(3, seed=0)
    for _, batch, single in zip(range(8), data.train_batches(3, seed=0), alone, strict=False):
        assert all(batch.valid[task].any() for task in KEPT)
        assert torch.equal(batch.indices, single.indices)
        assert torch.equal(batch.valid["outline"], single.valid["outline"])
    train = np.array(data.splits.train)
    chosen = np.concatenate([batch.indices.numpy() for batch in data.analysis_batches(4, 2, seed=0)])
    two = [len({"plants"} | {task for task in KEPT if each in holders(task)}) > 1 for each in train[chosen]]
    assert all(two)
