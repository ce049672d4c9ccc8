"""What names a run: everything that decides its numbers, wherever it lies and whenever it acts."""

from __future__ import annotations

import os
import shutil
from dataclasses import fields, replace

import pytest
import torch
from runs import with_

from dtme_search.config import RunConfig
from dtme_search.errors import ConfigError
from dtme_search.models import backbone
from dtme_search.token_space import ExpansionPlan
from dtme_search.training.identity import (
    RunContext,
    checkpoint_fingerprint,
    result_fingerprint,
    trunk_fingerprint,
    work_fingerprint,
)

CONFLICT = {"expansion__policy": "conflict", "expansion__start": 0.5}
AUXILIARY = {
    "tasks": {"semseg": {}, "depth": {}, "normals": {"role": "auxiliary"}, "edge": {"role": "auxiliary"}}
}
AUXILIARY_SWITCH = {**AUXILIARY, "schedule__kind": "switch"}
HERE = RunContext("cpu", "float32", "2.0", "1.0")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, CONFLICT),
        (CONFLICT, {**CONFLICT, "expansion__start": 0.9, "expansion__variance_ratio": 7.0}),
        (
            {**AUXILIARY_SWITCH, "schedule__switch_at": 0.5},
            {**AUXILIARY_SWITCH, "schedule__switch_at": 0.9},
        ),
        ({**AUXILIARY_SWITCH, "schedule__switch_at": 0.5}, AUXILIARY),
        ({}, {"data__loader_workers": 0, "train__checkpoint_seconds": 1.0}),
    ],
    ids=["growth", "when-and-how", "later-switch", "switch-to-come", "where-not-what"],
)
def test_what_comes_later_makes_no_other_trunk(tiny_config, one, other):
    prints = {trunk_fingerprint(with_(tiny_config, **fields), 5, "d", HERE) for fields in (one, other)}
    assert len(prints) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 1},
        {"train__lr": 2e-3},
        {"train__num_steps": 12},
        {"model__drop_path": 0.1},
        {"data__augment__flip": 0.0},
        {**CONFLICT, "train__count_from": "expansion"},
        {**AUXILIARY_SWITCH, "schedule__switch_at": 0.4},
        {**AUXILIARY, "schedule__kind": "diminish"},
        {**AUXILIARY_SWITCH, "schedule__switch_at": 0.9, "schedule__patience": 1},
    ],
    ids=lambda fields: next(reversed(fields)),
)
def test_what_shapes_the_training_does(tiny_config, fields):
    base = with_(tiny_config, **(AUXILIARY if "tasks" in fields else {}))
    assert trunk_fingerprint(base, 5, "d", HERE) != trunk_fingerprint(
        with_(tiny_config, **fields), 5, "d", HERE
    )


def test_data_device_and_step_are_part_of_a_trunk(tiny_config):
    prints = [
        trunk_fingerprint(tiny_config, 5, "d", HERE),
        trunk_fingerprint(tiny_config, 5, "e", HERE),
        trunk_fingerprint(tiny_config, 6, "d", HERE),
        trunk_fingerprint(tiny_config, 5, "d", replace(HERE, device="cuda")),
    ]
    assert len(set(prints)) == 4


def test_work_is_named_by_what_it_trains_to(tiny_config):
    tasks = tuple(tiny_config.tasks)
    everyone = {0: tuple((task,) for task in tasks)}
    modulated = ExpansionPlan(tasks, 3, {"modulate": everyone})
    expanded = ExpansionPlan(tasks, 3, {"expand": everyone})

    def work(plan: ExpansionPlan, **fields: object) -> str:
        return work_fingerprint(with_(tiny_config, **{**CONFLICT, **fields}), plan, "d", HERE)

    nothing = ExpansionPlan.empty(tasks, 3)
    assert work(nothing) == work(nothing, expansion__start=0.9, expansion__lr_multiplier=5.0)
    assert work(nothing) == work_fingerprint(tiny_config, nothing, "d", HERE)
    assert work(modulated) == work(modulated, expansion__range_threshold=0.3, expansion__max_streams=2)
    assert work(modulated) == work(modulated, expansion__token_std=0.5)
    assert work(expanded) != work(expanded, expansion__token_std=0.5)
    assert work(modulated) == work(modulated, expansion__start=0.51), "the same step"
    different = [
        work(nothing),
        work(modulated),
        work(expanded),
        work(modulated, expansion__start=0.6),
        work(modulated, expansion__lr_multiplier=2.0),
        work(modulated, expansion__freeze_backbone=True),
    ]
    assert len(set(different)) == len(different)


def test_a_schedule_that_acts_after_the_end_is_no_schedule(tiny_config):
    plan = ExpansionPlan.empty(tuple(tiny_config.tasks), 3)
    prints = {
        work_fingerprint(with_(tiny_config, **AUXILIARY, **schedule), plan, "d", HERE)
        for schedule in ({}, {"schedule__kind": "switch", "schedule__switch_at": 1.0})
    }
    assert len(prints) == 1


def names(config: RunConfig, context: RunContext = HERE) -> dict[str, str]:
    """Every name of a run."""
    plan = ExpansionPlan.empty(tuple(config.tasks), 3)
    return {
        "checkpoint": checkpoint_fingerprint(config, "d"),
        "result": result_fingerprint(config, "d", context),
        "trunk": trunk_fingerprint(config, 5, "d", context),
        "work": work_fingerprint(config, plan, "d", context),
    }


@pytest.mark.parametrize("fact", [field.name for field in fields(RunContext)])
def test_results_of_another_arithmetic_have_other_names_but_checkpoints_go_on(tiny_config, fact):
    here, there = names(tiny_config), names(tiny_config, replace(HERE, **{fact: "other"}))
    assert {kind for kind in here if here[kind] == there[kind]} == {"checkpoint"}


def test_the_context_is_that_of_the_device(tiny_config):
    exact = with_(tiny_config, train__precision="float32")  # which GPUs compute in bfloat16 is asked of them
    cpu, cuda = (RunContext.of(exact, torch.device(name)) for name in ("cpu", "cuda"))
    assert (cpu.device, cpu.precision, cpu.torch_version) == ("cpu", "float32", torch.__version__)
    assert cuda.device == "cuda" and cpu.timm_version == cuda.timm_version != ""
    assert RunContext.of(with_(tiny_config, train__precision="bfloat16"), torch.device("cpu")) != cpu


class TestWeights:
    @pytest.fixture
    def begins_with(self, tiny_config, tmp_path):
        """A config whose backbone begins with the numbers given, in the file given."""

        def write(value: float, file: str = "weights.pt") -> RunConfig:
            path = tmp_path / file
            before = path.stat().st_mtime_ns if path.exists() else None
            torch.save({"weight": torch.full((3,), value)}, path)
            if before is not None:  # saved so soon after the other that a coarse clock would not tell
                os.utime(path, ns=(before + 1, before + 1))
            return with_(tiny_config, model__checkpoint=str(path))

        return write

    def test_other_weights_at_the_same_place_are_another_run(self, begins_with):
        first = names(begins_with(1.0))
        second = names(begins_with(2.0))
        assert not [kind for kind in first if first[kind] == second[kind]]

    def test_the_same_weights_at_another_place_are_the_same_run(self, begins_with, tmp_path, tiny_config):
        first = names(begins_with(1.0))
        shutil.copy(tmp_path / "weights.pt", tmp_path / "copy.pt")
        assert names(with_(tiny_config, model__checkpoint=str(tmp_path / "copy.pt"))) == first

    def test_weights_are_not_those_of_no_file(self, begins_with, tiny_config):
        assert names(begins_with(1.0))["work"] != names(tiny_config)["work"]

    def test_a_file_that_is_gone_is_named(self, tiny_config, tmp_path):
        config = with_(tiny_config, model__checkpoint=str(tmp_path / "gone.pt"))
        with pytest.raises(ConfigError, match=r"model.checkpoint: .*gone.pt cannot be read"):
            names(config)

    def test_published_weights_are_named_by_tag_and_version(self, tiny_config, monkeypatch):
        """The tag that timm takes for a bare name changes between its versions."""
        bare = with_(tiny_config, model__pretrained=True)
        tags = [bare, with_(bare, model__backbone="vit_tiny_patch16_224.augreg_in21k")]
        found = {names(config)["checkpoint"] for config in (*tags, tiny_config)}
        assert len(found) == 3
        before = names(bare)
        monkeypatch.setattr(backbone, "version", lambda _: "9.9.9")
        assert not [kind for kind, name in names(bare).items() if name == before[kind]]


def test_devices_that_divide_a_batch_count_like_another_kind_of_device(tiny_config):
    """Sums over them differ in the last digits, so they share no trunk and no result with one."""
    one, two = (RunContext.of(tiny_config, torch.device("cpu"), count) for count in (1, 2))
    assert one == RunContext.of(tiny_config, torch.device("cpu"))
    assert result_fingerprint(tiny_config, "d", one) != result_fingerprint(tiny_config, "d", two)
    assert trunk_fingerprint(tiny_config, 5, "d", one) != trunk_fingerprint(tiny_config, 5, "d", two)
