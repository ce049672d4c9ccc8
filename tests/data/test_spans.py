"""Labels that say nothing are told by the check, and refused before anything is trained."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from fake_dataset import FakeDataset

from dtme_search.config import DataConfig
from dtme_search.data import build_data, check_dataset, split_ids
from dtme_search.errors import DataError

CONFIG = DataConfig(name="fake", image_size=(12, 20), holdout_fraction=0.4)
CPU = torch.device("cpu")


class Silenced(FakeDataset):
    """Some labels of some images say nothing, or all the same."""

    def __init__(self, task, ids, value=None):
        super().__init__()
        self.silenced = task, set(ids), value
        self.fingerprint = f"{task} {sorted(ids)} {value}"

    def read(self, sample_id, tasks):
        sample = super().read(sample_id, tasks)
        task, ids, value = self.silenced
        if task in tasks and sample_id in ids:
            if value is None:
                sample.valid[task][:] = False
            else:
                sample.labels[task][:] = value
        return sample


SPLITS = split_ids(FakeDataset(), CONFIG, final=False)


@pytest.mark.parametrize("storage", ["device", "loader"])
@pytest.mark.parametrize("task", ["semseg", "depth", "normals", "edge", "albedo"])
@pytest.mark.parametrize("split", ["train", "holdout", "test"])
def test_a_split_with_nothing_to_measure_is_refused(storage, task, split):
    final = split == "test"
    dataset = Silenced(task, SPLITS.ids(split))
    config = CONFIG.model_copy(update={"storage": storage, "loader_workers": 0})
    read = ("train", "test") if final else ("train", "holdout")
    with pytest.raises(
        DataError, match=rf"^tasks\.{task}: at least one pixel of the \S+ images must count, got none"
    ):
        build_data(config, [task, "depth"], CPU, final=final, dataset=dataset, read=read)
    others = [name for name in dataset.tasks if name != task]
    build_data(config, others, CPU, final=final, dataset=dataset, read=read)


@pytest.mark.parametrize("storage", ["device", "loader"])
def test_one_image_that_says_something_is_enough(storage):
    dataset = Silenced("depth", SPLITS.holdout[1:])
    build_data(
        CONFIG.model_copy(update={"storage": storage, "loader_workers": 0}), ["depth"], CPU, dataset=dataset
    )


@pytest.mark.parametrize(("task", "value"), [("edge", 0), ("edge", 1), ("semseg", 2), ("depth", 3.5)])
def test_labels_that_all_say_the_same_are_warned_of(caplog, task, value):
    dataset = Silenced(task, SPLITS.holdout, value)
    with caplog.at_level(logging.WARNING):
        build_data(CONFIG, [task], CPU, dataset=dataset)
    assert f"tasks.{task}: every pixel of the hold-out images has the value {value:g}" in caplog.text


def test_the_check_says_both():
    for value, said in ((None, "no pixel counts"), (1, "every pixel has the value 1")):
        dataset = Silenced("edge", SPLITS.holdout, value)
        report = check_dataset(dataset, splits_of_run=SPLITS)
        assert any(f"edge: in the holdout images {said}" in note for note in report.notes())
    assert not any("edge" in note for note in check_dataset(FakeDataset(), splits_of_run=SPLITS).notes())


def test_spans_are_those_of_the_pixels_that_count():
    report = check_dataset(FakeDataset(), splits_of_run=SPLITS)
    edge = next(label for label in report.labels if label.spec.name == "edge")
    assert edge.spans == dict.fromkeys(("train", "holdout", "test"), (0.0, 1.0))
    assert np.isfinite([report.labels[1].spans["test"]]).all()
