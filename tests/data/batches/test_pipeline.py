"""Batches of a run: the same from every storage, from every start, and never from the wrong split."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch
from fake_dataset import TASKS, FakeDataset

from dtme_search.config import DataConfig
from dtme_search.data import build_data, registry
from dtme_search.data.batches import pipeline, split_reader
from dtme_search.data.batches.order import training_order
from dtme_search.data.batches.tensors import bytes_per_sample, read_sample
from dtme_search.errors import ConfigError, DataError

CPU = torch.device("cpu")
SIZE = (12, 20)
ALL = tuple(TASKS)


def make_data(dataset=None, tasks=ALL, final=False, on_progress=None, **fields):
    config = DataConfig(**{"image_size": SIZE, "storage": "device", **fields})
    dataset = FakeDataset() if dataset is None else dataset
    return build_data(config, tasks, CPU, final=final, dataset=dataset, on_progress=on_progress)


def take(batches, count):
    return list(itertools.islice(batches, count))


def assert_equal(left, right):
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert torch.equal(one.indices, other.indices)
        assert torch.equal(one.images, other.images)
        assert list(one.targets) == list(other.targets)
        for task in one.targets:
            assert torch.equal(one.targets[task], other.targets[task])
            assert torch.equal(one.valid[task], other.valid[task])


def mixed_sizes(sample_id):
    """Smaller, equal, and larger than SIZE."""
    return [(9, 20), (12, 17), (12, 20), (30, 41)][int(sample_id[1:]) % 4]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_both_storages_give_the_same_batches(workers):
    dataset = FakeDataset(num_train=12, size=mixed_sizes)
    kept = make_data(dataset)
    read = make_data(dataset, storage="loader", loader_workers=workers)
    assert_equal(take(kept.train_batches(4, seed=3), 6), take(read.train_batches(4, seed=3), 6))
    for split in ("train", "holdout", "test"):
        assert_equal(list(kept.eval_batches(split, 3)), list(read.eval_batches(split, 3)))
    assert_equal(list(kept.analysis_batches(5, 2, 0)), list(read.analysis_batches(5, 2, 0)))


def test_a_late_start_gives_the_batches_of_an_early_one():
    data = make_data()
    whole = take(data.train_batches(3, seed=1), 9)
    for start in (1, 2, 5):
        assert_equal(take(data.train_batches(3, seed=1, start_step=start), 3), whole[start : start + 3])


def test_seeds_and_steps_differ():
    data = make_data(FakeDataset(num_train=4), final=True)
    first, second = take(data.train_batches(4, seed=1), 2)
    other = next(data.train_batches(4, seed=2))
    by_index = [batch.images[batch.indices.argsort()] for batch in (first, second, other)]
    assert not torch.equal(by_index[0], by_index[1])
    assert not torch.equal(by_index[0], by_index[2])


def test_every_task_set_sees_the_same_crops():
    """Also when semseg, whose labels judge the crops, is not trained."""
    dataset = FakeDataset()
    together = take(make_data(dataset).train_batches(4, seed=0), 3)
    for storage in ("device", "loader"):
        alone = take(
            make_data(dataset, ["depth"], storage=storage, loader_workers=0).train_batches(4, seed=0), 3
        )
        for one, other in zip(alone, together, strict=True):
            assert list(one.targets) == ["depth"]
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.targets["depth"], other.targets["depth"])


def test_some_of_the_tasks_share_the_tensors():
    dataset = FakeDataset()
    data = make_data(dataset)
    reads = len(dataset.reads)
    some = data.for_tasks(["edge", "depth"])
    assert list(some.specs) == ["edge", "depth"]
    assert some.fingerprint == data.fingerprint
    assert_equal(
        take(some.train_batches(2, 0), 2), take(make_data(tasks=["edge", "depth"]).train_batches(2, 0), 2)
    )
    assert len(dataset.reads) == reads
    with pytest.raises(ValueError, match=r"got \['normals'\]"):
        some.for_tasks(["normals"])


def test_a_data_set_without_semseg_takes_the_first_crop():
    data = make_data(FakeDataset(offered=["depth", "edge"]), ["depth"])
    batch = next(data.train_batches(4, seed=0))
    assert batch.valid["depth"].any()


@pytest.mark.parametrize(("num_images", "batch_size"), [(10, 3), (9, 3), (7, 7), (8, 1)])
def test_an_epoch_repeats_no_image(num_images, batch_size):
    steps = num_images // batch_size
    order = take(training_order(num_images, batch_size, seed=0), 3 * steps)
    epochs = [list(itertools.chain(*order[i * steps : (i + 1) * steps])) for i in range(3)]
    for epoch in epochs:
        assert len(set(epoch)) == len(epoch) == steps * batch_size
        assert set(epoch) <= set(range(num_images))
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_set_smaller_than_a_batch_is_repeated_evenly():
    for indices in take(training_order(3, 8, seed=0), 4):
        assert len(indices) == 8
        assert {indices.count(image) for image in range(3)} == {2, 3}


def test_test_images_are_read_only_when_they_are_evaluated():
    for storage in ("device", "loader"):
        dataset = FakeDataset(broken=["t000", "t001", "t002", "t003"])
        data = make_data(dataset, storage=storage, loader_workers=0)
        assert data.splits.test == dataset.ids("test")
        take(data.train_batches(4, seed=0), 5)
        list(data.eval_batches("holdout", 4))
        list(data.eval_batches("train", 4))
        list(data.analysis_batches(4, 2, 0))
        data.target_means()
        assert not set(dataset.reads) & set(dataset.ids("test"))
        with pytest.raises(DataError, match=r"images/t00\d\.png"):
            next(data.eval_batches("test", 4))


def test_evaluation_is_in_order_complete_and_not_augmented():
    dataset = FakeDataset(num_test=5)
    batches = list(make_data(dataset, normalize="half").eval_batches("test", 2))
    assert [len(batch.images) for batch in batches] == [2, 2, 1]
    assert torch.cat([batch.indices for batch in batches]).tolist() == [0, 1, 2, 3, 4]
    for index, sample_id in enumerate(dataset.ids("test")):
        sample = dataset.read(sample_id, ALL)
        batch, row = batches[index // 2], index % 2
        image = torch.from_numpy(sample.image).permute(2, 0, 1).float()
        assert torch.equal(batch.images[row], (image - 127.5) / 127.5)
        valid = torch.from_numpy(sample.valid["depth"])
        assert torch.equal(batch.valid["depth"][row, 0], valid)
        depth = torch.from_numpy(sample.labels["depth"])
        assert torch.equal(batch.targets["depth"][row, 0][valid], depth[valid])


def test_invalid_pixels_hold_zeros_whatever_the_data_set_put_there():
    """FakeDataset puts 255 and NaN; a loss that multiplies by the mask must survive that."""
    for batch in take(make_data().train_batches(4, seed=0), 3):
        assert batch.targets["semseg"].max() < 4
        for task in ALL:
            target = batch.targets[task] if task != "semseg" else batch.targets[task][:, None]
            assert torch.isfinite(target.float()).all()
            assert not (target * ~batch.valid[task]).any()


def test_an_image_larger_than_the_tensors_is_made_to_fit():
    dataset = FakeDataset(size=(30, 40))
    raw = read_sample(dataset, "a000", TASKS, SIZE)
    assert raw.sizes.tolist() == [[12, 16]]
    sample = dataset.read("a000", ALL)
    # 30 rows become 12: row i is looked up at its centre, 2.5 i + 1.25, where that is asked for.
    rows, columns = (np.arange(12) * 2.5 + 1.25).astype(int), (np.arange(16) * 2.5 + 1.25).astype(int)
    expected = np.where(sample.valid["edge"], sample.labels["edge"], 0)[rows][:, columns]
    nearest = read_sample(dataset, "a000", TASKS, SIZE, "nearest")
    assert np.array_equal(nearest.labels["edge"][0, 0].numpy(), expected)
    assert set(np.unique(raw.labels["semseg"].numpy())) <= {0, 1, 2, 3}
    # Antialiased: the picture of noise loses contrast, its mean stays.
    assert raw.images.float().std() < 0.6 * sample.image.std()
    assert raw.images.float().mean() == pytest.approx(sample.image.mean(), abs=3)
    batch = next(make_data(dataset).eval_batches("holdout", 1))
    assert not batch.valid["depth"][..., :2].any()
    assert not batch.valid["depth"][..., 18:].any()


def test_target_means_are_those_of_the_valid_training_pixels():
    dataset = FakeDataset()
    data = make_data(dataset)
    means = data.target_means()
    assert list(means) == ["depth", "normals", "albedo"]
    for task, mean in means.items():
        samples = [dataset.read(sample_id, ALL) for sample_id in data.splits.train]
        values = [sample.labels[task][sample.valid[task]] for sample in samples]
        expected = np.concatenate([v.reshape(-1, mean.numel()) for v in values]).mean(0)
        np.testing.assert_allclose(mean.numpy(), expected, atol=1e-5)
    assert make_data(dataset, ["semseg", "edge"]).target_means() == {}


def test_analysis_images_are_different_training_images_without_augmentation():
    data = make_data(FakeDataset(num_train=20))
    batches = list(data.analysis_batches(7, 3, seed=0))
    assert [len(batch.images) for batch in batches] == [3, 3, 1]
    chosen = torch.cat([batch.indices for batch in batches])
    assert len(set(chosen.tolist())) == 7
    plain = torch.cat([batch.images for batch in data.eval_batches("train", 8)])
    assert torch.equal(torch.cat([batch.images for batch in batches]), plain[chosen])
    other = torch.cat([batch.indices for batch in data.analysis_batches(7, 3, seed=1)])
    assert chosen.tolist() != other.tolist()
    everything = torch.cat([batch.indices for batch in data.analysis_batches(999, 4, seed=0)])
    assert sorted(everything.tolist()) == list(range(len(data.splits.train)))


def test_the_fingerprint_names_content_and_splits():
    dataset = FakeDataset()
    reference = make_data(dataset).fingerprint
    assert make_data(dataset, ["depth"], storage="loader").fingerprint == reference
    assert make_data(dataset, holdout_fraction=0.4).fingerprint != reference
    assert make_data(dataset, final=True).fingerprint != reference
    changed = FakeDataset()
    changed.fingerprint = "fake-2"
    assert make_data(changed).fingerprint != reference


def test_a_final_run_holds_nothing_out():
    data = make_data(final=True)
    assert len(data.splits.train) == 10
    assert list(data.eval_batches("holdout", 4)) == []


def test_reading_batches_leaves_the_random_numbers_of_the_run_alone():
    for storage in ("device", "loader"):
        data = make_data(storage=storage, loader_workers=0)
        before = torch.get_rng_state()
        take(data.train_batches(4, seed=0), 2)
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_sample_is_named_in_one_line(workers):
    broken = FakeDataset(num_train=12, broken=["a009"])
    for storage in ("device", "loader"):
        with pytest.raises(DataError, match=r"^images/a009\.png: cannot be read\. Download it again\."):
            make_data(broken, final=True, storage=storage)
    broken = FakeDataset(broken=[FakeDataset().ids("test")[1]])
    data = make_data(broken, storage="loader", loader_workers=workers)
    with pytest.raises(DataError, match=r"^images/\w+\.png: cannot be read\. Download it again\.$"):
        list(data.eval_batches("test", 4))


@pytest.mark.slow
def test_a_loader_decodes_every_file_before_the_first_training_on_it_only():
    reads = []

    class Counting(FakeDataset):
        def read(self, sample_id, tasks):
            reads.append(sample_id)
            return super().read(sample_id, tasks)

    dataset = Counting(num_train=14)
    make_data(dataset, storage="loader")
    assert set(dataset.ids("train")) <= set(reads)
    first = len(reads)
    make_data(dataset, storage="loader")
    assert len(reads) - first < len(dataset.ids("train"))


def spoiled(task, change):
    class Spoiled(FakeDataset):
        def read(self, sample_id, tasks):
            sample = super().read(sample_id, tasks)
            if task in tasks:
                change(sample)
            return sample

    return Spoiled()


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("semseg", lambda s: s.labels["semseg"].fill(9), "'semseg': classes must be below 4, got 9"),
        ("depth", lambda s: s.labels["depth"].fill(np.inf), "'depth': valid labels must be finite"),
        (
            "edge",
            lambda s: s.labels.update(edge=s.labels["edge"][1:]),
            r"'edge': label must have the size of its image \(12, 20\)",
        ),
    ],
)
def test_a_label_that_would_fail_later_is_refused_when_read(task, change, message):
    with pytest.raises(DataError, match=rf"^sample 'a\d\d\d', task {message}"):
        make_data(spoiled(task, change))


def test_an_unknown_task_tells_the_nearest():
    with pytest.raises(ConfigError, match=r"tasks\.dept: data set 'scenes' has no such task\. Did you mean"):
        make_data(tasks=["semseg", "dept"])


def test_a_size_that_is_mostly_padding_is_refused():
    message = (
        "data.image_size must suit the images, got [48, 60] for images of [12, 20]: padding would fill 92%"
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        make_data(image_size=(48, 60))


@pytest.mark.parametrize(
    "call",
    [
        lambda data: data.train_batches(0, 0),
        lambda data: data.eval_batches("holdout", 0),
        lambda data: data.analysis_batches(0, 4, 0),
        lambda data: data.eval_batches("val", 4),
    ],
)
def test_wrong_arguments_fail_at_the_call(call):
    with pytest.raises(ValueError, match="must be"):
        call(make_data())


def test_progress_counts_every_image_once():
    seen = []
    make_data(on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 10) for done in range(1, 11)]


def test_auto_keeps_data_on_the_device_only_within_the_limit():
    needed = 10 * bytes_per_sample(TASKS, SIZE) / 1e9
    for limit, kept in ((1.01 * needed, True), (0.99 * needed, False)):
        seen = []
        make_data(
            storage="auto",
            storage_limit_gb=limit,
            loader_workers=0,
            on_progress=lambda done, total, seen=seen: seen.append(done),
        )
        assert bool(seen) == kept


def test_the_estimate_is_what_the_tensors_take():
    raw = read_sample(FakeDataset(size=SIZE), "a000", TASKS, SIZE)
    tensors = [raw.images, *raw.labels.values(), *raw.valid.values()]
    assert sum(tensor.nbytes for tensor in tensors) == bytes_per_sample(TASKS, SIZE)


def test_the_data_set_is_found_by_name(monkeypatch):
    monkeypatch.setitem(registry.BUILDERS, "fake", lambda config, require_complete: FakeDataset())
    data = build_data(DataConfig(name="fake", image_size=SIZE, storage="device"), ["edge"], CPU)
    assert data.image_size == SIZE
    assert data.device == CPU
    assert data.specs == {"edge": TASKS["edge"]}


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_gpu_gets_the_crops_and_targets_of_the_cpu():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    config = DataConfig(image_size=SIZE, storage="device")
    dataset = FakeDataset(size=mixed_sizes)
    plain = take(build_data(config, ALL, CPU, dataset=dataset).train_batches(4, 0), 4)
    for storage in ("device", "loader"):
        stored = config.model_copy(update={"storage": storage, "loader_workers": 1})
        data = build_data(stored, ALL, torch.device("cuda"), dataset=dataset)
        for batch, expected in zip(data.train_batches(4, 0), plain, strict=False):
            assert batch.images.is_cuda
            torch.testing.assert_close(batch.images.cpu(), expected.images, atol=1e-4, rtol=0)
            for task in ALL:
                assert torch.equal(batch.valid[task].cpu(), expected.valid[task])
                torch.testing.assert_close(batch.targets[task].cpu(), expected.targets[task])


def test_averages_and_the_look_for_broken_files_take_an_even_choice_of_a_large_set(monkeypatch, tmp_path):
    monkeypatch.setenv("DTME_CACHE", str(tmp_path))
    monkeypatch.setattr(pipeline, "_AVERAGED_IMAGES", 4)
    monkeypatch.setattr(split_reader, "_VERIFIED_IMAGES", 5)
    dataset = FakeDataset(num_train=16)
    seen = []
    data = make_data(
        dataset,
        ["depth"],
        storage="loader",
        loader_workers=0,
        final=True,
        on_progress=lambda done, total: seen.append((done, total)),
        augment={"crop_tries": 1},
    )
    assert seen == [(done, 4) for done in range(1, 5)]
    indices = torch.cat([batch.indices for batch in data.average_batches(3)])
    assert indices.tolist() == [0, 4, 8, 12]
    dataset.reads.clear()
    data.target_means()
    assert dataset.reads == ["a000", "a004", "a008", "a012"]
