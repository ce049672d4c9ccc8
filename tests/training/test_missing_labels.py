"""A run on images of which some lack labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from own_folder import DESCRIPTION, ids, write_own
from runs import CPU, assert_same_run, trainer, with_
from tiny import TINY

from dtme_search.config import RunConfig, load_description
from dtme_search.data import build_data
from dtme_search.data.folder.dataset import FolderDataset
from dtme_search.tasks import semseg
from dtme_search.training import no_image_priors
from dtme_search.training.loss_log import LossLog
from dtme_search.training.losses import has_label

TASKS = ("plants", "distance", "outline")


@pytest.fixture(scope="module")
def config():
    return with_(
        RunConfig.model_validate(TINY),
        data__name="folder",
        data__holdout_fraction=0.25,
        tasks={task: {} for task in TASKS},
        expansion__policy="conflict",
        expansion__start=0.5,
    )


@pytest.fixture(scope="module")
def data(config, tmp_path_factory):
    """Outlines of every third image, distances of every second."""
    folder = tmp_path_factory.mktemp("partly")
    file = write_own(folder, 32, DESCRIPTION, missing="skip")
    for index, sample_id in enumerate(ids(32)):
        for name, every in (("outline", 3), ("depth", 2)):
            if index % every:
                (folder / "orchard" / name / f"{sample_id}.png").unlink()
    dataset = FolderDataset(load_description(file), folder / "orchard")
    return build_data(config.data, TASKS, CPU, dataset=dataset)


def test_it_trains_grows_and_gives_the_same_again(config, data):
    first = trainer(config, data)
    result = first.run()
    assert all(np.isfinite(each) for row in result.evaluations for each in row.metrics.values())
    report = first.state.report
    assert report is not None
    assert report.both is not None
    chosen = np.concatenate([b.indices.numpy() for b in data.analysis_batches(6, 3, config.seed)])
    numbers = [ids(32).index(data.splits.train[index]) for index in chosen]
    expected = [(n % 2 == 0, n % 3 == 0, n % 6 == 0) for n in numbers]
    assert report.both.tolist() == [list(row) for row in expected if any(row)]
    second = trainer(config, data)
    assert_same_run(first, result, second, second.run())


def test_priors_are_of_labelled_images_only(config, data):
    """The prior of a task is the same whatever other images stand beside its own."""
    alone = data.for_tasks(["distance"])
    labelled = [batch for batch in alone.average_batches(1) if batch.valid["distance"].any()]
    total = sum(batch.targets["distance"][0, 0].double() for batch in labelled)
    number = sum(batch.valid["distance"][0, 0].double() for batch in labelled)
    mean = total / number.clamp(min=1)
    errors = []
    for batch in alone.eval_batches("holdout", 1):
        valid = batch.valid["distance"][0, 0]
        errors.append((batch.targets["distance"][0, 0] - mean)[valid].abs())
    expected = float(torch.cat(errors).mean())
    assert no_image_priors(data, "holdout", 4)["distance"] == pytest.approx(expected, rel=1e-5)


def test_a_step_without_a_label_is_no_part_of_the_mean_loss():
    log = LossLog()
    for step, (a, b) in enumerate([(2.0, 0.0), (4.0, 0.0), (0.0, 0.0)]):
        log.record(step, {"a": torch.tensor(a), "b": torch.tensor(b)})
    assert log.take_means() == {"a": 3.0, "b": 0.0}


def test_an_image_without_parts_has_no_label_of_parts():
    parts = replace(semseg(("background", "head")), loss="parts_cross_entropy")
    target = torch.tensor([[[0, 1]], [[0, 0]], [[0, 1]]])
    valid = torch.tensor([[[[True, True]]], [[[True, True]]], [[[True, False]]]])
    assert has_label(parts, target, valid).tolist() == [True, False, False]
    assert has_label(semseg(("a", "b")), target, valid).tolist() == [True, True, True]
    assert not has_label(semseg(("a", "b")), target, valid & False).any()
