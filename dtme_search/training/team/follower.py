"""The process of a follower, ``python -m dtme_search.training.team.follower``; only a leader starts it."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from dtme_search.config import DataConfig, RunConfig
from dtme_search.data import Batch, TaskData, build_data
from dtme_search.errors import TrainingError
from dtme_search.models import MultiTaskViT, build_model
from dtme_search.token_space import ExpansionPlan
from dtme_search.training.choices import as_chosen
from dtme_search.training.combination import graphs_survive
from dtme_search.training.forward import TaskLosses
from dtme_search.training.memory import free_memory, is_out_of_memory
from dtme_search.training.runtime import run_numerics
from dtme_search.training.step_seed import seed_step
from dtme_search.training.task_gradients import task_gradients
from dtme_search.training.task_norms import TaskNorms
from dtme_search.training.team import exchange
from dtme_search.training.team.job import Job
from dtme_search.training.team.messages import GO, HERE, READY, Begin, Failed, Shape, Task

_LOOK_EVERY = 1.0
"""Seconds between two looks whether the leader still lives."""


class Follower:
    """Computes its share of the batches of one run after the other.

    Args:
        connection: To the leader.
        rank: Its number, from 1.
        size: Number of devices.
        device: Where it computes.
    """

    def __init__(self, connection: Connection[Any, Any], rank: int, size: int, device: torch.device) -> None:
        self.connection = connection
        self.rank = rank
        self.size = size
        self.device = device
        self._known: tuple[tuple[DataConfig, bool], TaskData] | None = None
        self._run: _Run | None = None
        self._statistics: exchange.RunningStatistics | None = None

    def serve(self) -> None:
        """Do what the leader asks for, until it has nothing more to say."""
        with ExitStack() as numerics:
            while True:
                try:
                    message = self.connection.recv()
                    if isinstance(message, Begin):
                        numerics.close()
                        self._begin(message)
                        numerics.enter_context(run_numerics(message.config.train, self.device))
                        numerics.enter_context(graphs_survive(message.config))
                        self.connection.send(HERE)
                        exchange.meet(message.meeting, self.rank, self.size, self.device)
                    else:
                        self._work(message)
                except (EOFError, ConnectionError):
                    return
                except Exception as error:
                    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                    self.connection.send(Failed(reason, is_out_of_memory(error)))

    def begin(self, step: int) -> None:
        """The leader says which step it is."""

    def ask(self, job: Job) -> None:
        """Only the leader asks."""

    def skip(self, num_images: int) -> None:
        """Make the random draws of a part that another device computes."""
        assert self._run is not None
        self._run.losses.model.draw_for(num_images)

    def total(self, found: Sequence[Tensor]) -> list[Tensor]:
        """Send what this one has found, once everybody is ready."""
        assert self._statistics is not None
        self.connection.send(READY)
        if self.connection.recv() != GO:
            raise EOFError
        exchange.add_up(found)
        self._statistics.put_together(self.rank, self.size)
        return list(found)

    def _begin(self, message: Begin) -> None:
        exchange.part()
        self._run = None
        free_memory(self.device)
        torch.set_num_threads(message.threads)
        config, data = message.config, self._data(message)
        if data.fingerprint != message.data:
            raise TrainingError(
                f"its data must be those of the leader ({message.data}), got {data.fingerprint}. "
                "Several devices need a data set that the config names, unchanged during the run."
            )
        # The weights come from the leader before every use.
        bare = config.model.model_copy(update={"pretrained": False, "checkpoint": None})
        specs = data.for_tasks(message.tasks).specs
        model = build_model(bare, specs, data.image_size, seed=config.seed, plugins=config.plugins)
        model.to(self.device).train()
        if config.train.compile:
            model.compile_blocks()
        self._run = _Run(config, TaskLosses(config.train, model, as_chosen(data, config), self))

    def _data(self, message: Begin) -> TaskData:
        """Data of the last run, if they are the same, or new ones."""
        config, final, tasks = message.config.data, message.final, message.tasks
        known, self._known = self._known, None
        if known is None or known[0] != (config, final) or not set(tasks) <= set(known[1].specs):
            known = None  # freed before there is another
            data = build_data(config, tasks, self.device, final=final, read=("train",))
            known = (config, final), data
        self._known = known
        return known[1]

    def _work(self, task: Task) -> None:
        assert self._run is not None
        run, job = self._run, task.job
        if task.shape is not None:
            run.take_shape(task.shape)
        self.connection.send(HERE)
        exchange.send_weights(run.losses.model, self.rank)
        self._statistics = exchange.RunningStatistics(run.losses.model)
        batch = run.batch_of(task.step)
        seed_step(run.config, task.step)
        run.losses.model.zero_grad(set_to_none=True)
        _KINDS[job.kind](run.losses, batch, job)


class _Run:
    """One run as a follower knows it."""

    def __init__(self, config: RunConfig, losses: TaskLosses) -> None:
        self.config = config
        self.losses = losses
        self._next = -1
        self._current: Batch | None = None

    def batch_of(self, step: int) -> Batch:
        """The batch of a step; the next one or the same again is at hand."""
        if self._current is None or step != self._next - 1:
            if step != self._next:
                train, seed = self.config.train, self.config.seed
                self._batches = self.losses.data.train_batches(train.batch_size, seed, step)
            self._current, self._next = next(self._batches), step + 1
        return self._current

    def take_shape(self, shape: Shape) -> None:
        """Grow as the leader has, and train what it trains."""
        model: MultiTaskViT = self.losses.model
        if shape.plan is not None and model.plan is None:
            plan = ExpansionPlan.from_json(shape.plan)
            model.grow(plan, token_std=self.config.expansion.token_std, seed=self.config.seed)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name not in shape.frozen)


def _gradients(losses: TaskLosses, batch: Batch, job: Job) -> None:
    norms = TaskNorms(losses.model, job.tasks) if job.norms else None
    losses.backward(batch, dict(zip(job.tasks, job.weights, strict=True)), job.parts, norms)


_KINDS: dict[str, Callable[[TaskLosses, Batch, Job], object]] = {
    "losses": lambda losses, batch, job: losses.look(batch, job.tasks, job.parts),
    "gradients": _gradients,
    "rows": lambda losses, batch, job: task_gradients(losses, batch, job.tasks, job.parts),
}


def _end_with(leader: int) -> None:
    """End this process when the leader has died, even in the middle of an exchange."""
    while os.getppid() == leader:
        time.sleep(_LOOK_EVERY)
    os._exit(1)


def main(descriptor: str, rank: str, size: str, device: str, leader: str) -> None:
    """Serve the leader; the arguments are those that it starts the process with."""
    connection: Connection[Any, Any] = Connection(int(descriptor))
    threading.Thread(target=_end_with, args=(int(leader),), daemon=True).start()
    place = torch.device(device)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    connection.send(HERE)
    try:
        Follower(connection, int(rank), int(size), place).serve()
    finally:
        exchange.part()


if __name__ == "__main__":
    main(*sys.argv[1:])
