"""The base of trackers: turns the events of a search into runs, numbers, texts and pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from dtme_search.errors import ConfigError
from dtme_search.search.storage.rows import BaselineRow
from dtme_search.search.trackers import points
from dtme_search.search.trackers.background import Background
from dtme_search.search.trackers.points import TrackedRun, Value
from dtme_search.search.trial.callback import Callback, EvaluationInfo, StudyInfo, TrialEnd, TrialInfo
from dtme_search.token_space import ConflictReport, ExpansionPlan

MOST_PICTURES = 20
"""Trials whose pictures are written when the study ends [ours]."""


class Tracker(Callback):
    """Writes a study to a tracker: one run for the study, and one below it for each trial.

    Derive from it, and override the six methods from ``begin`` to ``end``. They are called one after another
    on a thread of their own, so a slow tracker delays no trial. If one raises, a warning says so and the
    tracker is off for the rest of the study. The same run may begin again, in this process or another one,
    after it was interrupted.
    """

    extra: ClassVar[str] = ""
    """Extra of this project, named like the module that it installs; empty if nothing is needed."""

    def __init__(self) -> None:
        if self.extra and find_spec(self.extra) is None:
            raise ConfigError(
                f"tracker '{self.extra}' needs the package {self.extra}, which is not installed. "
                f"Install it with: pip install 'dtme-search[{self.extra}]'."
            )
        self._background: Background | None = None
        self._study: TrackedRun | None = None
        self._grown: set[str] = set()
        self._complete: dict[int, tuple[TrackedRun, Path]] = {}

    def begin(self, run: TrackedRun, settings: Mapping[str, Value]) -> None:
        """A run begins or continues."""

    def values(self, run: TrackedRun, values: Mapping[str, float], step: int) -> None:
        """Numbers by name, at a step of the training or another position (``points.AXES``)."""

    def text(self, run: TrackedRun, name: str, text: str) -> None:
        """A longer text, such as a config."""

    def picture(self, run: TrackedRun, name: str, path: Path) -> None:
        """A PNG; may follow the end of a run, which then ends again."""

    def end(self, run: TrackedRun, facts: Mapping[str, Value]) -> None:
        """A run ends; ``facts["state"]`` is ``complete``, ``pruned``, ``failed`` or ``interrupted``.

        No facts: a run that had ended ends again, after its pictures.
        """

    def on_study_begin(self, study: StudyInfo) -> None:
        self._background = Background(type(self).__name__)
        self._study, self._grown, self._complete = TrackedRun(study), set(), {}
        run, settings = self._study, points.of_study(study)
        texts = {"study.yaml": points.as_yaml(study.config), "tasks.txt": points.tasks_as_text(study)}
        self._do(lambda: self.begin(run, settings))
        self._write_texts(run, texts)

    def on_baseline_end(self, baseline: BaselineRow, trained: bool) -> None:  # noqa: ARG002
        if (run := self._study) is not None:
            self._do(lambda: self.values(run, {f"baseline/{baseline.task}": baseline.value}, 0))

    def on_trial_begin(self, trial: TrialInfo) -> None:
        run, settings = _run_of(trial), points.of_trial(trial)
        self._do(lambda: self.begin(run, settings))
        self._write_texts(run, {"config.yaml": points.as_yaml(trial.config)})

    def on_evaluation(self, trial: TrialInfo, evaluation: EvaluationInfo) -> None:
        run, values = _run_of(trial), points.of_evaluation(evaluation)
        self._do(lambda: self.values(run, values, evaluation.step))
        self._write_growth(run, evaluation.plan, evaluation.report)

    def on_trial_end(self, trial: TrialInfo, end: TrialEnd) -> None:
        run, study, facts = _run_of(trial), TrackedRun(trial.study), points.summary(end)
        self._write_growth(run, end.plan, end.report)
        if end.state == "complete":
            values, of_study = points.of_result(end), points.trial_in_study(end.run)
            if end.run.origin_trial is not None:
                self._do(lambda: self.values(run, values, trial.config.total_steps))
            in_study = {f"trial/{name}": value for name, value in of_study.items()}
            self._do(lambda: self.values(study, in_study, trial.number))
            self._complete[trial.number] = run, trial.folder
        self._do(lambda: self.end(run, facts))

    def on_study_end(self, study: StudyInfo, finished: int) -> None:
        try:
            self._write_pictures(study)
        finally:
            run, state = TrackedRun(study), "complete" if finished >= study.config.trials else "interrupted"
            self._do(lambda: self.end(run, {"state": state, "finished_trials": finished}))
            if self._background is not None:
                self._background.finish()
            self._background = None

    def _write_pictures(self, study: StudyInfo) -> None:
        """Pictures of the trials on the front that this process ran."""
        front = study.front()
        for number in sorted(self._complete.keys() & front)[:MOST_PICTURES]:
            run, folder = self._complete[number]
            paths = sorted(folder.glob("*.png"))
            for path in paths:
                self._do(lambda run=run, path=path: self.picture(run, path.stem, path))  # type: ignore[misc]
            if paths:
                self._do(lambda run=run: self.end(run, {}))  # type: ignore[misc]

    def _write_growth(
        self, run: TrackedRun, plan: ExpansionPlan | None, report: ConflictReport | None
    ) -> None:
        """Plan and conflicts of a trial, once."""
        if plan is None or run.key in self._grown:
            return
        self._grown.add(run.key)
        self._write_texts(run, {"plan.txt": plan.table()})
        for layer, rates in points.of_conflicts(report) if report is not None else ():
            self._do(lambda layer=layer, rates=rates: self.values(run, rates, layer))  # type: ignore[misc]

    def _write_texts(self, run: TrackedRun, texts: Mapping[str, str]) -> None:
        for name, text in texts.items():
            self._do(lambda name=name, text=text: self.text(run, name, text))  # type: ignore[misc]

    def _do(self, call: Callable[[], None]) -> None:
        if self._background is not None:
            self._background.do(call)


@dataclass(frozen=True)
class TrackerKind:
    """A tracker that ``--tracker`` can name.

    Attributes:
        make: Creates it, from what its own environment variables say.
    """

    make: Callable[[], Callback]


def _run_of(trial: TrialInfo) -> TrackedRun:
    return TrackedRun(trial.study, trial.first)
