"""The state of a run: all that a checkpoint, a snapshot and a resumed run share.

Every random draw of a run is a function of (seed, purpose, step), so nothing else is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from dtme_search.combine import Method
from dtme_search.config import RunConfig
from dtme_search.models import MultiTaskViT
from dtme_search.schedules import Schedule, build_schedule
from dtme_search.token_space import ConflictReport, ExpansionPlan
from dtme_search.training.average import WeightAverage
from dtme_search.training.combination import method_of, restore, state_of
from dtme_search.training.finetune import freeze_all_but
from dtme_search.training.identity import weights_follow_results
from dtme_search.training.loss_log import LossLog
from dtme_search.training.optimisation import build_optimizer, join_optimizer
from dtme_search.training.result import Evaluation, RunResult, StepCost
from dtme_search.training.runtime import Stopwatch, peak_memory_mb, precision

Saved = Mapping[str, Any]
"""A state in tensors and plain values, as returned by :meth:`RunState.to_saved`."""


@dataclass
class RunState:
    """The state of one run. It grows, is saved and is resumed here; otherwise only the trainer changes it.

    Attributes:
        config: The run.
        model: On the device of the run.
        optimizer: Of the model's parameters.
        schedule: Task weights by step.
        method: How tasks are combined; ``None`` means a plain sum.
        average: Average of the weights, if the run is measured by it.
        watch: Seconds by phase, over all restarts.
        step: Optimiser steps done.
        plan: The plan by which the model has grown; ``None`` before the growth.
        report: Conflicts, if they were measured.
        evaluations: So far.
        cost: Cost of the steps so far.
        loss_log: Losses since the last evaluation.
        steps_reused: Steps taken from a trunk.
        seconds_saved: What they took when they were trained.
        parts: Number of parts in which a batch goes through the network if memory is short.
        trained_parts: Parts of the shared network that train, once only some do; ``None`` before.
        active: Tasks that train in the current step.
    """

    config: RunConfig
    model: MultiTaskViT
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    method: Method | None
    average: WeightAverage | None
    watch: Stopwatch
    step: int = 0
    plan: ExpansionPlan | None = None
    report: ConflictReport | None = None
    evaluations: list[Evaluation] = field(default_factory=list)
    cost: StepCost = field(default_factory=StepCost)
    loss_log: LossLog = field(default_factory=LossLog)
    steps_reused: int = 0
    seconds_saved: float = 0.0
    parts: int = 1
    trained_parts: tuple[str, ...] | None = None
    grown_at: int | None = None
    active: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.active = self.tasks_of(self.step)

    @classmethod
    def at_start(cls, config: RunConfig, model: MultiTaskViT, device: torch.device, parts: int) -> RunState:
        """The state before the first step; ``model`` has not grown."""
        model = model.to(device)
        optimizer = build_optimizer(config.train, model, device)
        decay = config.train.ema
        return cls(
            config,
            model,
            optimizer,
            build_schedule(config),
            method=method_of(config, device),
            average=None if decay is None else WeightAverage(model, decay),
            watch=Stopwatch(device),
            parts=parts,
        )

    @property
    def num_passes(self) -> int:
        """Number of parts of a batch in a step: as configured, more if memory is short."""
        return self.parts * self.config.train.accumulate

    def tasks_of(self, step: int) -> tuple[str, ...]:
        """Tasks that train in the step after ``step`` steps."""
        return tuple(name for name, weight in self.schedule.weights(step).items() if weight > 0)

    @property
    def seconds_of_steps(self) -> float:
        """Seconds of training and evaluating so far, without measuring and writing."""
        self.watch.lap()
        return sum(self.watch.seconds.get(phase, 0.0) for phase in ("train", "evaluate"))

    def measured(self) -> AbstractContextManager[None]:
        """Inside, the model has the weights by which the run is measured."""
        return nullcontext() if self.average is None else self.average.shown()

    def train_only(self, parts: Sequence[str]) -> None:
        """From here on train only these parts of the shared network."""
        freeze_all_but(self.model, parts)
        self.trained_parts = tuple(parts)

    def grow(self, plan: ExpansionPlan) -> None:
        """Build a plan into the model; the new parameters join the optimiser."""
        settings = self.config.expansion
        added = self.model.grow(plan, token_std=settings.token_std, seed=self.config.seed)
        if settings.freeze_backbone and added:
            self.model.backbone.requires_grad_(False)
        if added:
            join_optimizer(self.optimizer, self.config.train, added, settings.lr_multiplier)
            if self.average is not None:
                self.average.join()
        self.plan = plan

    def to_saved(self) -> dict[str, Any]:
        """Tensors and plain values from which :meth:`resume` and :meth:`fork` continue."""
        self.watch.lap()
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.values,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state(),
            "combine": state_of(self.method),
            "grown_at": self.grown_at,
            "plan": None if self.plan is None else self.plan.to_json(),
            "report": None if self.report is None else self.report.to_json(),
            "evaluations": [asdict(evaluation) for evaluation in self.evaluations],
            "cost": asdict(self.cost),
            "losses": self.loss_log.state(),
            "seconds": self.watch.seconds,
            "steps_reused": self.steps_reused,
            "seconds_saved": self.seconds_saved,
            "parts": self.parts,
            "trained_parts": None if self.trained_parts is None else list(self.trained_parts),
        }

    def resume(self, saved: Saved) -> None:
        """Continue from an earlier state of the same run, on a new model."""
        if saved["plan"] is not None:
            self.report = None if saved["report"] is None else ConflictReport.from_json(saved["report"])
            self.grow(ExpansionPlan.from_json(saved["plan"]))
        self._load(saved)
        self.watch = Stopwatch(self.watch.device, saved["seconds"])
        self.steps_reused, self.seconds_saved = saved["steps_reused"], saved["seconds_saved"]
        self.parts = max(self.parts, saved.get("parts", 1))

    def fork(self, snapshot: Saved) -> None:
        """Continue from the state of another run with the same training so far, and count what that saves."""
        reused = snapshot["step"] - (self.step - self.steps_reused)
        self._load(snapshot)
        self.steps_reused = reused
        self.seconds_saved = max(0.0, snapshot["seconds_of_steps"] - self.seconds_of_steps)

    def _load(self, saved: Saved) -> None:
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.average is not None:
            self.average.restore(saved["average"])
        if weights_follow_results(self.config):
            self.schedule.restore(saved["schedule"])
        restore(self.method, saved.get("combine", {}))
        if saved.get("trained_parts") is not None:
            self.train_only(saved["trained_parts"])
        self.step, self.grown_at = saved["step"], saved.get("grown_at")
        self.active = self.tasks_of(max(0, self.step - 1))
        self.evaluations = [Evaluation(**evaluation) for evaluation in saved["evaluations"]]
        # A time unit measured in another process, on another device or at another time is not valid here.
        self.cost = replace(StepCost(**saved["cost"]), reference_seconds=None)
        self.loss_log.restore(saved["losses"])

    def result(self) -> RunResult:
        """What the run measured, once it has ended."""
        nothing = ExpansionPlan.empty(tuple(self.config.tasks), self.model.info.num_layers)
        return RunResult(
            evaluations=tuple(self.evaluations),
            plan=self.plan or nothing,
            report=self.report,
            total_steps=self.config.total_steps,
            steps_reused=self.steps_reused,
            seconds=dict(self.watch.seconds),
            seconds_saved=self.seconds_saved,
            cost=self.cost,
            peak_memory_mb=peak_memory_mb(self.watch.device),
            precision=precision(self.config.train, self.watch.device),
            parts=self.parts,
            plateau_step=self.schedule.plateau_step,
            trained_parts=self.trained_parts,
            grown_at=self.grown_at,
        )
