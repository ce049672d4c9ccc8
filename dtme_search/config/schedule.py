"""``schedule``: how the weight of auxiliary tasks changes, and what keeps training once they have stopped."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dtme_search.config.section import Fraction, OptionsByName, Section, one_of_parts

SCHEDULES = ("constant", "diminish", "switch", "inverse_gradient_norm", "fisher_trace")
"""Names of the built-in schedules."""
FIXED = ("constant", "diminish", "switch")
"""Those whose weights are known before a run."""
ADAPTIVE = ("inverse_gradient_norm", "fisher_trace")
"""Schedules whose weights follow gradients."""


class FinetuneConfig(Section):
    """Which parts of the shared network keep training once auxiliary tasks have stopped (ours)."""

    fraction: Fraction = 1.0
    """Share of the parts (embedding, every block, final norm) that keeps training; 1 = all."""
    selection: Literal["importance", "reversed", "random", "last"] = "importance"
    """Which parts: those most important for the primary tasks, or a control; last = nearest to the output."""
    importance: Literal["fisher_trace", "taylor", "magnitude"] = "fisher_trace"
    """Per parameter the mean of g^2, of the size of theta g, or of the size of g, over single images."""
    images: Annotated[int, Field(ge=1)] = 16
    """Training images on which that is measured."""
    parts: tuple[str, ...] = ()
    """The parts themselves, as an export writes them: embedding, block 0 and so on, norm."""


class ScheduleConfig(Section):
    """How the weight of auxiliary tasks changes (MT2ST, arXiv 2406.18038)."""

    kind: Annotated[str, one_of_parts(SCHEDULES)] = "constant"
    """constant: gamma = 1. diminish: exponential decay. switch: 1, then 0 and not computed at all.
    inverse_gradient_norm, fisher_trace: from gradients, loud tasks turned down (Eq. 13) or up (Eq. 14). Or
    your own (docs/plugins.md)."""
    options: OptionsByName = {}
    """Options of schedules of your own by their names; only those of the chosen one are read."""
    initial_weight: Annotated[float, Field(gt=0.0)] = 1.0
    """diminish: gamma at step 0."""
    half_life: Annotated[float, Field(gt=0.0)] | None = 0.5
    """diminish: fraction of training at which gamma has halved; empty when decay_rate is given."""
    decay_rate: Annotated[float, Field(gt=0.0)] | None = None
    """diminish: raw eta of the paper, per step; replaces half_life."""
    decay_power: Annotated[float, Field(ge=1.0)] = 1.0
    """diminish: nu of the paper."""
    switch_at: Fraction = 0.5
    """switch: fraction of training after which auxiliary tasks stop."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Stop auxiliary tasks when the primary metrics have not improved for this many evaluations on the
    hold-out, whatever the kind; not allowed in a final run."""
    stop_at: Fraction | None = None
    """Fraction of training after which auxiliary tasks stop, whatever the kind; an export writes what
    patience found."""
    total: Annotated[float, Field(gt=0.0)] | None = None
    """inverse_gradient_norm, fisher_trace: sum of all gamma; empty = the number of auxiliary tasks."""
    every: Annotated[int, Field(ge=1)] = 50
    """inverse_gradient_norm, fisher_trace: steps between gradient measurements; gamma is held between."""
    epsilon: Annotated[float, Field(ge=0.0)] = 1e-8
    """inverse_gradient_norm: added to the norms."""
    images: Annotated[int, Field(ge=1)] = 8
    """fisher_trace: images of the batch to measure on, each with its own gradient per task."""
    finetune: FinetuneConfig = FinetuneConfig()
    with_loss_weighting: bool = False
    """Allow gamma from gradients beside a train.combine.kind that weighs losses: one may undo the other."""

    @model_validator(mode="after")
    def _diminish_has_one_rate(self) -> Self:
        if self.kind == "diminish" and self.half_life is None and self.decay_rate is None:
            raise ValueError("kind diminish needs half_life or decay_rate, got neither")
        return self
