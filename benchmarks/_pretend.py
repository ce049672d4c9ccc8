"""Trials without training: everything around a trial happens, its numbers are drawn.

The trainer is replaced by one that tells the same story (the trunk's conflicts, the plan, every evaluation)
and sleeps where training would be, and a meter notes what each part of the machinery takes.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import optuna
import torch
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages._cached_storage import _CachedStorage

from dtme_search.config import RunConfig
from dtme_search.data import TaskData
from dtme_search.schedules import build_schedule
from dtme_search.search import api as study
from dtme_search.search.space.search_space import SearchSpace
from dtme_search.search.storage import study_lock as asking
from dtme_search.search.storage.records import Records
from dtme_search.search.study import loop
from dtme_search.search.trial import claim, diary, objective
from dtme_search.search.trial.pruning import ParetoPruner
from dtme_search.token_space import ConflictReport, ExpansionPlan
from dtme_search.training import Callbacks, Evaluation, RunResult
from dtme_search.training.growth import plan_for
from dtme_search.training.result import StepCost

SAMPLERS: tuple[type[BaseSampler], ...] = (TPESampler, RandomSampler, NSGAIISampler)


class Pretender:
    """Stands in for ``Trainer``; see there."""

    pause = 0.0
    """Seconds of sleep in place of the training of a trial."""

    def __init__(self, config: RunConfig, data: TaskData, callbacks: Callbacks, trunk: Any) -> None:
        self.config, self.data, self._callbacks, self._trunk = config, data, callbacks, trunk
        self.state = SimpleNamespace(plan=None, grown_at=None, cost=StepCost(), parts=1)

    @classmethod
    def of_config(
        cls,
        config: RunConfig,
        data: TaskData,
        *,
        folder: Path | None = None,  # noqa: ARG003
        callbacks: Callbacks | None = None,
        trunk: Any = None,
        parts: int = 1,  # noqa: ARG003
        team: Any = None,  # noqa: ARG003
    ) -> Pretender:
        return cls(config, data, callbacks or Callbacks(), trunk)

    def run(self) -> RunResult:
        config, total, count = self.config, self.config.total_steps, self.config.train.num_evaluations
        dice = random.Random(config.model_dump_json())
        num_layers = len(config.expansion.layers) or config.model.backbone_options["depth"]
        active = tuple(name for name, weight in build_schedule(config).weights(0).items() if weight > 0)
        evaluations: list[Evaluation] = []
        report: ConflictReport | None = None
        level = dice.gauss(0.0, 1.0)
        for step in (round(total * (index + 1) / count) for index in range(count)):
            if self.state.plan is None and config.expansion_step is not None and step > config.expansion_step:
                report, _ = self._trunk.report(config.expansion_step, active, lambda: drawn_report(active))
                plan = plan_for(config, report, active, num_layers)
                self._callbacks.on_expand(plan, report)
                self.state.plan = plan
            time.sleep(self.pause / count)
            metrics = {
                name: (0.3 + 0.2 * step / total) * (1 + (level if spec.higher_is_better else -level) / 100)
                for name, spec in self.data.specs.items()
            }
            evaluations.append(Evaluation(step, metrics, dict.fromkeys(metrics, 1.0)))
            self._callbacks.on_evaluate(evaluations[-1])
        return RunResult(
            evaluations=tuple(evaluations),
            plan=self.state.plan or ExpansionPlan.empty(tuple(config.tasks), num_layers),
            report=report,
            total_steps=total,
            steps_reused=0,
            seconds={"train": self.pause},
            seconds_saved=0.0,
            cost=self.state.cost,
            peak_memory_mb=900.0,
            precision="float32",
        )


def drawn_report(tasks: tuple[str, ...], num_layers: int = 12) -> ConflictReport:
    """Conflicts of 64 images."""
    dice = torch.Generator().manual_seed(0)
    shape = (64, num_layers, len(tasks) * (len(tasks) - 1) // 2)
    ranges, nulls = (torch.randint(5, 15, shape, generator=dice) for _ in range(2))
    return ConflictReport(tasks, 100.0, 24, 25, (12,) * num_layers, ranges, nulls)


def pretend(pause: float = 0.0) -> None:
    """From here on, trials of this process train nothing and last ``pause`` seconds."""
    Pretender.pause = pause
    objective.Trainer = Pretender  # type: ignore[misc,assignment]
    objective.keep_weights = lambda *_: None


@dataclass
class Meter:
    """Seconds by part of the machinery, trial by trial. A part's time is without that of the parts in it.

    Attributes:
        trials: One entry a trial: part -> (seconds by the clock, seconds of the processor).
        calls: The same: part -> number of calls.
        asking: Seconds for which each trial held the asking lock, looking for dead ones included.
        waiting: Seconds for which it waited to get it.
    """

    trials: list[dict[str, tuple[float, float]]] = field(default_factory=list)
    calls: list[dict[str, int]] = field(default_factory=list)
    asking: list[float] = field(default_factory=list)
    waiting: list[float] = field(default_factory=list)
    _open: list[list[float]] = field(default_factory=list)
    _began: tuple[float, float] | None = None
    _asked: float = 0.0

    def install(self) -> None:
        """Measure from here on, for the rest of the process."""
        for sampler in SAMPLERS:
            for name in ("infer_relative_search_space", "sample_relative", "sample_independent"):
                self._wrap(sampler, name, "sampler")
        self._wrap(optuna.Study, "ask", "begin the trial")
        self._wrap(SearchSpace, "suggest", "take its parameters")
        self._wrap(_CachedStorage, "get_all_trials", "look at all trials")
        for name in ("set_trial_user_attr", "set_trial_system_attr"):
            self._wrap(_CachedStorage, name, "attributes")
        for name in [*(name for name in vars(Records) if name.startswith("save_")), "continue_run"]:
            self._wrap(Records, name, "rows")
        self._wrap(Records, "competitors", "competitors")
        self._wrap(ParetoPruner, "reason", "ranking")
        self._wrap(Records, "finished_work", "equal work")
        self._wrap(diary, "upload_artifact", "artifacts")
        self._wrap(optuna.Study, "tell", "tell")
        for name in ("num_left", "check_failures", "first_number"):
            if hasattr(loop, name):
                self._wrap(loop, name, "before and after")
        self._wrap_asking()
        self._wrap_trials()

    def medians(self) -> dict[str, tuple[float, float]]:
        """Part -> medians over the trials that had it, but the first, which pays for first times."""
        later = self.trials[1:] or self.trials
        return {
            part: tuple(median(trial[part][clock] for trial in later if part in trial) for clock in range(2))
            for part in dict.fromkeys(part for trial in later for part in trial)
        }

    @contextmanager
    def _measured(self, part: str) -> Iterator[None]:
        if self._began is None:
            yield
            return
        clocks = (time.perf_counter(), time.thread_time())
        self._open.append([0.0, 0.0])
        try:
            yield
        finally:
            spent = (time.perf_counter() - clocks[0], time.thread_time() - clocks[1])
            inner, trial = self._open.pop(), self.trials[-1]
            known = trial.get(part, (0.0, 0.0))
            trial[part] = (known[0] + spent[0] - inner[0], known[1] + spent[1] - inner[1])
            self.calls[-1][part] = self.calls[-1].get(part, 0) + 1
            if self._open:
                self._open[-1] = [inner + own for inner, own in zip(self._open[-1], spent, strict=True)]

    def _wrap(self, owner: Any, name: str, part: str) -> None:
        plain: Callable[..., Any] = getattr(owner, name)

        def timed(*given: Any, **named: Any) -> Any:
            # Another thread writes heartbeats.
            if threading.current_thread() is not threading.main_thread():
                return plain(*given, **named)
            with self._measured(part):
                return plain(*given, **named)

        setattr(owner, name, timed)

    def _wrap_asking(self) -> None:
        lock = asking.AskingLock
        enter, release = lock.__enter__, lock.release

        def entered(held: asking.AskingLock) -> asking.AskingLock:
            began = time.perf_counter()
            got = enter(held)
            self._asked = time.perf_counter()
            self._add("waiting", self._asked - began)
            return got

        def released(held: asking.AskingLock) -> None:
            if self._asked:
                self._add("asking", time.perf_counter() - self._asked)
            self._asked = 0.0
            release(held)

        lock.__enter__, lock.release = entered, released  # type: ignore[method-assign]

    def _add(self, what: str, seconds: float) -> None:
        if self._began is not None:
            getattr(self, what)[-1] += seconds

    def _wrap_trials(self) -> None:
        """A trial lasts from the end of the one before it to its own end."""
        run_trials, let_go = study.run_trials, claim.ClaimedTrial.let_go

        def metered(*given: Any, **named: Any) -> None:
            self._begin_trial()
            try:
                run_trials(*given, **named)
            finally:
                self._began = None
                for notes in (self.trials, self.calls, self.asking, self.waiting):
                    notes.pop()  # of a trial that did not begin

        def ended(owner: claim.ClaimedTrial) -> None:
            let_go(owner)
            if self._began is not None:
                self._end_trial()
                self._begin_trial()

        study.run_trials, claim.ClaimedTrial.let_go = metered, ended  # type: ignore[method-assign]

    def _begin_trial(self) -> None:
        self._began = (time.perf_counter(), time.thread_time())
        self.trials.append({})
        self.calls.append({})
        self.asking.append(0.0)
        self.waiting.append(0.0)

    def _end_trial(self) -> None:
        """What no part accounts for is the rest."""
        assert self._began is not None
        trial = self.trials[-1]
        whole = (time.perf_counter() - self._began[0], time.thread_time() - self._began[1])
        parts = [sum(spent[clock] for spent in trial.values()) for clock in range(2)]
        trial["rest"] = (whole[0] - parts[0], whole[1] - parts[1])
        trial["whole trial"] = whole
