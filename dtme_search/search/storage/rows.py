"""Rows of our SQL tables: what is stored about baselines, trials, trunks and repeats.

Each field is a column (``tables`` makes them from these classes) and is declared only here. Rates are
fractions, times are aware and in UTC, lists of names are comma separated. A field added later must allow
``None``, because rows of earlier releases have no value for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Annotated, Any

from dtme_search.search.storage.measured import Measured

Long = Annotated[str, "long"]
"""A text of any length; other texts are names of at most 255 characters."""


@dataclass(frozen=True, kw_only=True)
class BaselineRow:
    """A single-task baseline.

    Attributes:
        fingerprint: Identity of the run: config of the task alone, data, numerics version.
        value: Metric on ``split``, in ``unit``.
        prior_value: The same metric of a prediction that ignores the image.
        num_images: Images trained on.
        seconds: Whole run; ``seconds_per_step`` is for one training step.
        config: Canonical config as JSON.
    """

    fingerprint: str
    task: str
    metric: str
    unit: str
    value: float
    prior_value: float
    higher_is_better: bool
    dataset: str
    data_fingerprint: str
    backbone: str
    split: str
    seed: int
    num_steps: int
    num_images: int
    seconds: float
    seconds_per_step: float
    config: Long
    code_version: str
    created_at: datetime

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {**asdict(self), "created_at": self.created_at.isoformat()}

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> BaselineRow:
        """Read what :meth:`plain` wrote."""
        return cls(**{**values, "created_at": datetime.fromisoformat(values["created_at"])})


@dataclass(frozen=True, kw_only=True)
class EvaluationRow:
    """Metric of one task, its signed gain over the baseline, its mean training loss, its unit.

    An auxiliary task has no gain. ``scores`` are those of training images, as JSON, if a run keeps a data
    map, and ``hits`` say which of them are predicted right, for tasks about whole images.
    """

    task: str
    metric: str
    value: float
    gain_percent: float | None = None
    loss: float | None = None
    unit: str | None = None
    scores: Long | None = None
    hits: Long | None = None


@dataclass(frozen=True, kw_only=True)
class StoredEvaluation(EvaluationRow):
    """An evaluation with its place: optimiser steps done in a trial."""

    trial: int
    step: int

    def without_place(self) -> EvaluationRow:
        """The evaluation alone, to be written elsewhere."""
        return EvaluationRow(**{name.name: getattr(self, name.name) for name in fields(EvaluationRow)})


@dataclass(frozen=True, kw_only=True)
class ConflictRow:
    """Conflict rates of two tasks at a 0-based layer, with standard errors by image.

    Attributes:
        cosine: Mean cosine of their gradients on the weights of the layer; ``None`` unless compared.
    """

    layer: int
    task_a: str
    task_b: str
    range_rate: float
    null_rate: float
    range_se: float | None = None
    null_se: float | None = None
    cosine: float | None = None


@dataclass(frozen=True, kw_only=True)
class GainRow:
    """What splitting the tasks could gain at a 0-based layer by an operation, to first order: S, error, z."""

    layer: int
    operation: str
    gain: float | None = None
    gain_se: float | None = None
    z: float | None = None


@dataclass(frozen=True, kw_only=True)
class GradientRow:
    """How the gradients of a pair on the shared parameters compare at one moment of the training.

    Attributes:
        grown: 1 once the network has grown, else 0; at the step of the growth there are both.
        layer_group: ``all``, ``embedding``, ``block 0`` and so on, ``norm``.
        pair: ``tasks`` (two tasks, one image) or ``images`` (one task, two images).
        task_a, task_b: The tasks; the same twice for two images.
        num_pairs: Number of images or pairs of images behind the means.
        cosine, cosine_std: Cosine of the gradients, and its standard deviation over the pairs.
        magnitude_similarity: 2 |g| |h| / (|g|^2 + |h|^2), 1 for equal lengths.
        conflicting: Fraction of the entries with opposite signs.
    """

    step: int
    grown: int
    layer_group: str
    pair: str
    task_a: str
    task_b: str
    num_pairs: int
    cosine: float
    cosine_std: float
    magnitude_similarity: float
    conflicting: float


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """A group of tasks that shares an operation (``modulate`` or ``expand``) at a 0-based layer."""

    layer: int
    operation: str
    group_index: int
    tasks: Long


@dataclass(frozen=True, kw_only=True)
class RunRow(Measured):
    """Facts about a trial as a training run; ``None`` means not known yet.

    Attributes:
        state: ``running``, ``complete``, ``pruned``, ``failed`` or ``interrupted``.
        fingerprint: Identity of the proposed config; ``resolved_fingerprint`` that of the plan it led to,
            ``unexpanded_fingerprint`` that of the same run, seed included, without growth.
        delta_m_base_percent: delta_m over the baselines of the study's base config, if the architecture is
            searched; ``delta_m_percent`` is over the trial's own baselines.
        paired_gain_percent: delta_m minus that of ``paired_trial``, the run without growth of the same seed.
        operations: Operation of every layer, separated by blanks.
        baselines: Task -> fingerprint of the baseline it is compared with, as JSON; ``None`` before schema 4.
        step_cost_ratio: Mean cost of a step in units of an unexpanded one.
        step_flops_ratio: The same by counted floating point operations.
        measures: Further measures that the study names, as JSON: name -> value.
        threads: Number of CPU threads used.
        total_steps: Steps of the run, of which ``steps_trained`` were trained for this trial and
            ``steps_reused`` came from a trunk or from ``origin_trial``.
        origin_trial: Finished trial with the same resolved work, whose result this one took over.
        seconds_saved: What the reused steps and measurements took when they were done.
        compiled: Whether all blocks were compiled, to the end.
        batch_parts: Number of parts in which a batch went through the network; above 1 if memory was short.
        reason: Why the trial was pruned, took over a result or trained in parts, in a sentence.
        dead_tasks: Tasks that do not clearly beat the no-image prior.
        seconds_waited: Time spent waiting for other workers with nothing else to do.
        seconds_overhead: Time not spent on training, evaluating, measuring and checkpoints.
        split: What the metrics were measured on.
    """

    study: str
    trial: int
    state: str
    fingerprint: str
    resolved_fingerprint: str | None = None
    unexpanded_fingerprint: str | None = None
    config: Long | None = None
    operations: Long | None = None
    baselines: Long | None = None
    delta_m_percent: float | None = None
    delta_m_base_percent: float | None = None
    paired_gain_percent: float | None = None
    paired_trial: int | None = None
    param_overhead_percent: float | None = None
    step_cost_ratio: float | None = None
    step_flops_ratio: float | None = None
    measures: Long | None = None
    feasible: bool | None = None
    dead_tasks: Long | None = None
    expansion_step: int | None = None
    total_steps: int | None = None
    steps_trained: int | None = None
    steps_reused: int | None = None
    origin_trial: int | None = None
    seconds_saved: float | None = None
    seconds_total: float | None = None
    seconds_train: float | None = None
    seconds_evaluate: float | None = None
    seconds_measure: float | None = None
    seconds_checkpoint: float | None = None
    seconds_waited: float | None = None
    seconds_overhead: float | None = None
    peak_memory_mb: float | None = None
    device: str | None = None
    threads: int | None = None
    precision: str | None = None
    compiled: bool | None = None
    batch_parts: int | None = None
    seed: int | None = None
    split: str | None = None
    torch_version: str | None = None
    timm_version: str | None = None
    optuna_version: str | None = None
    python_version: str | None = None
    code_version: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    reason: Long | None = None
    error: Long | None = None

    def baseline_names(self) -> dict[str, str]:
        """Task -> fingerprint of the baseline that the trial is compared with."""
        names: dict[str, str] = json.loads(self.baselines or "{}")
        return names


@dataclass(frozen=True, kw_only=True)
class TrunkRow:
    """Unexpanded training from ``from_step`` to ``to_step`` that one trial trained for all that share it."""

    fingerprint: str
    trial: int
    from_step: int
    to_step: int
    seconds: float
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class RungRow(Measured):
    """A trial at one evaluation (``rung``, from 0). Its cost is unknown before the network has grown.

    ``measures`` are further ones that the study names, as JSON.
    """

    trial: int
    rung: int
    step: int
    delta_m_percent: float
    param_overhead_percent: float | None = None
    step_cost_ratio: float | None = None
    measures: Long | None = None


@dataclass(frozen=True, kw_only=True)
class InferenceRow:
    """What predicting costs a network on a device, measured once for all trials of the database.

    Attributes:
        fingerprint: Names network, plan, device and settings.
        latency_ms: Median over ``repeats`` predictions of ``batch_size`` images.
        latency_spread_ms: Distance between their quartiles.
        memory_mb: Largest memory of tensors at one time, parameters included.
    """

    fingerprint: str
    latency_ms: float
    latency_spread_ms: float
    memory_mb: float
    device: str
    precision: str
    batch_size: int
    repeats: int
    operations: Long
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class WorkerRow:
    """A process working on a study, for as long as it does.

    Attributes:
        worker: Names the process.
        host, pid: Its machine and its process id there; ``machine`` and ``begun`` make it unique.
        command: The command, such as ``optimize``.
        doing: What it is doing, in words; ``step`` of ``total_steps`` if that has steps.
    """

    worker: str
    host: str
    pid: int
    machine: str
    begun: int
    command: str
    started_at: datetime
    doing: str
    step: int | None = None
    total_steps: int | None = None


@dataclass(frozen=True, kw_only=True)
class ConfirmationRow:
    """The configuration of a trial trained again with another seed.

    Attributes:
        gains_percent: Task -> signed gain over the baseline of ``baseline_seed``, as JSON; ``metrics``
            likewise. ``search_gains_percent`` are those over the baselines of the search.
        baseline_seed: Seed of these baselines; ``None`` for the same seed.
        seconds: Time it took here.
    """

    trial: int
    seed: int
    delta_m_percent: float
    gains_percent: Long
    metrics: Long
    steps_trained: int
    steps_reused: int
    seconds: float
    split: str
    device: str
    code_version: str
    created_at: datetime
    search_gains_percent: Long | None = None
    baseline_seed: int | None = None
