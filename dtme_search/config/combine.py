"""``train.combine``: how the losses or the gradients of several tasks become one update."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from dtme_search.config.section import Fraction, OptionsByName, Section, one_of_parts

KINDS = (
    "sum",
    "uncertainty",
    "optimal_uncertainty",
    "imtl_l",
    "dwa",
    "rlw",
    "famo",
    "gradnorm",
    "pcgrad",
    "cagrad",
    "mgda",
    "imtl_g",
    "aligned_mtl",
    "nash_mtl",
    "graddrop",
    "upgrad",
)
"""Names of the built-in ways to combine."""
OPTIONS: dict[str, tuple[str, ...]] = {
    "uncertainty": ("lr",),
    "imtl_l": ("lr",),
    "dwa": ("temperature", "window"),
    "famo": ("lr", "decay"),
    "gradnorm": ("lr", "alpha"),
    "cagrad": ("radius",),
    "nash_mtl": ("max_norm",),
    "graddrop": ("leak",),
}
"""What each kind reads beside its name; the others read nothing."""
WEIGH_LOSSES = ("uncertainty", "optimal_uncertainty", "imtl_l", "dwa", "rlw", "famo", "gradnorm")
"""Kinds whose result is a weight per loss."""
MOST_TASKS: dict[str, int] = {"mgda": 12, "cagrad": 12, "upgrad": 12}
"""Kinds that look at every subset of the tasks."""


class StatisticsConfig(Section):
    """What is measured during training without changing results or fingerprints."""

    every: Annotated[int, Field(ge=1)] | None = None
    """Steps between two gradient measurements, besides one right before and one right after the growth; empty
    = none."""
    images: Annotated[int, Field(ge=1)] = 8
    """Training images per gradient measurement; it costs this many gradients per task, one per image."""
    map_images: Annotated[int, Field(ge=2, le=4096)] | None = None
    """Training images scored at each evaluation, to compare which are hard for which task; empty = none."""


class CombineConfig(Section):
    """How losses or gradients of the tasks are combined; task weights and schedules multiply afterwards."""

    kind: Annotated[str, one_of_parts(KINDS)] = "sum"
    """sum: plain. uncertainty to gradnorm weigh losses, pcgrad to upgrad combine gradients (docs). Or your
    own (docs/plugins.md)."""
    options: OptionsByName = {}
    """Options of ways of your own by their names; only those of the chosen one are read."""
    lr: Annotated[float, Field(gt=0.0)] = 0.025
    """uncertainty, imtl_l, famo, gradnorm: constant learning rate (Adam) of the learnt weights."""
    temperature: Annotated[float, Field(gt=0.0)] = 2.0
    """dwa: T of the paper; large values mean equal weights."""
    window: Annotated[int, Field(ge=1)] | None = None
    """dwa: steps over which losses are averaged; empty = the steps between two evaluations."""
    decay: Annotated[float, Field(ge=0.0)] = 1e-3
    """famo: gamma of the paper, which pulls the weights back towards equal ones."""
    alpha: Annotated[float, Field(ge=0.0)] = 1.5
    """gradnorm: how strongly tasks that learn slowly are pushed."""
    radius: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.4
    """cagrad: c of the paper, how far the update may be from the mean gradient, relative to its length."""
    max_norm: Annotated[float, Field(gt=0.0)] = 1.0
    """nash_mtl: longest update of the shared parameters."""
    leak: Fraction = 0.0
    """graddrop: share of the dropped gradient entries that is let through."""
