"""One training run from its first step to its last: train, grow, evaluate, checkpoint, resume.

The trainer does not depend on Optuna or SQL. It reports progress through callbacks, and an exception raised
in ``on_evaluate`` (a pruned trial) ends the run.
"""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import nn

from dtme_search.config import RunConfig
from dtme_search.data import Batch, TaskData
from dtme_search.models import MultiTaskViT, build_model
from dtme_search.token_space import ConflictReport, ExpansionPlan
from dtme_search.training.callbacks import Callbacks, Progress, TrainingInterrupted
from dtme_search.training.checkpoint import load_checkpoint, save_checkpoint
from dtme_search.training.choices import as_chosen
from dtme_search.training.combination import Combination, graphs_survive
from dtme_search.training.data_map import ImageScores, image_scores
from dtme_search.training.evaluation import check_scoring, evaluate, evaluation_steps
from dtme_search.training.finetune import choose_parts
from dtme_search.training.forward import TaskLosses, part_of
from dtme_search.training.gradient_sizes import fisher_traces, gradient_norms
from dtme_search.training.gradient_statistics import compare_gradients
from dtme_search.training.growth import Growth, waits
from dtme_search.training.identity import checkpoint_fingerprint
from dtme_search.training.optimisation import set_learning_rates
from dtme_search.training.result import Evaluation, Probe, RunResult
from dtme_search.training.runtime import forget_peak_memory, run_numerics
from dtme_search.training.sharing import Follower
from dtme_search.training.state import RunState
from dtme_search.training.step_seed import seed_step
from dtme_search.training.team.leader import Team
from dtme_search.training.trunk import Trunk

_log = logging.getLogger(__name__)

READ_LOSSES_EVERY = 20
"""Steps between two reads of the losses; each read waits for the device."""


class Trainer:
    """Trains one model according to its config.

    Without a hold-out the test split is measured once, at the end, and influences nothing.

    Args:
        config: The run.
        model: As built for this config, not grown yet.
        data: Data of the same tasks on the device of the run.
        folder: Where the checkpoint is kept; ``None`` writes none.
        callbacks: Called as the run proceeds.
        trunk: Unexpanded training shared with other runs; ``None`` trains every step here. On the CPU both
            give the same numbers bit for bit.
        parts: Number of parts in which a batch goes through the network if memory is short. If the checkpoint
            has a larger number, that is used. A run with its batches in parts adds nothing to the trunk.
        team: Devices that divide each batch among them, the one of ``data`` first; ``None`` if it is alone.

    Raises:
        ConfigError: If the batches cannot be divided, or the test split would influence the training.

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
        folder: str | Path | None = None,
        callbacks: Callbacks | None = None,
        trunk: Trunk | None = None,
        parts: int = 1,
        team: Team | None = None,
    ) -> None:
        check_scoring(config, data.scoring_split)
        self.team = None if team is None or team.size == 1 else team
        if self.team is not None:
            self.team.check(config)
        self.config = config
        self.data = data = as_chosen(data, config)
        self.callbacks = callbacks or Callbacks()
        self.trunk = trunk
        self.fingerprint = checkpoint_fingerprint(config, data.fingerprint)
        self.split = data.scoring_split
        self.checkpoint_path = None if folder is None else Path(folder) / "checkpoint.pt"
        self.state = RunState.at_start(config, model, data.device, parts)
        self.losses = TaskLosses(config.train, self.model, data)
        shared = TaskLosses(config.train, self.model, data, self.team)
        self.combination = Combination(config, shared, self.state.method)
        self._last_saved = 0.0
        self._not_yet: int | None = None  # a start at which the run found that it waits

    @property
    def model(self) -> MultiTaskViT:
        """The model of the run, as far as it is trained; after the run with the averaged weights, if any."""
        return self.state.model

    @classmethod
    def of_config(
        cls,
        config: RunConfig,
        data: TaskData,
        *,
        folder: str | Path | None = None,
        callbacks: Callbacks | None = None,
        trunk: Trunk | None = None,
        parts: int = 1,
        team: Team | None = None,
    ) -> Trainer:
        """The trainer of a run with the model that its config describes."""
        model = build_model(
            config.model,
            data.specs,
            data.image_size,
            seed=config.seed,
            output_means=data.target_means(),
            plugins=config.plugins,
        )
        return cls(
            config, model, data, folder=folder, callbacks=callbacks, trunk=trunk, parts=parts, team=team
        )

    def run(self) -> RunResult:
        """Train to the end, starting from the checkpoint if there is one.

        Raises:
            DivergedError: If a loss is no longer finite.
            TrainingInterrupted: If ``should_stop`` returned true; a checkpoint was written.
        """
        forget_peak_memory(self.data.device)
        helped = nullcontext() if self.team is None else self.team.helping(self.config, self.model, self.data)
        with run_numerics(self.config.train, self.data.device), graphs_survive(self.config), helped:
            self._resume()
            if self.config.train.compile:
                self.model.compile_blocks()
            self.model.train()
            with self.state.watch.phase("train"):
                self._last_saved = time.monotonic()
                self._share()
                self._train_until(self.config.total_steps)
            if self.state.average is not None:
                self.state.average.settle()
            return self.state.result()

    def _resume(self) -> None:
        if self.checkpoint_path is None:
            return
        saved = load_checkpoint(self.checkpoint_path, self.fingerprint, self.data.device)
        if saved is None:
            return
        self.state.resume(saved)
        self.callbacks.on_reuse(self.state.steps_reused, self.state.seconds_saved)
        if self.state.plan is not None:
            self.callbacks.on_expand(self.state.plan, self.state.report)
        _log.info("resumed at step %d of %d", self.state.step, self.config.total_steps)

    def _share(self) -> None:
        """Train on the trunk as long as the network is unexpanded, which may be to the end."""
        if self.trunk is None:
            return
        trunk = Follower(self.trunk, self.state, self.callbacks, self._train_until)
        end = self.config.total_steps
        for step in self.config.growth_steps or (end,):
            if self.state.plan is None:
                trunk.follow(step)
                if self.state.step == step < end:
                    self._begin_step()
        if self.state.plan is not None and self.state.plan.is_empty:
            trunk.follow(end)

    def _train_until(self, step: int) -> None:
        if self.state.step >= step:
            return
        train, steps = self.config.train, evaluation_steps(self.config, self.split)
        for batch in self.data.train_batches(train.batch_size, self.config.seed, self.state.step):
            self._begin_step()
            self._train_step(batch)
            if self.state.step in steps:
                self._evaluate()
            self._save_or_stop()
            if self.state.step == step:
                return

    def _save_or_stop(self) -> None:
        """Write a checkpoint if it is due, the end is reached or the owner wants to stop."""
        step, end = self.state.step, self.config.total_steps
        stop = self.callbacks.should_stop() and step != end
        waited = time.monotonic() - self._last_saved
        if step == end or stop or waited >= self.config.train.checkpoint_seconds:
            self.save()
            self._last_saved = time.monotonic()
        if stop:
            raise TrainingInterrupted(f"stopped at step {step} of {end}")

    def save(self) -> None:
        """Write the checkpoint (if the run has a folder)."""
        if self.checkpoint_path is None:
            return
        with self.state.watch.phase("checkpoint"):
            save_checkpoint(self.checkpoint_path, self.fingerprint, self.state.to_saved())

    def _begin_step(self) -> None:
        """Grow if it is time, and measure the cost of a step wherever that changes."""
        state = self.state
        may_grow = state.step in self.config.growth_steps and state.plan is None
        grows = may_grow and state.step != self._not_yet
        active = state.tasks_of(state.step)
        # The unit of cost is a step with a plain sum of losses; other methods cost more from the start.
        begins = state.step == 0 and state.plan is None and not self.combination.is_plain
        stops = self._stops(active)
        if not grows and not begins and not stops and active == state.active:
            return
        with state.watch.phase("measure"):
            growth = Growth(self.config, self.model, self.data, self.losses, active, state.parts)
            plan = self._plan_expansion(growth) if grows else None
            grows = plan is not None
            changes = begins or stops or active != state.active or (plan is not None and not plan.is_empty)
            reference = state.cost.reference
            if changes and (reference is None or grows):
                reference = self._reference(growth)
            if plan is not None:
                self._look_at_gradients(active)
                state.grow(plan)
                self._look_at_gradients(active)
            if stops:
                settings = self.config.schedule.finetune
                state.train_only(choose_parts(self.losses, active, settings, self.config.seed))
            if changes and reference is not None:
                probe = growth.probe(active, self.combination)
                state.cost = state.cost.entering(state.step, probe, reference)
        state.active = active

    def _stops(self, active: tuple[str, ...]) -> bool:
        """Whether only the most important parts train from this step on."""
        if not self.config.finetunes or self.state.trained_parts is not None:
            return False
        return not set(active) & set(self.config.auxiliary_tasks)

    def _reference(self, growth: Growth) -> Probe:
        """Seconds of a step of the unexpanded model with all tasks, on this device and at this time."""
        state = self.state
        if (state.plan is None or state.plan.is_empty) and state.trained_parts is None:
            return growth.probe(tuple(self.config.tasks))
        # The run came from another device after its growth: the cost of its steps in this unit is known.
        probe, cost = growth.probe(state.active, self.combination), state.cost
        return Probe(probe.seconds / cost.phases[-1][1], round(probe.flops / cost.flops[-1][1]))

    def _plan_expansion(self, growth: Growth) -> ExpansionPlan | None:
        """The plan; ``None`` if it is better to wait for a later start."""
        seed_step(self.config, self.state.step)
        report = self._conflicts(growth) if growth.needs_report else None
        if waits(self.config, self.state.step, report):
            self._not_yet = self.state.step
            return None
        self.state.report, self.state.grown_at = report, self.state.step
        plan = growth.plan(report)
        self.callbacks.on_expand(plan, self.state.report)
        return plan

    def _conflicts(self, growth: Growth) -> ConflictReport:
        def measure() -> ConflictReport:
            return growth.measure(self._tell_progress)

        if self.trunk is None or self.state.parts > 1:
            return measure()
        report, seconds = self.trunk.report(self.state.step, growth.tasks, measure)
        self.state.seconds_saved += seconds
        return report

    def _train_step(self, batch: Batch) -> None:
        state, train = self.state, self.config.train
        if state.step % (train.statistics.every or self.config.total_steps) == 0:
            with state.watch.phase("measure"):
                self._look_at_gradients(state.active)
        seed_step(self.config, state.step)
        self._refresh_weights(batch)
        weights = state.schedule.weights(state.step)
        set_learning_rates(state.optimizer, state.step, self.config.total_steps, train)
        state.optimizer.zero_grad(set_to_none=True)
        of_active = {name: weights[name] for name in state.active}
        losses = self.combination.backward(state.step, batch, of_active, state.num_passes)
        if train.grad_clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), train.grad_clip)
        state.optimizer.step()
        if state.average is not None:
            state.average.update(state.step)
        self.combination.after_update(batch, state.num_passes)
        state.loss_log.record(state.step, losses)
        state.step += 1
        if state.step % READ_LOSSES_EVERY == 0:
            state.loss_log.read()
            self._tell_progress()

    def _refresh_weights(self, batch: Batch) -> None:
        """Measure what the schedule needs to know before this step."""
        state = self.state
        wanted = state.schedule.wants(state.step)
        if wanted is None:
            return
        tasks = [name for name in self.config.auxiliary_tasks if name in state.active]
        # One graph serves a backward pass per task, which compiled blocks may refuse.
        with torch.compiler.set_stance("force_eager"):
            if wanted == "gradient_norm":
                sizes = gradient_norms(self.losses, batch, tasks, state.num_passes)
            else:
                sizes = fisher_traces(self.losses, batch, tasks, self.config.schedule.images)
        state.schedule.refresh(sizes)

    def _look_at_gradients(self, tasks: tuple[str, ...]) -> None:
        settings, state = self.config.train.statistics, self.state
        if settings.every is None or len(tasks) == 1:
            return
        seen = compare_gradients(self.losses, tasks, settings.images, self.config.seed)
        grown = state.plan is not None and not state.plan.is_empty
        self.callbacks.on_gradients(state.step, grown, seen)

    def _tell_progress(self, note: str = "") -> None:
        state = self.state
        self.callbacks.on_progress(Progress(state.step, self.config.total_steps, state.loss_log.latest, note))

    def _evaluate(self) -> None:
        state = self.state
        losses = state.loss_log.take_means()
        with state.watch.phase("evaluate"), state.measured():
            size = part_of(self.config.train.eval_batch_size, state.parts)
            train = self.config.train.model_copy(update={"eval_batch_size": size})
            metrics = evaluate(self.model, self.data, self.split, train, state.active)
            images, seed = train.statistics.map_images, self.config.data.holdout_seed
            kept = ImageScores()
            if images:
                kept = image_scores(self.model, self.data, state.active, train, images, seed)
        evaluation = Evaluation(state.step, metrics, losses, kept.scores, kept.hits)
        primary = [self.data.specs[name] for name in self.config.primary_tasks]
        state.schedule.observe(state.step, evaluation.improves(state.evaluations, primary))
        state.evaluations.append(evaluation)
        self.callbacks.on_evaluate(evaluation)
        shown = (f"{name} {self.data.specs[name].display(value)}" for name, value in metrics.items())
        self._tell_progress(f"evaluated: {', '.join(shown)}")
