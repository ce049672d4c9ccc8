"""What is recorded about one trial while it runs: SQL rows, user attributes, files."""

from __future__ import annotations

import csv
import json
import platform
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Self

import optuna
import torch
from optuna.artifacts import FileSystemArtifactStore, upload_artifact

from dtme_search.config import RunConfig, dump_yaml
from dtme_search.search.reuse.context import TrialContext
from dtme_search.search.storage.rows import EvaluationRow, GradientRow, RungRow, RunRow
from dtme_search.search.storage.trials import KEPT_ATTR
from dtme_search.search.trial.measured import conflict_rows, gain_rows, plan_rows
from dtme_search.search.trial.outcome import Comparison, Outcome, compare, recorded_outcome
from dtme_search.search.trial.pruning import stop
from dtme_search.search.trial.result import Result
from dtme_search.search.trial.retries import goes_on_later, retry_history
from dtme_search.search.workspace import private_folder
from dtme_search.token_space import ConflictReport, ExpansionPlan
from dtme_search.training import Evaluation, RunResult
from dtme_search.training.gradient_statistics import PairSimilarity
from dtme_search.training.growth import resolved_config
from dtme_search.training.identity import RunContext, result_fingerprint
from dtme_search.training.runtime import device_name
from dtme_search.version import __version__

DrawFiles = Callable[[Path, RunResult], Sequence[Path]]
"""Draws pictures of a finished run into a folder; the reporting layer provides it."""


@dataclass
class Diary:
    """Records one trial as it happens; as a context manager it also records how the trial ends.

    Attributes:
        context: What is known about the trial.
        trial: Optuna's trial, running.
        draw: Draws the pictures, or ``None``.
        kept: Host and file of its trained network; ``None`` if none was written.
    """

    context: TrialContext
    trial: optuna.Trial
    draw: DrawFiles | None = None
    kept: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        self.config, self.data, self.records = self.context.config, self.context.data, self.context.records
        self.study = self.context.study
        self.folder = self.context.workspace.trial(self.context.first)
        self.grown: tuple[ExpansionPlan | None, ConflictReport | None] = (None, None)

    def __enter__(self) -> Self:
        self.started = monotonic()
        # First, because listeners that hear of a failed start get this row.
        self.row = RunRow(
            study=self.study.name,
            trial=self.trial.number,
            fingerprint=self._name_of(self.config),
            unexpanded_fingerprint=self._name_of(self.config.unexpanded()),
            state="running",
            config=self.config.model_dump_json(),
            baselines=json.dumps({task: row.fingerprint for task, row in self.context.baselines.items()}),
            expansion_step=self.config.expansion_step,
            total_steps=self.config.total_steps,
            device=device_name(self.data.device, self.context.devices),
            threads=torch.get_num_threads() if self.data.device.type == "cpu" else None,
            compiled=self.config.train.compile,
            seed=self.config.seed,
            split=self.data.scoring_split,
            torch_version=torch.__version__,
            timm_version=version("timm"),
            optuna_version=optuna.__version__,
            python_version=platform.python_version(),
            code_version=__version__,
            started_at=datetime.now(UTC),
        )
        self.seconds_before = self._continue()
        (private_folder(self.folder) / "config.yaml").write_text(dump_yaml(self.config), encoding="utf-8")
        self.records.save_run(self.row)
        self.trial.set_user_attr("fingerprint", self.row.fingerprint)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            return
        if isinstance(error, optuna.TrialPruned):
            self._end("pruned", reason=str(error))
        elif goes_on_later(error):
            self._end("interrupted")
        else:
            self._end("failed", error="".join(traceback.format_exception(error)))

    def expanded(self, plan: ExpansionPlan, report: ConflictReport | None, step: int | None) -> None:
        """The network has grown at a step, or what it grows by is known."""
        self.grown = (plan, report or self.grown[1])
        number = self.trial.number
        self.records.save_plan(self.study.name, number, plan_rows(plan))
        at = self.row.expansion_step if step is None else step
        self.row = replace(self.row, operations=" ".join(plan.operations()), expansion_step=at)
        self.trial.set_user_attr("plan", self.row.operations)
        (self.folder / "plan.txt").write_text(plan.table() + "\n", encoding="utf-8")
        if report is not None:
            self.records.save_conflicts(self.study.name, number, conflict_rows(report), gain_rows(report))
            report.save(self.folder / "conflicts.json")
            text = f"{report.table()}\n\n{report.summary()}\n"
            (self.folder / "conflicts.txt").write_text(text, encoding="utf-8")

    def resolved(self, fingerprint: str) -> None:
        """The work of the trial is known."""
        if fingerprint != self.row.resolved_fingerprint:
            self.row = replace(self.row, resolved_fingerprint=fingerprint)
            self.records.save_run(self.row)

    def compared(self, step: int, grown: bool, seen: Sequence[PairSimilarity]) -> None:
        """Gradient statistics of the tasks were measured."""
        rows = [GradientRow(step=step, grown=int(grown), **asdict(each)) for each in seen]
        self.records.save_gradients(self.study.name, self.trial.number, rows)

    def forked(self, steps: int, seconds: float) -> None:
        """The first steps came from a trunk."""
        self.row = replace(self.row, steps_reused=steps, seconds_saved=seconds)

    def reached(self, step: int) -> None:
        """The run has reached a step, by training or by reuse."""
        self.row = replace(self.row, steps_trained=max(0, step - (self.row.steps_reused or 0)))

    def evaluated(self, evaluation: Evaluation, comparison: Comparison, parts: int) -> None:
        """The hold-out was evaluated; batches go through the network in ``parts``."""
        rows = [
            EvaluationRow(
                task=name,
                metric=self.data.specs[name].metric,
                value=value,
                gain_percent=comparison.gains_percent.get(name),
                loss=evaluation.losses.get(name),
                unit=self.data.specs[name].unit,
                scores=json.dumps(evaluation.scores[name]) if name in evaluation.scores else None,
                hits=json.dumps(evaluation.hits[name]) if name in evaluation.hits else None,
            )
            for name, value in evaluation.metrics.items()
        ]
        self.records.save_evaluation(self.study.name, self.trial.number, evaluation.step, rows)
        self.reached(evaluation.step)
        self.row = replace(self.row, delta_m_percent=comparison.delta_m_percent, batch_parts=parts)

    def judged(self, rung: RungRow) -> None:
        """The numbers that pruning compares at an evaluation."""
        self.records.save_rung(self.study.name, rung)
        self.row = replace(
            self.row,
            param_overhead_percent=rung.param_overhead_percent,
            step_cost_ratio=rung.step_cost_ratio,
            measures=rung.measures,
        )

    def completed(self, result: RunResult, outcome: Outcome) -> Result:
        """The trial has its result; its files are written."""
        found = result.plateau_step, result.trained_parts, result.grown_at
        resolved = resolved_config(self.config, result.plan, *found)
        (self.folder / "resolved.yaml").write_text(dump_yaml(resolved), encoding="utf-8")
        self._write_curves(
            (evaluation.step, name, value, evaluation.losses.get(name))
            for evaluation in result.evaluations
            for name, value in evaluation.metrics.items()
        )
        pictures = () if self.draw is None else self.draw(self.folder, result)
        self._upload(pictures)
        inside = sum(result.seconds.values())
        # A killed session left no total, only the seconds up to its checkpoint.
        total = max(self._seconds(), inside)
        return self._result(
            outcome,
            config=resolved.model_dump_json(),
            operations=" ".join(result.plan.operations()),
            steps_trained=result.total_steps - result.steps_reused,
            steps_reused=result.steps_reused,
            seconds_saved=result.seconds_saved,
            seconds_total=total,
            seconds_train=result.seconds.get("train", 0.0),
            seconds_evaluate=result.seconds.get("evaluate", 0.0),
            seconds_measure=result.seconds.get("measure", 0.0),
            seconds_waited=sum(self.context.waits),
            seconds_checkpoint=result.seconds.get("checkpoint", 0.0),
            seconds_overhead=total - inside,
            step_flops_ratio=result.step_flops_ratio,
            delta_m_base_percent=self._over_base(result),
            peak_memory_mb=result.peak_memory_mb,
            precision=result.precision,
            batch_parts=result.parts,
        )

    def taken_over(self, origin: RunRow) -> tuple[Result, Outcome]:
        """The trial led to work that another one had finished: it gets that result.

        Raises:
            optuna.TrialPruned: If the other one was pruned.
        """
        reason = f"trains the same as trial {origin.trial}"
        self.trial.set_user_attr("origin_trial", origin.trial)
        own = self.row.steps_trained or 0
        self.row = replace(
            self.row,
            resolved_fingerprint=origin.resolved_fingerprint,
            origin_trial=origin.trial,
            delta_m_percent=origin.delta_m_percent,
            delta_m_base_percent=origin.delta_m_base_percent,
            steps_trained=own,
            steps_reused=max(0, (origin.steps_trained or 0) + (origin.steps_reused or 0) - own),
            seconds_saved=max(0.0, _seconds_of(origin) - self._seconds()),
        )
        evaluations = self.records.evaluations(self.study.name, origin.trial)
        for step in sorted({row.step for row in evaluations}):
            rows = [row.without_place() for row in evaluations if row.step == step]
            self.records.save_evaluation(self.study.name, self.trial.number, step, rows)
        self._report_as(origin.trial)
        if origin.state == "pruned":
            self.row = replace(
                self.row,
                param_overhead_percent=origin.param_overhead_percent,
                step_cost_ratio=origin.step_cost_ratio,
                measures=origin.measures,
            )
            stop(self.trial, f"{reason}, which was pruned: {origin.reason}", origin, self.study.limits)
        last = [row for row in evaluations if row.step == evaluations[-1].step]
        outcome = recorded_outcome(origin, last, self.study)
        resolved = RunConfig.model_validate_json(origin.config or "")
        (self.folder / "resolved.yaml").write_text(dump_yaml(resolved), encoding="utf-8")
        self._write_curves((row.step, row.task, row.value, row.loss) for row in evaluations)
        self._upload(())
        result = self._result(
            outcome,
            reason=reason,
            config=origin.config,
            operations=origin.operations,
            step_flops_ratio=origin.step_flops_ratio,
            seconds_total=self._seconds(),
            seconds_overhead=self._seconds(),
            precision=origin.precision,
            batch_parts=origin.batch_parts,
        )
        return result, outcome

    def _over_base(self, result: RunResult) -> float | None:
        """delta_m over the baselines of the base config, if architectures are searched."""
        rows = self.context.base_baselines
        return compare(result.metrics, rows, self.data.specs).delta_m_percent if rows else None

    def _report_as(self, number: int) -> None:
        """Report intermediate values to Optuna: samplers judge a pruned trial by the last of them."""
        trials = self.trial.study.get_trials(deepcopy=False)
        known = trials[self.trial.number].intermediate_values  # a continued trial may already have some
        for step, value in trials[number].intermediate_values.items():
            if step not in known:
                self.trial.report(value, step)

    def short_of_memory(self, reason: str) -> None:
        """From here on, the batch goes through the network in parts."""
        self.row = replace(self.row, reason=reason)
        self.records.save_run(self.row)

    def _result(self, outcome: Outcome, **facts: object) -> Result:
        values: dict[str, Any] = {
            "state": "complete",
            "delta_m_percent": outcome.delta_m_percent,
            "param_overhead_percent": outcome.param_overhead_percent,
            "step_cost_ratio": outcome.step_cost_ratio,
            "measures": json.dumps(outcome.further) if outcome.further else None,
            "feasible": outcome.feasible,
            "dead_tasks": ",".join(outcome.dead_tasks),
            "finished_at": datetime.now(UTC),
            **facts,
        }
        return Result(
            row=replace(self.row, **values),
            attributes={
                "gains_percent": {task: round(gain, 4) for task, gain in outcome.gains_percent.items()},
                "step_cost_ratio": round(outcome.step_cost_ratio, 4),
                "feasible": outcome.feasible,
                "dead_tasks": list(outcome.dead_tasks),
                **({KEPT_ATTR: self.kept} if self.kept else {}),
            },
            constraints=outcome.violations,
            values=outcome.values(self.study),
        )

    def _name_of(self, config: RunConfig) -> str:
        """Identifies the result that a config leads to here."""
        arithmetic = RunContext.of(config, self.data.device, self.context.devices)
        return result_fingerprint(config, self.data.fingerprint, arithmetic)

    def _continue(self) -> float:
        """Take over the measurements of the trials that this one continues; returns the seconds they took."""
        history = retry_history(self.trial)
        runs = self.records.continue_run(self.study.name, history, self.trial.number) if history else []
        return max((run.seconds_total or 0.0 for run in runs), default=0.0)

    def _seconds(self) -> float:
        return self.seconds_before + monotonic() - self.started

    def _end(self, state: str, *, reason: str | None = None, error: str | None = None) -> None:
        self.row = replace(
            self.row,
            state=state,
            reason=reason,
            error=error,
            seconds_total=self._seconds(),
            finished_at=datetime.now(UTC),
        )
        self.records.save_run(self.row)

    def _write_curves(self, rows: Iterable[tuple[int, str, float, float | None]]) -> None:
        with (self.folder / "curves.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["step", "task", "metric", "value", "train_loss"])
            for step, name, value, loss in rows:
                writer.writerow([step, name, self.data.specs[name].metric, value, loss])

    def _upload(self, pictures: Sequence[Path]) -> None:
        names = ("resolved.yaml", "plan.txt", "conflicts.json", "curves.csv")
        files = [self.folder / name for name in names if (self.folder / name).exists()]
        store = FileSystemArtifactStore(self.context.workspace.artifacts)
        for file in (*files, *pictures):
            upload_artifact(artifact_store=store, file_path=str(file), study_or_trial=self.trial)


def _seconds_of(run: RunRow) -> float:
    """What a run would have taken without sharing."""
    return (run.seconds_total or 0.0) + (run.seconds_saved or 0.0)
