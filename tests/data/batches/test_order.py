"""Which images are in a batch, where some lack labels."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from dtme_search.data.batches.order import training_order


def epoch(num_images, batch_size, labelled, seed=0):
    steps = num_images // batch_size
    return list(islice(training_order(num_images, batch_size, seed, labelled=labelled), steps))


@pytest.mark.parametrize("seed", range(5))
def test_images_are_exchanged_until_each_batch_has_a_label_of_each_task(seed):
    rng = np.random.default_rng(seed)
    labelled = {name: rng.permutation(40) < share for name, share in (("a", 12), ("b", 15), ("c", 30))}
    batches = epoch(40, 4, labelled, seed)
    for there in labelled.values():
        assert all(there[batch].any() for batch in batches)
    # There are enough labels for all ten, so every image is seen once, as without the rule.
    assert sorted(index for batch in batches for index in batch) == list(range(40))


def test_few_labels_are_repeated_in_turn():
    few = np.isin(np.arange(24), (3, 17))
    batches = epoch(24, 3, {"rare": few})
    shown = [index for batch in batches for index in batch if few[index]]
    assert all(few[batch].sum() == 1 for batch in batches)
    assert abs(shown.count(3) - shown.count(17)) <= 2
    assert all(len(set(batch)) == 3 for batch in batches)


def test_a_batch_too_small_for_all_tasks_keeps_what_it_has():
    """Three images with one label each cannot fit in batches of two; the rarest task still is in each."""
    kind = np.arange(12) % 3
    labelled = {name: kind == index for index, name in enumerate("abc")}
    for batch in epoch(12, 2, labelled):
        assert len({int(kind[index]) for index in batch}) == 2


def test_the_order_is_found_again_at_any_step_and_is_the_old_one_where_nothing_is_missing():
    labelled = {"a": np.arange(10) < 3}
    whole = list(islice(training_order(10, 3, seed=1, labelled=labelled), 8))
    later = list(islice(training_order(10, 3, seed=1, start_step=5, labelled=labelled), 3))
    assert later == whole[5:]
    full = {"a": np.ones(10, bool)}
    assert epoch(10, 3, full) == epoch(10, 3, None)
    assert epoch(10, 3, {"a": np.zeros(10, bool)}) == epoch(10, 3, None)
