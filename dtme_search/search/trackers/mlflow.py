"""MLflow: a tracking server, or the database or folder that its variables name."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from dtme_search.search.trackers.points import TrackedRun, Value
from dtme_search.search.trackers.tracker import Tracker

if TYPE_CHECKING:
    from mlflow import MlflowClient

KEY_TAG = "dtme.run"
"""Tag by which a run is found again."""
_STATUS = {"complete": "FINISHED", "failed": "FAILED"}


class MLflow(Tracker):
    """Writes to MLflow: a run for the study, and a child run for each trial.

    ``MLFLOW_TRACKING_URI`` says where, ``MLFLOW_EXPERIMENT_NAME`` or ``MLFLOW_EXPERIMENT_ID`` the experiment,
    as for every program that uses MLflow; credentials likewise.
    """

    extra = "mlflow"

    def __init__(self) -> None:
        super().__init__()
        self._ids: dict[str, str] = {}

    def begin(self, run: TrackedRun, settings: Mapping[str, Value]) -> None:
        from mlflow.entities import Param

        # Workers that start together would each create the database and the run of the study.
        with FileLock(run.study.folder / "mlflow.lock"):
            found = self._find(run)
            self._ids[run.key] = found or self._create(run)
        if found:
            self._client.update_run(found, status="RUNNING")
        else:
            parameters = [Param(name, str(value)) for name, value in settings.items()]
            self._client.log_batch(self._ids[run.key], params=parameters)

    def values(self, run: TrackedRun, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._ids[run.key], metrics=metrics)

    def text(self, run: TrackedRun, name: str, text: str) -> None:
        self._client.log_text(self._ids[run.key], text, name)

    def picture(self, run: TrackedRun, name: str, path: Path) -> None:  # noqa: ARG002
        self._client.log_artifact(self._ids[run.key], str(path))

    def end(self, run: TrackedRun, facts: Mapping[str, Value]) -> None:
        from mlflow.entities import RunTag

        if facts:
            tags = [RunTag(f"dtme.{name}", str(value)) for name, value in facts.items()]
            self._client.log_batch(self._ids[run.key], tags=tags)
            self._client.set_terminated(self._ids[run.key], _STATUS.get(str(facts["state"]), "KILLED"))

    @cached_property
    def _client(self) -> MlflowClient:
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # its news would tear the progress bar
        return MlflowClient()

    @cached_property
    def _experiment(self) -> str:
        number, name = os.environ.get("MLFLOW_EXPERIMENT_ID"), os.environ.get("MLFLOW_EXPERIMENT_NAME")
        if number or not name:
            return number or "0"  # MLflow's own default
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self._client.create_experiment(name))

    def _find(self, run: TrackedRun) -> str | None:
        wanted = f"tags.`{KEY_TAG}` = '{run.key}'"
        found = self._client.search_runs([self._experiment], wanted, max_results=1)
        return str(found[0].info.run_id) if found else None

    def _create(self, run: TrackedRun) -> str:
        tags: dict[str, Any] = {KEY_TAG: run.key}
        if run.parent is not None:
            tags["mlflow.parentRunId"] = self._ids[run.parent.key]
        name = run.study.name if run.parent is None else f"{run.study.name} {run.label}"
        return str(self._client.create_run(self._experiment, tags=tags, run_name=name).info.run_id)
