"""Which ids a run trains on, selects by, and is finally scored on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dtme_search.config import DataConfig
from dtme_search.data.base import Dataset, Split
from dtme_search.data.stratify import hashed_order, spread_classes, take_share
from dtme_search.errors import ConfigError, DataError


@dataclass(frozen=True)
class Splits:
    """Ids per split; ``train`` and ``holdout`` share no id and no group.

    Attributes:
        train: Ids for training.
        holdout: Ids that a search evaluates on, taken from the training ids; empty in a final run.
        test: Ids of the test split. Only listed: their files are read when they are evaluated.
    """

    train: tuple[str, ...]
    holdout: tuple[str, ...]
    test: tuple[str, ...]

    def ids(self, split: Split) -> tuple[str, ...]:
        """Ids of one split, in order.

        Raises:
            ValueError: If there is no such split.
        """
        if split not in ("train", "holdout", "test"):
            raise ValueError(f"split must be train, holdout or test, got {split!r}")
        return {"train": self.train, "holdout": self.holdout, "test": self.test}[split]


def split_ids(dataset: Dataset, config: DataConfig, final: bool) -> Splits:
    """Take the hold-out from the training ids, whole groups at a time.

    First ``limit_train`` ids are chosen by ``holdout_seed``; a smaller limit chooses a subset of a larger
    one. Groups (scenes, buildings) then join the hold-out in an order given by the same seed, each only if
    that brings the hold-out nearer to ``holdout_fraction`` of the ids. Either side gets at least one group.
    If the data set knows its classes, groups then change sides until every class that occurs in two groups
    occurs on both sides (``spread_classes``); a split that already meets this stays as it is.

    Groups and classes are read for training ids only: nothing of the test split is read.

    Args:
        dataset: Source of ids and groups.
        config: Fraction, seed and limit.
        final: Keep all training ids for training; the hold-out is empty.

    Raises:
        DataError: If an id is listed for training and for testing, or there is nothing to train on.
        ConfigError: If fewer than two groups remain, so that there can be no hold-out.
    """
    listed, test = dataset.ids("train"), dataset.ids("test")
    shared = sorted(set(listed) & set(test))
    if shared:
        raise DataError(
            f"data set '{config.name}': training and test ids must differ, got {len(shared)} in both, "
            f"'{shared[0]}' first. Remove them from one list."
        )
    if not listed:
        raise DataError(f"data set '{config.name}': the list of training ids must not be empty.")
    chosen = set(hashed_order(listed, config.holdout_seed, "limit")[: config.limit_train])
    train = tuple(sample_id for sample_id in listed if sample_id in chosen)
    if final:
        return Splits(train, (), test)
    held_out = _hold_out(dataset, train, config)
    return Splits(
        tuple(sample_id for sample_id in train if sample_id not in held_out),
        tuple(sample_id for sample_id in train if sample_id in held_out),
        test,
    )


def _hold_out(dataset: Dataset, train: Sequence[str], config: DataConfig) -> set[str]:
    members: defaultdict[str, list[str]] = defaultdict(list)
    for sample_id, group in zip(train, dataset.groups(train) or train, strict=True):
        members[group].append(sample_id)
    if len(members) < 2:
        raise ConfigError(
            f"data: a hold-out needs training ids of at least two groups (scenes), got {len(train)} ids of "
            f"{len(members)}. " + ("Raise data.limit_train." if config.limit_train else "Add data.")
        )
    sizes = {group: len(listed) for group, listed in members.items()}
    target = config.holdout_fraction * len(train)
    order = hashed_order(members, config.holdout_seed, "holdout")
    held_out = take_share(order, sizes, target)
    presence = dataset.class_presence(train)
    if presence is not None:
        row = dict(zip(train, presence, strict=True))
        occurring = {
            group: set(np.flatnonzero(np.any([row[i] for i in ids], axis=0)).tolist())
            for group, ids in members.items()
        }
        held_out = spread_classes(order, held_out, occurring, sizes, target)
    return {sample_id for group in held_out for sample_id in members[group]}
