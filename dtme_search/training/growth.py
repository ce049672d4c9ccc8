"""The expansion step: measure conflicts, plan, and time what the growth costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dtme_search.config import RunConfig
from dtme_search.data import Batch, TaskData
from dtme_search.models import MultiTaskViT
from dtme_search.token_space import (
    ConflictReport,
    ExpansionPlan,
    measure_conflicts,
    plan_expansion,
)
from dtme_search.token_space.report import SIGNIFICANCE
from dtme_search.training.combination import Combination
from dtme_search.training.forward import TaskLosses, part_of
from dtme_search.training.gradient_statistics import compare_gradients
from dtme_search.training.losses import has_label
from dtme_search.training.result import Probe
from dtme_search.training.runtime import Stopwatch

PROBE_STEPS = 3
"""Passes timed before and after the growth to measure what a grown step costs."""

_WARMUP_SEED = 7919  # keeps the batches of the decoder warm-up different from those of the training


@dataclass(frozen=True)
class Growth:
    """The expansion step of one run. Measuring leaves the model exactly as it was.

    Attributes:
        config: The run.
        model: Not grown yet.
        data: Its data.
        losses: Task losses of the run.
        tasks: Tasks that train at this step; switched-off auxiliary tasks take no part.
        parts: Number of parts in which a batch goes through the network if memory is short.
    """

    config: RunConfig
    model: MultiTaskViT
    data: TaskData
    losses: TaskLosses
    tasks: tuple[str, ...]
    parts: int = 1

    @property
    def num_passes(self) -> int:
        """Number of parts in which a training batch goes through the network."""
        return self.parts * self.config.train.accumulate

    @property
    def needs_report(self) -> bool:
        """Whether the plan depends on conflicts."""
        return self.config.expansion.needs_conflicts

    def measure(self, on_progress: Callable[[str], None] = lambda _: None) -> ConflictReport:
        """Conflict report on training images without augmentation.

        The model is in evaluation mode [ours]: batch norm uses its running statistics, and there is no
        stochastic depth. So images do not influence each other, the report does not depend on the batch size,
        and the standard errors by image are valid.
        """
        settings = self.config.expansion

        def forward(batch: Batch) -> tuple[dict[str, Tensor], list[Tensor]]:
            predictions, layer_inputs = self.model.forward_with_layer_inputs(batch.images)
            return self.losses.of(predictions, batch, self.tasks), layer_inputs

        def labelled(batch: Batch) -> Tensor:
            specs = self.data.specs
            each = [has_label(specs[name], batch.targets[name], batch.valid[name]) for name in self.tasks]
            return torch.stack(each, dim=1)

        # Without compiled blocks, which refuse the backward pass per task that follows one forward pass.
        with torch.compiler.set_stance("force_eager"), untouched(self.model), ExitStack() as context:
            self._warm_up_decoders()
            self.model.eval()
            attended = context.enter_context(self.model.attended())
            report = measure_conflicts(
                lambda: self.data.analysis_batches(
                    settings.num_images, part_of(settings.analysis_batch_size, self.parts), self.config.seed
                ),
                forward,
                variance_ratio=settings.variance_ratio,
                first_token=self.model.backbone.first_shared_token,
                on_progress=lambda done, total: on_progress(f"measuring conflicts {done}/{total}"),
                labelled=labelled,
                attended=lambda: attended,
            )
            return replace(report, cosines=self._cosines()) if settings.compares_gradients else report

    def _cosines(self) -> Tensor:
        """Mean cosine of the gradients of each pair of tasks on the weights of each block, (D, pairs).

        Over single images; 0 for a pair of which no image has both gradients, or weights that do not train.
        """
        compared = compare_gradients(
            self.losses, self.tasks, self.config.expansion.num_images, self.config.seed
        )
        known = {
            (each.layer_group, each.task_a, each.task_b): each.cosine
            for each in compared
            if each.pair == "tasks"
        }
        pairs, num_layers = list(combinations(self.tasks, 2)), self.model.info.num_layers
        values = [known.get((f"block {layer}", *pair), 0.0) for layer in range(num_layers) for pair in pairs]
        return torch.tensor(values, dtype=torch.float64).reshape(num_layers, len(pairs))

    def plan(self, report: ConflictReport | None) -> ExpansionPlan:
        """Plan over the tasks that train; the others keep the shared stream."""
        return plan_for(self.config, report, self.tasks, self.model.info.num_layers)

    def probe(self, tasks: Sequence[str], combination: Combination | None = None) -> Probe:
        """Shortest time of a forward and backward pass of ``tasks`` on a training batch; changes nothing.

        Losses are summed, or combined by ``combination``.

        The shortest, because first allocations only ever make a pass slower. On the CPU these are processor
        seconds, because wall-clock time would include the work of other processes.
        """
        train = self.config.train
        batch = next(iter(self.data.train_batches(train.batch_size, self.config.seed + _WARMUP_SEED)))
        seconds, flops = [], 0
        clock = Stopwatch(self.data.device).now if self.data.device.type == "cuda" else time.process_time
        weights = dict.fromkeys(tasks, 1.0)
        with untouched(self.model), nullcontext() if combination is None else combination.rehearsal():
            for number in range(PROBE_STEPS):
                # The first pass is the slowest anyway, so use it to count operations.
                counter = FlopCounterMode(display=False) if number == 0 else nullcontext()
                started = clock()
                # Operations inside compiled blocks cannot be counted.
                eager = torch.compiler.set_stance("force_eager") if number == 0 else nullcontext()
                with eager, counter:
                    self._pass(batch, weights, combination)
                if isinstance(counter, FlopCounterMode):
                    flops = counter.get_total_flops()
                self.model.zero_grad(set_to_none=True)
                seconds.append(clock() - started)
        return Probe(min(seconds), flops)

    def _pass(self, batch: Batch, weights: Mapping[str, float], combination: Combination | None) -> None:
        if combination is None:
            self.losses.backward(batch, weights, self.num_passes)
        else:
            combination.backward(0, batch, weights, self.num_passes)
            combination.after_update(batch, self.num_passes)

    def _warm_up_decoders(self) -> None:
        """Train only the decoders, so that conflicts are not those of random decoders [ours]."""
        settings, train = self.config.expansion, self.config.train
        if settings.decoder_warmup_steps == 0:
            return
        optimizer = torch.optim.Adam(self.model.decoders.parameters(), lr=train.lr)
        batches = self.data.train_batches(train.batch_size, self.config.seed + _WARMUP_SEED)
        for _, batch in zip(range(settings.decoder_warmup_steps), batches, strict=False):
            optimizer.zero_grad(set_to_none=True)
            self.losses.backward(batch, dict.fromkeys(self.tasks, 1.0), self.num_passes)
            optimizer.step()


def waits(config: RunConfig, step: int, report: ConflictReport | None) -> bool:
    """Whether a run with ``expansion.start: auto`` does not grow at ``step`` yet [ours].

    It grows when Friedman's test tells layers apart in the range or the null space, at half the level each;
    at the last of its starts it grows anyway.
    """
    if config.expansion.start != "auto" or report is None or step >= config.growth_steps[-1]:
        return False
    return min(report.distinguishable("range"), report.distinguishable("null")) > SIGNIFICANCE / 2


def plan_for(
    config: RunConfig, report: ConflictReport | None, active: Sequence[str], num_layers: int
) -> ExpansionPlan:
    """Plan of a run over the tasks that are ``active`` at its expansion step; the others keep the stream."""
    everything = tuple(config.tasks)
    tasks = everything if config.expansion.policy == "fixed" else tuple(active)
    plan = plan_expansion(report, config.expansion, tasks, num_layers, config.seed)
    return replace(plan, tasks=everything)


def resolved_config(
    config: RunConfig,
    plan: ExpansionPlan,
    plateau_step: int | None = None,
    trained_parts: tuple[str, ...] | None = None,
    grown_at: int | None = None,
) -> RunConfig:
    """The run with everything it found out written down: it trains to the same model without measuring.

    Args:
        config: The run.
        plan: What it grew by.
        plateau_step: Step at which its auxiliary tasks were switched off early, if they were.
        trained_parts: Parts that kept training then, if they were chosen.
    """
    if trained_parts:
        finetune = config.schedule.finetune.model_copy(update={"parts": trained_parts})
        config = config.model_copy(
            update={"schedule": config.schedule.model_copy(update={"finetune": finetune})}
        )
    if config.schedule.patience is not None:
        schedule = config.schedule
        end = "switch_at" if schedule.kind == "switch" else "stop_at"
        planned = [
            getattr(schedule, end),
            None if plateau_step is None else plateau_step / config.total_steps,
        ]
        first = min((each for each in planned if each is not None), default=None)
        schedule = schedule.model_copy(update={"patience": None, end: first})
        config = config.model_copy(update={"schedule": schedule})
    if plan.is_empty:
        return config.unexpanded()
    config = config.grown_at(grown_at)
    expansion = config.expansion.model_copy(update={"policy": "fixed", "plan": plan.to_config()})
    return config.model_copy(update={"expansion": expansion})


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Restore the model: weights, running statistics and mode; gradients are dropped."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    was_training = model.training
    try:
        yield
    finally:
        model.load_state_dict(before)
        model.train(was_training)
        model.zero_grad(set_to_none=True)
