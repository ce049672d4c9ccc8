"""Who is trained on, who is held out, and that it is the same everywhere."""

from __future__ import annotations

import numpy as np
import pytest
from fake_dataset import FakeDataset
from hypothesis import given
from hypothesis import strategies as st

from dtme_search.config import DataConfig
from dtme_search.data import split_ids
from dtme_search.errors import ConfigError, DataError


class Listed(FakeDataset):
    """Training ids ``<group>-<number>`` by group size."""

    def __init__(self, group_sizes, test=("t0",)):
        super().__init__()
        ids = tuple(f"{group}-{index}" for group, size in enumerate(group_sizes) for index in range(size))
        self._ids = {"train": ids, "test": tuple(test)}

    def groups(self, ids):
        return [sample_id.split("-")[0] for sample_id in ids]


@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=30),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 5),
)
def test_the_hold_out_takes_whole_groups_and_leaves_some(sizes, fraction, seed):
    dataset = Listed(sizes)
    splits = split_ids(dataset, DataConfig(holdout_fraction=fraction, holdout_seed=seed), final=False)
    assert splits.train
    assert splits.holdout
    assert sorted(splits.train + splits.holdout) == sorted(dataset.ids("train"))
    assert not set(dataset.groups(splits.train)) & set(dataset.groups(splits.holdout))
    positions = {sample_id: place for place, sample_id in enumerate(dataset.ids("train"))}
    for ids in (splits.train, splits.holdout):
        assert [positions[i] for i in ids] == sorted(positions[i] for i in ids)


def test_the_hold_out_comes_as_near_to_its_share_as_small_groups_allow():
    splits = split_ids(Listed([2] * 100), DataConfig(holdout_fraction=0.15), final=False)
    assert len(splits.holdout) == 30


def test_one_huge_group_is_never_held_out_for_a_small_share():
    splits = split_ids(Listed([500, 3, 40]), DataConfig(holdout_fraction=0.01), final=False)
    assert {sample_id.split("-")[0] for sample_id in splits.holdout} == {"1"}


def test_a_split_never_changes():
    """Pinned: the order comes from SHA-256, so no library and no machine may move an id."""
    splits = split_ids(Listed([1] * 12), DataConfig(holdout_fraction=0.25), final=False)
    assert splits.holdout == ("4-0", "8-0", "9-0")
    other = split_ids(Listed([1] * 12), DataConfig(holdout_fraction=0.25, holdout_seed=1), final=False)
    assert other.holdout == ("4-0", "5-0", "11-0")


def test_a_final_run_trains_on_every_training_id():
    dataset = Listed([3, 4])
    splits = split_ids(dataset, DataConfig(), final=True)
    assert splits.train == dataset.ids("train")
    assert splits.holdout == ()
    assert splits.test == ("t0",)


def test_a_smaller_limit_is_a_subset_of_a_larger_one():
    dataset = Listed([1] * 50)
    chosen = [
        set(split_ids(dataset, DataConfig(limit_train=limit), final=True).train) for limit in (5, 20, 500)
    ]
    assert [len(ids) for ids in chosen] == [5, 20, 50]
    assert chosen[0] < chosen[1] < chosen[2]
    splits = split_ids(dataset, DataConfig(limit_train=20), final=False)
    assert set(splits.train) | set(splits.holdout) == chosen[1]
    other = split_ids(dataset, DataConfig(limit_train=20, holdout_seed=1), final=True)
    assert set(other.train) != chosen[1]


def test_ids_in_both_lists_are_refused():
    with pytest.raises(DataError, match=r"must differ, got 1 in both, '0-1' first"):
        split_ids(Listed([2, 2], test=("0-1", "t")), DataConfig(), final=True)


def test_too_few_groups_are_refused_with_the_way_out():
    with pytest.raises(ConfigError, match=r"at least two groups.*got 5 ids of 1.*Add data"):
        split_ids(Listed([5]), DataConfig(), final=False)
    with pytest.raises(ConfigError, match=r"Raise data\.limit_train"):
        split_ids(Listed([50, 1]), DataConfig(limit_train=2), final=False)


def test_an_empty_list_is_refused():
    with pytest.raises(DataError, match="must not be empty"):
        split_ids(Listed([]), DataConfig(), final=True)


def test_an_unknown_split_is_a_mistake_of_the_caller():
    splits = split_ids(Listed([1, 1]), DataConfig(), final=False)
    with pytest.raises(ValueError, match="got 'val'"):
        splits.ids("val")


class Shown(Listed):
    """One sample per group; ``shown[i]`` are the classes of sample i."""

    def __init__(self, shown):
        super().__init__([1] * len(shown))
        self.shown = shown
        self.asked = []

    def class_presence(self, ids):
        self.asked += ids
        presence = np.zeros((len(ids), 5), dtype=bool)
        for row, sample_id in enumerate(ids):
            presence[row, list(self.shown[int(sample_id.split("-")[0])])] = True
        return presence

    def classes(self, ids):
        return set(np.flatnonzero(self.class_presence(ids).any(axis=0)).tolist())


@given(
    shown=st.lists(st.sets(st.integers(0, 4), min_size=1), min_size=4, max_size=40), seed=st.integers(0, 3)
)
def test_moving_groups_never_loses_a_class_and_keeps_both_sides(shown, seed):
    config = DataConfig(holdout_fraction=0.2, holdout_seed=seed)
    dataset = Shown(shown)
    before = split_ids(Listed([1] * len(shown)), config, final=False)
    after = split_ids(dataset, config, final=False)
    assert sorted(after.train + after.holdout) == sorted(dataset.ids("train"))
    assert after.train and after.holdout
    assert dataset.classes(before.train) & dataset.classes(before.holdout) <= (
        dataset.classes(after.train) & dataset.classes(after.holdout)
    )
    assert not set(dataset.asked) & set(dataset.ids("test"))


@pytest.mark.parametrize("seed", range(8))
def test_a_rare_class_is_on_both_sides(seed):
    shown = [{0, 1}] * 38 + [{0, 4}] * 2
    dataset = Shown(shown)
    splits = split_ids(dataset, DataConfig(holdout_fraction=0.1, holdout_seed=seed), final=False)
    assert dataset.classes(splits.holdout) == dataset.classes(splits.train) == {0, 1, 4}
    assert len(splits.holdout) == 4


def test_a_split_that_has_every_class_stays_as_it_is():
    plain = split_ids(Listed([1] * 30), DataConfig(), final=False)
    assert split_ids(Shown([{0, 1, 2}] * 30), DataConfig(), final=False) == plain
    # A class of a single group cannot be on both sides, so nothing moves for it either.
    assert split_ids(Shown([{0, 1}] * 29 + [{0, 1, 3}]), DataConfig(), final=False) == plain


def test_a_final_run_asks_for_no_classes():
    dataset = Shown([{0}] * 5)
    split_ids(dataset, DataConfig(), final=True)
    assert dataset.asked == []
