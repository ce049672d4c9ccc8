"""From conflicts and a config to an ``ExpansionPlan`` (arXiv 2507.07485v2, Sec. 4.3 and App. B.3).

Token modulation goes where range conflicts are worst, token expansion where null conflicts are worst,
each with a ranking of its own. Thresholds, merging and the treatment of controls are ours.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor

from dtme_search.config import ExpansionConfig, TaskGroups
from dtme_search.errors import ConfigError
from dtme_search.operations import operations_of
from dtme_search.token_space.gain import ranking_by_gain
from dtme_search.token_space.plan import ExpansionPlan, options_of
from dtme_search.token_space.report import ConflictReport, Space

_SPACES: tuple[Space, Space] = ("range", "null")
"""The subspace that decides about token modulation, and the one that decides about token expansion."""
_SPACE_OF: Mapping[str, tuple[Space, ...]] = {"modulate": ("range",), "expand": ("null",)}
"""Subspaces whose conflicts decide which tasks get an operation named in ``expansion.layers``; both subspaces
if the paper does not have the operation [ours]."""


def plan_expansion(
    report: ConflictReport | None,
    config: ExpansionConfig,
    tasks: Sequence[str],
    num_layers: int,
    seed: int,
) -> ExpansionPlan:
    """Decide which layers grow, how, and for which groups of tasks.

    - ``policy``: none; conflict; per_layer (explicit choices, ``auto`` ones as conflict would decide over all
      layers); fixed.
    - How many layers: the share ``range_layer_ratio`` (``null_layer_ratio``) of all layers, rounded up, minus
      those whose score is below ``range_threshold`` (``null_threshold``).
    - By what: ``range_operation`` where range conflicts decide, ``null_operation`` where null conflicts do;
      the paper's are modulate and expand, other choices are ours.
    - Which ones, by ``selection``: those with the most conflicts, or a control with as many layers: random;
      reversed (fewest conflicts first); swapped (modulation by null conflicts, expansion by range conflicts);
      gradient_similarity (the least similar gradients of the layer's weights first, both operations by the
      same ranking [ours]); gain (where splitting the tasks gains most for sure, to first order [ours]:
      modulation by the gains of modulation in place of range conflicts, expansion likewise).
    - Which tasks: all whose largest pair rate at the layer reaches ``pair_threshold``, in the range space for
      modulation, in the null space for expansion. The others keep their stream.
    - ``max_streams``: see :func:`merge_tasks`; gradient_similarity merges the tasks with the most similar
      gradients, as arXiv 2509.19602 does for its adapters. If ``pair_threshold`` removes a task from a merged
      group, the task and the rest of its group separate, and there can be more streams than groups.

    Args:
        report: Measured conflicts; may be ``None`` if ``config.needs_conflicts`` is false.
        config: The ``expansion`` section.
        tasks: Tasks of the model, in its order.
        num_layers: Layers of the backbone.
        seed: Used by selection random only.

    Raises:
        ConfigError: If ``expansion.layers`` or ``expansion.plan`` does not fit the model.
        ValueError: If a report is needed and missing, or has other tasks or layers.
    """
    if config.policy == "none":
        return ExpansionPlan.empty(tasks, num_layers)
    if config.policy == "fixed":
        return ExpansionPlan.from_config(config, tasks, num_layers)
    if config.policy == "per_layer" and len(config.layers) != num_layers:
        raise ConfigError(
            f"expansion.layers must hold one choice for each of the {num_layers} layers, "
            f"got {len(config.layers)}. Use auto where conflicts should decide."
        )
    if config.needs_conflicts:
        _check_report(report, tasks, num_layers)
    chosen = _choose_layers(report, config, num_layers, seed)
    active = {
        operation: {
            layer: _active_tasks(report, spaces, layer, config.pair_threshold, tasks)
            for layer, spaces in layers.items()
        }
        for operation, layers in chosen.items()
    }
    groups: TaskGroups = tuple((task,) for task in tasks)
    if report is not None and config.max_streams is not None:
        rates = {space: _pair_scores(report, config, space) for space in _SPACES}
        groups = merge_tasks(_mean_scores(rates, chosen, active), tasks, config.max_streams)
    planned = {
        operation: {layer: _restrict(groups, members) for layer, members in layers.items()}
        for operation, layers in active.items()
    }
    return ExpansionPlan(tuple(tasks), num_layers, planned, options_of(config))


def merge_tasks(conflicts: Tensor, tasks: Sequence[str], max_groups: int) -> TaskGroups:
    """Merge tasks until at most ``max_groups`` groups remain, those with fewest conflicts first (ours).

    Agglomerative clustering with average linkage: the conflict of two groups is the mean over all pairs
    between them. Ties go to the groups that come first in ``tasks``.

    Args:
        conflicts: Symmetric pair conflicts, shape (K, K).
        tasks: The K tasks.
        max_groups: At least 1.

    Returns:
        A partition of the tasks, in their order.

    Example:
        >>> conflicts = torch.tensor([[0.0, 0.5, 0.1], [0.5, 0.0, 0.4], [0.1, 0.4, 0.0]])
        >>> merge_tasks(conflicts, ["semseg", "depth", "edge"], max_groups=2)
        (('semseg', 'edge'), ('depth',))
    """
    groups = [[index] for index in range(len(tasks))]

    def linkage(pair: tuple[int, int]) -> float:
        first, second = groups[pair[0]], groups[pair[1]]
        return conflicts[first][:, second].mean().item()

    while len(groups) > max_groups:
        first, second = min(combinations(range(len(groups)), 2), key=linkage)
        groups[first] = sorted(groups[first] + groups.pop(second))
    return tuple(tuple(tasks[index] for index in group) for group in groups)


def _check_report(report: ConflictReport | None, tasks: Sequence[str], num_layers: int) -> None:
    if report is None:
        raise ValueError(
            "report must be measured for this config, got None. Ask config.needs_conflicts first."
        )
    if report.tasks != tuple(tasks) or report.num_layers != num_layers:
        raise ValueError(
            f"report must be of tasks {list(tasks)} and {num_layers} layers, "
            f"got {list(report.tasks)} and {report.num_layers}."
        )


def _choose_layers(
    report: ConflictReport | None, config: ExpansionConfig, num_layers: int, seed: int
) -> dict[str, dict[int, tuple[Space, ...]]]:
    """Operation -> layer -> subspaces whose conflicts decide which tasks get it there."""
    choices = config.layers if config.policy == "per_layer" else ("auto",) * num_layers
    chosen: dict[str, dict[int, tuple[Space, ...]]] = defaultdict(dict)
    if "auto" in choices:
        assert report is not None
        by_space = _by_conflicts(report, config, seed)
        for operation, space, layers in zip(
            (config.range_operation, config.null_operation), _SPACES, by_space, strict=True
        ):
            for layer in layers:
                if choices[layer] == "auto":
                    chosen[operation][layer] = (*chosen[operation].get(layer, ()), space)
    for layer, choice in enumerate(choices):
        for operation in operations_of(choice):
            chosen[operation][layer] = _SPACE_OF.get(operation, _SPACES)
    return chosen


def _by_conflicts(report: ConflictReport, config: ExpansionConfig, seed: int) -> tuple[set[int], set[int]]:
    limits = {
        "range": (config.range_layer_ratio, config.range_threshold),
        "null": (config.null_layer_ratio, config.null_threshold),
    }
    chosen = []
    for space, other in zip(_SPACES, reversed(_SPACES), strict=True):
        ratio, threshold = limits[space]
        scores = report.scores(space).tolist()
        within = report.ranking(space)[: _num_chosen(ratio, report.num_layers)]
        num_chosen = sum(scores[layer] >= threshold for layer in within)
        order = list(report.ranking(other if config.selection == "swapped" else space))
        if config.selection == "reversed":
            order.sort(key=lambda layer: (scores[layer], layer))
        elif config.selection == "random":
            # Drawn from the layer order, so that the draw does not depend on what was measured.
            order.sort()
            random.Random(f"expansion {space} {seed}").shuffle(order)
        elif config.selection == "gain":
            order = list(ranking_by_gain(report.gains, "modulate" if space == "range" else "expand"))
        elif config.selection == "gradient_similarity":
            unlike = report.dissimilarities().sum((1, 2)).tolist()
            order.sort(key=lambda layer: (-unlike[layer], layer))
        chosen.append(set(order[:num_chosen]))
    return chosen[0], chosen[1]


def _num_chosen(ratio: float, num_layers: int) -> int:
    # Rounded first: 0.1 * 3 * 10 layers must give 3, and steps of 0.0833333 or a typed 0.66667 mean twelfths
    # and two thirds.
    return math.ceil(round(ratio * num_layers, 4))


def _active_tasks(
    report: ConflictReport | None,
    spaces: Sequence[Space],
    layer: int,
    threshold: float,
    tasks: Sequence[str],
) -> set[str]:
    if report is None or threshold <= 0:
        return set(tasks)
    largest = torch.stack([report.rates(space)[layer].amax(1) for space in spaces]).amax(0).tolist()
    return {task for task, rate in zip(tasks, largest, strict=True) if rate >= threshold}


def _pair_scores(report: ConflictReport, config: ExpansionConfig, space: Space) -> Tensor:
    """By what tasks are kept apart: pair scores of every layer, (D, K, K)."""
    return report.dissimilarities() if config.compares_gradients else report.rates(space)


def _mean_scores(
    scores: Mapping[Space, Tensor],
    chosen: Mapping[str, Mapping[int, tuple[Space, ...]]],
    active: Mapping[str, Mapping[int, set[str]]],
) -> Tensor:
    """Mean pair score (K, K) over the operations that take place, each in its own subspace."""
    found = [
        scores[space][layer]
        for operation, layers in active.items()
        for layer, members in sorted(layers.items())
        if members
        for space in chosen[operation][layer]
    ]
    return torch.stack(found).mean(0) if found else torch.zeros_like(scores["range"][0])


def _restrict(groups: TaskGroups, members: set[str]) -> TaskGroups:
    kept = (tuple(task for task in group if task in members) for group in groups)
    return tuple(group for group in kept if group)
