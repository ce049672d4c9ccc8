"""What predictions of a trial's network cost, for studies that name such a measure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import torch

from dtme_search.config import InferenceConfig, RunConfig, StudyConfig, fingerprint
from dtme_search.models.inference_flops import InferenceFlops
from dtme_search.search.storage.records import Records
from dtme_search.search.storage.rows import InferenceRow
from dtme_search.tasks import TaskSpec
from dtme_search.token_space import ExpansionPlan
from dtme_search.training.inference import (
    inference_fingerprint,
    inference_precision,
    measure_inference,
)
from dtme_search.training.runtime import device_name


@dataclass(frozen=True)
class FlopsCounter:
    """Counts the operations of a prediction by config and plan, each network once.

    Attributes:
        specs: Tasks of the base config; those of a run are among them.
    """

    specs: Mapping[str, TaskSpec]
    _networks: dict[str, InferenceFlops] = field(default_factory=dict)

    def __call__(self, config: RunConfig, plan: ExpansionPlan) -> float:
        """Operations in units of the same network without growth."""
        size = config.data.image_size
        name = fingerprint(config.model.model_dump(mode="json"), size, list(config.tasks))
        if name not in self._networks:
            specs = {task: self.specs[task] for task in config.tasks}
            self._networks[name] = InferenceFlops.of_model(config.model, specs, size, config.plugins)
        return self._networks[name].ratio(plan)


@dataclass(frozen=True)
class InferenceMeter:
    """Knows what predictions cost; measured ones are shared through the database.

    Attributes:
        study: Says what is wanted and how it is measured.
        records: Where measurements are kept.
        device: Where trials train.
        flops: Counts operations.
    """

    study: StudyConfig
    records: Records
    device: torch.device
    flops: FlopsCounter

    def __call__(
        self, config: RunConfig, plan: ExpansionPlan, specs: Mapping[str, TaskSpec]
    ) -> dict[str, float]:
        """Measure -> value, for those that the study names."""
        found: dict[str, float] = {}
        if "inference_flops_ratio" in self.study.measures:
            found["inference_flops_ratio"] = self.flops(config, plan)
        if self.study.times_inference:
            row = self._measured(config, plan, specs)
            both = {"latency_ms": row.latency_ms, "inference_memory_mb": row.memory_mb}
            found |= {name: value for name, value in both.items() if name in self.study.measures}
        return found

    def _measured(
        self, config: RunConfig, plan: ExpansionPlan, specs: Mapping[str, TaskSpec]
    ) -> InferenceRow:
        settings: InferenceConfig = self.study.inference
        device = torch.device("cpu") if settings.device == "cpu" else self.device
        name = inference_fingerprint(config, plan, settings, device)
        known = self.records.find_inference(name)
        if known is not None:
            return known
        cost = measure_inference(config, specs, plan, settings, device)
        row = InferenceRow(
            fingerprint=name,
            latency_ms=cost.latency_ms,
            latency_spread_ms=cost.latency_spread_ms,
            memory_mb=cost.memory_mb,
            device=device_name(device),
            precision=inference_precision(config, settings, device),
            batch_size=settings.batch_size,
            repeats=settings.repeats,
            operations=" ".join(plan.operations()),
            created_at=datetime.now(UTC),
        )
        return self.records.save_inference(row)
