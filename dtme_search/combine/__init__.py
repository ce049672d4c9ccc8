"""How the losses or the gradients of several tasks become one update: a registry of methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from dtme_search.combine.aligned_mtl import aligned_mtl
from dtme_search.combine.base import CombineState, LossWeighting, Merged, Method, Seen, Weighted
from dtme_search.combine.cagrad import cagrad
from dtme_search.combine.dwa import DynamicWeightAverage
from dtme_search.combine.famo import Famo
from dtme_search.combine.graddrop import graddrop
from dtme_search.combine.gradnorm import GradNorm
from dtme_search.combine.imtl_g import imtl_g
from dtme_search.combine.mgda import mgda
from dtme_search.combine.nash_mtl import nash_mtl
from dtme_search.combine.pcgrad import pcgrad
from dtme_search.combine.rlw import RandomWeights
from dtme_search.combine.uncertainty import Learnt, OptimalUncertainty
from dtme_search.combine.upgrad import upgrad
from dtme_search.config import CombineConfig

__all__ = [
    "METHODS",
    "CombineState",
    "LossWeighting",
    "Merged",
    "Method",
    "Seen",
    "Setting",
    "Weighted",
    "build_method",
]


@dataclass(frozen=True)
class Setting:
    """What a method may be built from.

    Attributes:
        options: Section ``train.combine``.
        num_tasks: K, number of tasks of the run.
        window: Steps between two evaluations.
        device: Where losses are.
        draw: Step -> CPU generator, for methods that draw.
    """

    options: CombineConfig
    num_tasks: int
    window: int
    device: torch.device
    draw: Callable[[int], torch.Generator]


METHODS: dict[str, Callable[[Setting], Method]] = {
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
"""``train.combine.kind`` -> the method; a plain ``sum`` needs none."""


def build_method(setting: Setting) -> Method | None:
    """The method that a config chooses; ``None`` means a plain sum."""
    make = METHODS.get(setting.options.kind)
    return None if make is None else make(setting)
