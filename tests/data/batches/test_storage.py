"""What every place where samples wait must do; whoever adds one adds a line to ``KINDS``."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest
import torch
from device import DEVICE
from fake_dataset import TASKS, FakeDataset

from dtme_search.config import DataConfig
from dtme_search.data.batches.storage import LoaderStorage, TensorStorage
from dtme_search.data.batches.tensors import read_sample
from dtme_search.errors import DataError

SIZE = (12, 20)

KINDS = {
    "device": lambda dataset, ids: TensorStorage.read(dataset, ids, dataset.tasks, SIZE, DEVICE),
    "loader": lambda dataset, ids: LoaderStorage(dataset, ids, dataset.tasks, SIZE, DEVICE, 0),
    "loader of two": lambda dataset, ids: LoaderStorage(dataset, ids, dataset.tasks, SIZE, DEVICE, 2),
}

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def make(request):
    return request.param


@pytest.fixture
def dataset():
    """Images smaller than, as large as and larger than the tensors."""
    sizes = [(9, 20), (12, 17), (12, 20), (30, 41)]
    return FakeDataset(num_train=8, size=lambda sample_id: sizes[int(sample_id[1:]) % 4])


@pytest.fixture
def ids(dataset):
    return dataset.ids("train")


def assert_holds(batch, dataset, ids, tasks):
    """A batch of the samples ``ids``, with labels of ``tasks``."""
    assert list(batch.labels) == list(batch.valid) == list(tasks)
    assert len(batch) == len(ids) and batch.images.device.type == DEVICE.type
    assert batch.sizes.device.type == "cpu", "asking a GPU for a size would wait for it"
    for row, sample_id in enumerate(ids):
        expected = read_sample(dataset, sample_id, {task: TASKS[task] for task in tasks}, SIZE)
        height, width = expected.images.shape[-2:]
        assert batch.sizes[row].tolist() == [height, width]
        pairs = [(batch.images, expected.images)]
        pairs += [(batch.labels[task], expected.labels[task]) for task in tasks]
        pairs += [(batch.valid[task], expected.valid[task]) for task in tasks]
        for kept, one in pairs:
            alone = one.reshape(-1, height, width)
            assert kept[row, :, :height, :width].cpu().equal(alone.to(kept.dtype))
            assert not kept[row, :, height:].any() and not kept[row, :, :, width:].any()


def test_every_storage_that_a_config_may_name_is_in_this_suite():
    named = set(get_args(DataConfig.model_fields["storage"].annotation)) - {"auto"}
    assert {kind.partition(" ")[0] for kind in KINDS} == named


@pytest.mark.parametrize("wanted", [[[0, 1, 2]], [[7], [3, 3], [0, 5, 2, 1]], [list(range(8))], []])
def test_batches_are_those_asked_for_in_order(make, dataset, ids, wanted):
    batches = list(make(dataset, ids).batches(wanted, list(TASKS)))
    assert len(batches) == len(wanted)
    for batch, indices in zip(batches, wanted, strict=True):
        assert_holds(batch, dataset, [ids[index] for index in indices], TASKS)


@pytest.mark.parametrize("tasks", [["depth"], ["edge", "semseg"], []])
def test_labels_are_those_of_the_tasks_in_their_order(make, dataset, ids, tasks):
    (batch,) = make(dataset, ids).batches([[1, 6]], tasks)
    assert_holds(batch, dataset, [ids[1], ids[6]], tasks)


def test_an_endless_list_is_read_as_far_as_wanted(make, dataset, ids):
    endless = ([step % 8] for step in itertools.count())
    batches = itertools.islice(make(dataset, ids).batches(endless, ["depth"]), 3)
    for step, batch in enumerate(batches):
        assert_holds(batch, dataset, [ids[step]], ["depth"])


def test_two_who_read_at_once_do_not_meet(make, dataset, ids):
    storage = make(dataset, ids)
    one, other = storage.batches([[0], [1]], ["depth"]), storage.batches([[5], [6]], ["edge"])
    for first, second in ((0, 5), (1, 6)):
        assert_holds(next(one), dataset, [ids[first]], ["depth"])
        assert_holds(next(other), dataset, [ids[second]], ["edge"])


def test_what_is_done_to_a_batch_stays_in_it(make, dataset, ids):
    """Augmentation may work in place."""
    storage = make(dataset, ids)
    (batch,) = storage.batches([[2, 3]], ["depth"])
    for tensor in (batch.images, batch.labels["depth"], batch.valid["depth"], batch.sizes):
        tensor.zero_()
    (again,) = storage.batches([[2, 3]], ["depth"])
    assert_holds(again, dataset, [ids[2], ids[3]], ["depth"])


def test_random_numbers_of_the_run_are_left_alone(make, dataset, ids):
    before = torch.get_rng_state()
    list(make(dataset, ids).batches([[0], [1]], ["depth"]))
    assert torch.get_rng_state().equal(before)


def test_a_broken_sample_is_named_in_one_line_at_the_latest_when_it_is_asked_for(make):
    dataset = FakeDataset(num_train=4, broken=["a002"])
    with pytest.raises(DataError, match=r"^images/a002\.png: cannot be read\. Download it again\.$"):
        list(make(dataset, dataset.ids("train")).batches([[0], [2]], ["depth"]))
