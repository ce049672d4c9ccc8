"""One training run from its first step to its last: train, grow, evaluate, checkpoint, resume.

The trainer knows nothing of Optuna or SQL. Whoever runs it hears of progress through callbacks, and an
exception raised in ``on_evaluate`` (a pruned trial) ends the run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dtme_search.config import RunConfig, run_fingerprint
from dtme_search.data import Batch, Purpose, Split, TaskData, make_generator
from dtme_search.models import MultiTaskViT, build_model
from dtme_search.schedules import build_schedule
from dtme_search.token_space import ConflictReport, ExpansionPlan
from dtme_search.training.checkpoint import load_checkpoint, save_checkpoint
from dtme_search.training.evaluation import Evaluation, evaluate
from dtme_search.training.forward import TaskLosses
from dtme_search.training.growth import Growth, StepCost
from dtme_search.training.identity import weights_follow_results
from dtme_search.training.loss_log import LossLog
from dtme_search.training.memory import part_of
from dtme_search.training.optimisation import build_optimizer, join_optimizer, learning_rate_factor
from dtme_search.training.runtime import Stopwatch, peak_memory_mb, precision, run_numerics
from dtme_search.training.trunk import Snapshot, Trunk

_log = logging.getLogger(__name__)

READ_LOSSES_EVERY = 20
"""Steps between two looks at the losses; each look waits for the device."""


class TrainingInterrupted(Exception):
    """The run was asked to stop; its checkpoint is on disk and the same call resumes it."""


@dataclass(frozen=True)
class Progress:
    """A sign of life: steps done of all steps, and the latest losses by task."""

    step: int
    total_steps: int
    losses: Mapping[str, float]
    note: str = ""


@dataclass(frozen=True)
class RunResult:
    """Everything a finished run measured.

    Attributes:
        evaluations: All evaluations; the last one is the result.
        plan: What was built; an empty plan if nothing was.
        report: Conflicts as measured, ``None`` when nothing had to be measured.
        seconds: Seconds per phase (``train``, ``evaluate``, ``measure``, ``checkpoint``), over all restarts.
        steps_reused: Steps that came from a trunk and were not trained for this run.
        seconds_saved: What those steps, and a conflict report that was known, took when they were paid for.
        cost: What a step cost, in units of a step of the unexpanded model with all tasks.
        peak_memory_mb: Largest memory, as :func:`peak_memory_mb` counts it.
        precision: ``float32`` or ``bfloat16``.
        parts: In how many parts a batch went through the network at the end; 1 unless memory was short.
    """

    evaluations: tuple[Evaluation, ...]
    plan: ExpansionPlan
    report: ConflictReport | None
    total_steps: int
    steps_reused: int
    seconds: Mapping[str, float]
    seconds_saved: float
    cost: StepCost
    peak_memory_mb: float
    precision: str
    parts: int = 1

    @property
    def metrics(self) -> Mapping[str, float]:
        """Metrics of the last evaluation."""
        return self.evaluations[-1].metrics

    @property
    def step_cost_ratio(self) -> float:
        """Mean cost of the run's steps in units of an unexpanded step."""
        return self.cost.mean(self.total_steps)

    @property
    def seconds_per_step(self) -> float:
        """Mean training seconds of a step that was trained here."""
        return self.seconds.get("train", 0.0) / max(1, self.total_steps - self.steps_reused)


@dataclass(frozen=True)
class Callbacks:
    """What a run tells its owner. ``on_expand`` (called before the growth) and ``on_evaluate`` may raise to
    end the run; ``on_reuse`` hears the steps taken over from a trunk and the seconds that saved."""

    on_progress: Callable[[Progress], None] = lambda _: None
    on_expand: Callable[[ExpansionPlan, ConflictReport | None], None] = lambda _plan, _report: None
    on_evaluate: Callable[[Evaluation], None] = lambda _: None
    on_reuse: Callable[[int, float], None] = lambda _steps, _seconds: None
    should_stop: Callable[[], bool] = lambda: False


class Trainer:
    """Trains one model as its config says.

    Every random draw is a function of (seed, purpose, step), so the state of a run is the model, the
    optimiser, the schedule and the step, nothing else.

    Args:
        config: The run.
        model: As built for this config, not grown yet.
        data: Data of the same tasks on the device of the run.
        folder: Where the checkpoint lives; ``None`` writes none.
        callbacks: Who hears of what happens.
        trunk: Unexpanded training shared with other runs; ``None`` trains every step here. On the CPU both
            give the same numbers bit for bit.
        parts: In how many parts a batch goes through the network, where memory is short. A run whose
            checkpoint says more takes that; one in parts gives nothing to the trunk.

    Example:
        >>> data = build_data(config.data, tuple(config.tasks), device)     # doctest: +SKIP
        >>> Trainer.of_config(config, data).run().metrics     # doctest: +SKIP
        {'semseg': 0.31, 'depth': 0.92}
    """

    def __init__(
        self,
        config: RunConfig,
        model: MultiTaskViT,
        data: TaskData,
        *,
        folder: Path | None = None,
        callbacks: Callbacks | None = None,
        trunk: Trunk | None = None,
        parts: int = 1,
    ) -> None:
        self.config = config
        self.data = data
        self.device = data.device
        self.model = model.to(self.device)
        self.callbacks = callbacks or Callbacks()
        self.trunk = trunk
        self.parts = parts
        self.fingerprint = run_fingerprint(config, data.fingerprint)
        self.split: Split = "holdout" if data.splits.holdout else "test"
        self.checkpoint_path = None if folder is None else folder / "checkpoint.pt"
        self.schedule = build_schedule(config)
        self.losses = TaskLosses(config.train, self.model, data)
        self.optimizer = build_optimizer(config.train, model, self.device)
        self.watch = Stopwatch(self.device)
        self.step = 0
        self.plan: ExpansionPlan | None = None
        self.report: ConflictReport | None = None
        self.evaluations: list[Evaluation] = []
        self.cost = StepCost()
        self.steps_reused = 0
        self.seconds_saved = 0.0
        self._last_saved = 0.0
        self._active = self._active_tasks(0)
        self.loss_log = LossLog()

    @classmethod
    def of_config(
        cls,
        config: RunConfig,
        data: TaskData,
        *,
        folder: Path | None = None,
        callbacks: Callbacks | None = None,
        trunk: Trunk | None = None,
        parts: int = 1,
    ) -> Trainer:
        """The trainer of a run with the model that its config describes."""
        model = build_model(
            config.model, data.specs, data.image_size, seed=config.seed, output_means=data.target_means()
        )
        return cls(config, model, data, folder=folder, callbacks=callbacks, trunk=trunk, parts=parts)

    def run(self) -> RunResult:
        """Train to the end, from the checkpoint if there is one.

        Raises:
            DivergedError: If a loss is not finite any more.
            TrainingInterrupted: If ``should_stop`` said so; a checkpoint was written.
        """
        with run_numerics(self.config.train, self.device):
            self._resume()
            if self.config.train.compile:
                self.model.compile_blocks()
            self.model.train()
            with self.watch.phase("train"):
                self._train_to_the_end()
            return self._result()

    def _train_to_the_end(self) -> None:
        self._last_saved = time.monotonic()
        if self.trunk is not None:
            self._share(self.trunk)
        self._train_until(self.config.total_steps)

    def _share(self, trunk: Trunk) -> None:
        """Train on the trunk as long as the network is the unexpanded one, which may be to the end."""
        growth, end = self.config.expansion_step, self.config.total_steps
        if self.plan is None:
            self._follow(trunk, end if growth is None else growth)
            if self.step == growth:
                self._begin_step()
        if self.plan is not None and self.plan.is_empty:
            self._follow(trunk, end)

    def _follow(self, trunk: Trunk, until: int) -> None:
        """Come to the last step of the trunk up to ``until`` on stretches shared with other runs."""
        for step in trunk.steps(self.step, until):
            with trunk.claim(step) as snapshot:
                if snapshot is not None:
                    self._fork(snapshot)
                    continue
                begun_at, before = self.step, self._seconds_of_steps()
                self._train_until(step)
                if self.parts > 1:
                    continue
                seconds = self._seconds_of_steps() - before
                content = self._content() | {"seconds_of_steps": self.seconds_saved + before + seconds}
                trunk.keep(step, begun_at, seconds, content)

    def _train_until(self, step: int) -> None:
        if self.step >= step:
            return
        train = self.config.train
        for batch in self.data.train_batches(train.batch_size, self.config.seed, self.step):
            self._begin_step()
            self._train_step(batch)
            if self.step in self._evaluation_steps:
                self._evaluate()
            finished = self.step == self.config.total_steps
            stop = self.callbacks.should_stop() and not finished
            if finished or stop or time.monotonic() - self._last_saved >= train.checkpoint_seconds:
                self.save()
                self._last_saved = time.monotonic()
            if stop:
                raise TrainingInterrupted(f"stopped at step {self.step} of {self.config.total_steps}")
            if self.step == step:
                return

    def _seconds_of_steps(self) -> float:
        self.watch.lap()
        return sum(self.watch.seconds.get(phase, 0.0) for phase in ("train", "evaluate"))

    def save(self) -> None:
        """Write the checkpoint (if the run has a folder)."""
        if self.checkpoint_path is None:
            return
        with self.watch.phase("checkpoint"):
            self.watch.lap()
            save_checkpoint(self.checkpoint_path, self.fingerprint, self._content())

    def _content(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state(),
            "plan": None if self.plan is None else self.plan.to_json(),
            "report": None if self.report is None else self.report.to_json(),
            "evaluations": [asdict(evaluation) for evaluation in self.evaluations],
            "cost": asdict(self.cost),
            "losses": self.loss_log.state(),
            "seconds": self.watch.seconds,
            "steps_reused": self.steps_reused,
            "seconds_saved": self.seconds_saved,
            "parts": self.parts,
        }

    def _resume(self) -> None:
        if self.checkpoint_path is None:
            return
        saved = load_checkpoint(self.checkpoint_path, self.fingerprint, self.device)
        if saved is None:
            return
        if saved["plan"] is not None:
            self.report = None if saved["report"] is None else ConflictReport.from_json(saved["report"])
            self._grow(ExpansionPlan.from_json(saved["plan"]))
        self._restore(saved)
        self.watch = Stopwatch(self.device, saved["seconds"])
        self.steps_reused, self.seconds_saved = saved["steps_reused"], saved["seconds_saved"]
        self.parts = max(self.parts, saved.get("parts", 1))
        self.callbacks.on_reuse(self.steps_reused, self.seconds_saved)
        _log.info("resumed at step %d of %d", self.step, self.config.total_steps)

    def _fork(self, snapshot: Snapshot) -> None:
        """Go on from the state of another run; what it evaluated is told as if it had happened here."""
        known = len(self.evaluations)
        reused = snapshot["step"] - (self.step - self.steps_reused)
        self._restore(snapshot)
        # A unit of time measured in another process, at another hour, is none here.
        self.cost = replace(self.cost, reference_seconds=None)
        self.steps_reused = reused
        self.seconds_saved = max(0.0, snapshot["seconds_of_steps"] - self._seconds_of_steps())
        self.callbacks.on_reuse(self.steps_reused, self.seconds_saved)
        for evaluation in self.evaluations[known:]:
            self.callbacks.on_evaluate(evaluation)
        _log.info("took over the trunk up to step %d of %d", self.step, self.config.total_steps)

    def _restore(self, saved: Snapshot) -> None:
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if weights_follow_results(self.config):
            self.schedule.restore(saved["schedule"])
        self.step = saved["step"]
        self._active = self._active_tasks(max(0, self.step - 1))
        self.evaluations = [Evaluation(**evaluation) for evaluation in saved["evaluations"]]
        self.cost = StepCost(**saved["cost"])
        self.loss_log.restore(saved["losses"])

    def _train_step(self, batch: Batch) -> None:
        train = self.config.train
        weights = self.schedule.weights(self.step)
        active = self._active_tasks(self.step)
        factor = learning_rate_factor(self.step, self.config.total_steps, train)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        self._seed_step()
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.losses.backward(batch, {name: weights[name] for name in active}, self.parts)
        if train.grad_clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), train.grad_clip)
        self.optimizer.step()
        self.loss_log.record(self.step, losses)
        self.step += 1
        if self.step % READ_LOSSES_EVERY == 0:
            self.loss_log.read()
            self._tell_progress()

    def _active_tasks(self, step: int) -> tuple[str, ...]:
        return tuple(name for name, weight in self.schedule.weights(step).items() if weight > 0)

    def _tell_progress(self, note: str = "") -> None:
        self.callbacks.on_progress(Progress(self.step, self.config.total_steps, self.loss_log.latest, note))

    def _seed_step(self) -> None:
        """Make stochastic depth a function of the step, not of what was drawn before it."""
        if self.config.model.drop_path > 0:
            seed = make_generator(
                torch.device("cpu"), self.config.seed, Purpose.STEP, self.step
            ).initial_seed()
            torch.manual_seed(seed)

    def _begin_step(self) -> None:
        """Grow if it is time, and measure what a step costs wherever that changes."""
        grows = self.step == self.config.expansion_step and self.plan is None
        active = self._active_tasks(self.step)
        if not grows and active == self._active:
            return
        with self.watch.phase("measure"):
            growth = Growth(self.config, self.model, self.data, self.losses, active, self.parts)
            plan = self._plan_expansion(growth) if grows else None
            changes = active != self._active or (plan is not None and not plan.is_empty)
            reference = self.cost.reference_seconds
            if changes and (reference is None or grows):
                reference = growth.probe_seconds(tuple(self.config.tasks))
            if plan is not None:
                self._grow(plan)
            if changes and reference is not None:
                ratio = growth.probe_seconds(active) / reference
                self.cost = self.cost.entering(self.step, ratio, reference)
        self._active = active

    def _plan_expansion(self, growth: Growth) -> ExpansionPlan:
        self._seed_step()
        if growth.needs_report:
            self.report = self._conflicts(growth)
        plan = growth.plan(self.report)
        self.callbacks.on_expand(plan, self.report)
        return plan

    def _conflicts(self, growth: Growth) -> ConflictReport:
        def measure() -> ConflictReport:
            return growth.measure(self._tell_progress)

        if self.trunk is None or self.parts > 1:
            return measure()
        report, seconds = self.trunk.report(self.step, growth.tasks, measure)
        self.seconds_saved += seconds
        return report

    def _grow(self, plan: ExpansionPlan) -> None:
        settings = self.config.expansion
        added = self.model.grow(plan, token_std=settings.token_std, seed=self.config.seed)
        if settings.freeze_backbone and added:
            self.model.backbone.requires_grad_(False)
        if added:
            join_optimizer(self.optimizer, self.config.train, added, settings.lr_multiplier)
        self.plan = plan

    @property
    def _evaluation_steps(self) -> set[int]:
        total, count = self.config.total_steps, self.config.train.num_evaluations
        return {max(1, round(total * (index + 1) / count)) for index in range(count)}

    def _evaluate(self) -> None:
        losses = self.loss_log.take_means()
        active = self._active_tasks(self.step - 1)
        with self.watch.phase("evaluate"):
            size = part_of(self.config.train.eval_batch_size, self.parts)
            train = self.config.train.model_copy(update={"eval_batch_size": size})
            metrics = evaluate(self.model, self.data, self.split, train, active)
        evaluation = Evaluation(self.step, metrics, losses)
        self.schedule.observe(self.step, self._improved(evaluation))
        self.evaluations.append(evaluation)
        self.callbacks.on_evaluate(evaluation)

    def _improved(self, new: Evaluation) -> bool:
        """Whether any primary metric is better than in every evaluation before."""
        for name in self.config.primary_tasks:
            sign = 1.0 if self.data.specs[name].higher_is_better else -1.0
            before = [sign * old.metrics[name] for old in self.evaluations]
            if not before or sign * new.metrics[name] > max(before):
                return True
        return False

    def _result(self) -> RunResult:
        total = self.config.total_steps
        plan = self.plan or ExpansionPlan.empty(tuple(self.config.tasks), self.model.info.num_layers)
        return RunResult(
            evaluations=tuple(self.evaluations),
            plan=plan,
            report=self.report,
            total_steps=total,
            steps_reused=self.steps_reused,
            seconds=dict(self.watch.seconds),
            seconds_saved=self.seconds_saved,
            cost=self.cost,
            peak_memory_mb=peak_memory_mb(self.device),
            precision=precision(self.config.train, self.device),
            parts=self.parts,
        )
