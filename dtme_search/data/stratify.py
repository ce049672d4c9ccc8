"""Draw a share of the groups of a data set, and move groups until every class occurs on both sides.

The deciding order of names comes from SHA-256, not from a random generator, so it is the same on every
machine and with every version of every library.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet

Classes = Mapping[str, AbstractSet[int]]


def hashed_order(names: Iterable[str], seed: int, purpose: str) -> list[str]:
    """Names in an order given by seed and purpose; two names keep their order, whichever others there are."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{purpose}:{seed}:{name}".encode()).digest())


def take_share(order: Sequence[str], sizes: Mapping[str, int], target: float) -> set[str]:
    """Take groups in order, each only if that brings the number of samples nearer to ``target``.

    The last one is never taken. At least one is: the smallest, if every group is far larger than the target.

    Args:
        order: At least two groups.
        sizes: Per group, its number of samples.
        target: Number of samples to take.
    """
    taken: set[str] = set()
    size = 0
    for group in order[:-1]:
        if abs(size + sizes[group] - target) < abs(size - target):
            taken.add(group)
            size += sizes[group]
    return taken or {min(order, key=sizes.__getitem__)}


def spread_classes(
    order: Sequence[str],
    held_out: AbstractSet[str],
    classes: Classes,
    sizes: Mapping[str, int],
    target: float,
) -> set[str]:
    """Give the hold-out, and then the training side, a group of every class it lacks.

    A hold-out that already has every class stays as it is. Otherwise groups change sides one at a time, the
    rarest class first, and never one whose side would lose a class. Then groups that their side can spare
    move back and forth as long as that brings the hold-out nearer to its size. Ties go to the group that
    comes first in ``order``, so the result depends on nothing else. A class that occurs in only one group
    stays where it is.

    Args:
        order: All groups, in order of preference for the hold-out.
        held_out: Groups that are held out.
        classes: Per group, the classes that occur in it.
        sizes: Per group, its number of samples.
        target: Intended number of samples in the hold-out.

    Example:
        >>> classes = {"a": {0}, "b": {0, 1}, "c": {1}, "d": {0}}
        >>> sorted(spread_classes("abcd", {"a"}, classes, dict.fromkeys("abcd", 1), target=1))
        ['b']
    """
    chosen = set(held_out)
    groups_with = Counter(_all(classes, order))
    shared = sorted(
        (each for each in groups_with if groups_with[each] > 1), key=lambda c: (groups_with[c], c)
    )
    for to_hold_out in (True, False):
        for wanted in shared:
            takes = chosen if to_hold_out else set(order) - chosen
            if any(wanted in classes[group] for group in takes):
                continue
            lacking = set(shared) - set(_all(classes, takes))
            gives = [group for group in order if group not in takes]
            counts = Counter(_all(classes, gives))
            free = [group for group in gives if wanted in classes[group] and _spare(classes[group], counts)]
            if free:
                chosen ^= {max(free, key=lambda group: len(lacking & classes[group]))}
    if chosen != held_out:
        _restore_size(chosen, order, classes, sizes, target)
    return chosen


def _restore_size(
    chosen: set[str], order: Sequence[str], classes: Classes, sizes: Mapping[str, int], target: float
) -> None:
    """Let groups that their side can spare leave the hold-out (last ones first) or join it (first ones)."""
    size = sum(sizes[group] for group in chosen)
    for leaves, groups in ((True, list(reversed(order))), (False, list(order))):
        side = [group for group in groups if (group in chosen) == leaves]
        counts = Counter(_all(classes, side))
        for group in side:
            change = -sizes[group] if leaves else sizes[group]
            nearer = abs(size + change - target) < abs(size - target)
            remaining = len(chosen) if leaves else len(order) - len(chosen)
            if nearer and remaining > 1 and _spare(classes[group], counts):
                chosen ^= {group}
                counts.subtract(classes[group])
                size += change


def _spare(classes_of_group: AbstractSet[int], counts: Mapping[int, int]) -> bool:
    """Whether other groups on its side have all classes of a group; ``counts`` says how many have each."""
    return all(counts[each] > 1 for each in classes_of_group)


def _all(classes: Classes, groups: Iterable[str]) -> Iterable[int]:
    return (each for group in groups for each in classes[group])
