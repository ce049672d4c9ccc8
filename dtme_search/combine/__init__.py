"""How the losses or the gradients of several tasks become one update: a registry of methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from dtme_search.combine.aligned_mtl import aligned_mtl
from dtme_search.combine.base import CombineState, LossWeighting, Merged, Method, Seen, Weighted
from dtme_search.combine.cagrad import cagrad
from dtme_search.combine.dwa import DynamicWeightAverage
from dtme_search.combine.famo import Famo
from dtme_search.combine.graddrop import graddrop
from dtme_search.combine.gradnorm import GradNorm
from dtme_search.combine.imtl_g import imtl_g
from dtme_search.combine.kind import CombineKind, Setting, guarded_combine
from dtme_search.combine.mgda import mgda
from dtme_search.combine.nash_mtl import nash_mtl
from dtme_search.combine.pcgrad import pcgrad
from dtme_search.combine.rlw import RandomWeights
from dtme_search.combine.uncertainty import Learnt, OptimalUncertainty
from dtme_search.combine.upgrad import upgrad
from dtme_search.config import CombineConfig, find_part
from dtme_search.plugins import Family

__all__ = [
    "METHODS",
    "CombineKind",
    "CombineState",
    "LossWeighting",
    "Merged",
    "Method",
    "Seen",
    "Setting",
    "Weighted",
    "build_method",
    "find_method",
    "guarded_combine",
]


_BUILT_IN: dict[str, Callable[[Setting], Method | None]] = {
    "sum": lambda _: None,
    "uncertainty": lambda s: Learnt(0.5, s.options.lr, s.num_tasks, s.device),
    "optimal_uncertainty": lambda _: OptimalUncertainty(),
    "imtl_l": lambda s: Learnt(1.0, s.options.lr, s.num_tasks, s.device),
    "dwa": lambda s: DynamicWeightAverage(
        s.options.temperature, s.options.window or s.window, s.num_tasks, s.device
    ),
    "rlw": lambda s: RandomWeights(s.draw),
    "famo": lambda s: Famo(s.options.lr, s.options.decay, s.num_tasks, s.device),
    "gradnorm": lambda s: GradNorm(s.options.lr, s.options.alpha, s.num_tasks, s.device),
    "pcgrad": lambda _: Weighted(pcgrad),
    "cagrad": lambda s: Weighted(partial(cagrad, radius=s.options.radius)),
    "mgda": lambda _: Weighted(mgda),
    "imtl_g": lambda _: Weighted(imtl_g),
    "aligned_mtl": lambda _: Weighted(aligned_mtl),
    "nash_mtl": lambda s: Weighted(partial(nash_mtl, max_norm=s.options.max_norm)),
    "graddrop": lambda s: Merged(partial(graddrop, leak=s.options.leak)),
    "upgrad": lambda _: Weighted(upgrad),
}

METHODS = Family(
    "combine", CombineKind, {name: CombineKind(build) for name, build in _BUILT_IN.items()}, guarded_combine
)
"""``train.combine.kind`` -> the method; a plain ``sum`` has none."""


def find_method(config: CombineConfig, plugins: Sequence[str] = ()) -> tuple[CombineKind, Any]:
    """The way to combine that a config names, and what it is built with: the section, or options of its own.

    Args:
        config: Names it.
        plugins: Files that may provide it, ``plugins`` of the run.

    Raises:
        ConfigError: If it is unknown or cannot be loaded, or an option is wrong.
    """
    chosen, given = ("train.combine.kind", config.kind), ("train.combine.options", config.options)
    kind, own = find_part(METHODS, chosen, given, plugins)
    return kind, config if config.kind in METHODS else own


def build_method(setting: Setting, plugins: Sequence[str] = ()) -> Method | None:
    """The method that the section in ``setting`` chooses; ``None`` means a plain sum.

    Raises:
        ConfigError: As :func:`find_method`.
    """
    kind, options = find_method(setting.options, plugins)
    return kind.build(replace(setting, options=options))
