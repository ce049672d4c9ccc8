"""Time and memory of predictions: what is counted, and that settings change what is measured."""

from __future__ import annotations

import pytest
import torch
from tiny import TINY

from dtme_search.config import InferenceConfig, RunConfig, validate
from dtme_search.tasks import depth, semseg
from dtme_search.token_space import ExpansionPlan
from dtme_search.training.inference import LiveTensors, inference_fingerprint, measure_inference

SPECS = {"semseg": semseg(("wall", "floor")), "depth": depth()}
CONFIG = validate(RunConfig, {**TINY, "tasks": {"semseg": {}, "depth": {}}}, "test")
EMPTY = ExpansionPlan.empty(("semseg", "depth"), 3)
GROWN = ExpansionPlan(("semseg", "depth"), 3, {"modulate": {0: (("semseg",), ("depth",))}})
CPU = torch.device("cpu")


def test_memory_is_that_of_the_tensors_that_live_at_one_time():
    with torch.no_grad(), LiveTensors() as live:
        first = torch.zeros(1000)
        view = first.view(10, 100)  # shares its memory
        for _ in range(5):
            second = view + 1  # the one before is gone only when the next one is there
        del second
    assert live.peak == 3 * 4000


def test_more_streams_and_images_take_more_memory_and_the_same_each_time():
    def memory(plan: ExpansionPlan, batch_size: int = 1) -> float:
        settings = InferenceConfig(batch_size=batch_size, repeats=3, warmup=0)
        return measure_inference(CONFIG, SPECS, plan, settings, CPU).memory_mb

    assert memory(EMPTY) == memory(EMPTY)
    assert memory(GROWN) > memory(EMPTY)
    assert memory(EMPTY, batch_size=8) > 2 * memory(EMPTY)


def test_lora_that_all_tasks_share_is_in_the_weights_as_in_a_deployed_file():
    def grown(*groups: tuple[str, ...]) -> ExpansionPlan:
        options = {"lora_rank": 8, "lora_targets": "qkv+proj+fc1+fc2"}
        return ExpansionPlan(("semseg", "depth"), 3, {"lora": {1: groups}}, options)

    def memory(plan: ExpansionPlan) -> float:
        return measure_inference(CONFIG, SPECS, plan, InferenceConfig(repeats=3, warmup=0), CPU).memory_mb

    assert memory(grown(("semseg", "depth"))) == memory(EMPTY) < memory(grown(("semseg",)))


def test_the_median_of_the_timed_predictions_counts(monkeypatch):
    clock = iter([0.0, 0.001, 1.0, 1.009, 2.0, 2.002, 3.0, 3.004, 4.0, 4.003])
    monkeypatch.setattr("dtme_search.training.inference.time.perf_counter", lambda: next(clock))
    cost = measure_inference(CONFIG, SPECS, EMPTY, InferenceConfig(repeats=5), CPU)
    assert cost.latency_ms == pytest.approx(3.0)  # of 1, 2, 3, 4 and 9
    assert cost.latency_spread_ms == pytest.approx(6.5 - 1.5)


def test_equal_networks_share_a_measurement_and_all_that_matters_is_in_its_name():
    def name(plan=EMPTY, config=CONFIG, **settings) -> str:
        return inference_fingerprint(config, plan, InferenceConfig(**settings), CPU)

    other_rate = validate(RunConfig, {**CONFIG.model_dump(), "seed": 3}, "test")
    assert name() == name(config=other_rate)
    assert len({name(), name(GROWN), name(batch_size=2), name(repeats=9), name(precision="bfloat16")}) == 5
