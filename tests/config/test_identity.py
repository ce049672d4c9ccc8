"""Two configs have the same fingerprint exactly when they describe the same work."""

import os
import subprocess
import sys

import pytest
from pydantic import BaseModel
from tiny import with_paths

from dtme_search.config import RunConfig, canonical, fingerprint, run_fingerprint

CONFLICT = {"expansion.policy": "conflict"}
PER_LAYER = {"expansion.policy": "per_layer", "expansion.layers": ["none", "both"]}
ADAPTED = {"expansion.policy": "per_layer", "expansion.layers": ["none", "both+lora"]}
AUTO = {"expansion.policy": "per_layer", "expansion.layers": ["auto", "both"]}
FIXED = {"expansion.policy": "fixed", "expansion.plan": {"modulate": {1: [["depth"]]}}}
NONE = {"expansion.policy": "none"}
AUXILIARY = {"tasks.depth.role": "auxiliary"}
DIMINISH = {**AUXILIARY, "schedule.kind": "diminish"}
RATED = {**DIMINISH, "schedule.decay_rate": 0.01}
PROMPTED = {"model.architecture": "taskprompter"}
TUNES = {**AUXILIARY, "schedule.kind": "switch", "schedule.finetune.fraction": 0.5}
LOUD = {**AUXILIARY, "schedule.kind": "inverse_gradient_norm"}
SWITCH = {**AUXILIARY, "schedule.kind": "switch"}

# (what else is set, field, another value): the field is read there.
ACTIVE = [
    ({}, "seed", 1),
    ({}, "tasks.depth.weight", 2.0),
    ({}, "tasks.depth.role", "auxiliary"),
    ({}, "data.name", "nyud"),
    ({}, "data.image_size", [32, 32]),
    ({}, "data.holdout_fraction", 0.2),
    ({}, "data.holdout_seed", 1),
    ({}, "data.limit_train", 100),
    ({}, "data.normalize", "half"),
    ({}, "data.resize", "nearest"),
    ({}, "data.score_at", "label"),
    ({}, "data.augment.scale", [1.0, 1.0]),
    ({}, "data.augment.flip", 0.0),
    ({}, "data.augment.photometric", 0.0),
    ({}, "data.augment.crop_max_class_fraction", 1.0),
    ({}, "data.augment.crop_tries", 3),
    ({}, "data.scenes.num_train", 100),
    ({}, "data.scenes.num_test", 10),
    ({}, "data.scenes.seed", 1),
    ({"data.name": "nyud"}, "data.nyud.num_classes", 39),
    ({"data.name": "orchard"}, "data.options", {"trees": 4}),
    ({"data.name": "taskonomy"}, "data.taskonomy.mask_margin", 0),
    ({"data.name": "taskonomy"}, "data.taskonomy.test_images", 9),
    ({}, "model.backbone", "vit_small_patch16_224"),
    ({}, "model.backbone_options", {"depth": 6}),
    ({}, "model.pretrained", True),
    ({}, "model.checkpoint_grid", [4, 6]),
    ({}, "model.image_head", "class"),
    ({}, "model.drop_path", 0.1),
    ({}, "model.architecture", "taskprompter"),
    (PROMPTED, "model.architecture_options", {"taskprompter": {"channel_heads": 4}}),
    (PROMPTED, "model.decoder_channels", 32),
    ({}, "model.decoder", "dpt"),
    ({}, "model.decoder_channels", 32),
    ({"model.decoder": "dpt"}, "model.decoder_options", {"dpt": {"width": 3}}),
    ({}, "model.levels", "concat4"),
    (NONE, "expansion.policy", "conflict"),
    (CONFLICT, "expansion.start", 0.5),
    (CONFLICT, "expansion.start", "auto"),
    ({**CONFLICT, "expansion.start": "auto"}, "expansion.auto_starts", [0.0, 0.1]),
    (PER_LAYER, "expansion.start", 0.5),
    (FIXED, "expansion.start", 0.5),
    (CONFLICT, "expansion.variance_ratio", 10.0),
    (AUTO, "expansion.variance_ratio", 10.0),
    (CONFLICT, "expansion.num_images", 64),
    (CONFLICT, "expansion.analysis_batch_size", 8),
    (CONFLICT, "expansion.decoder_warmup_steps", 5),
    (CONFLICT, "expansion.range_layer_ratio", 0.25),
    (CONFLICT, "expansion.null_layer_ratio", 0.25),
    (AUTO, "expansion.null_layer_ratio", 0.25),
    (CONFLICT, "expansion.range_operation", "expand"),
    (CONFLICT, "expansion.null_operation", "modulate"),
    (CONFLICT, "expansion.range_threshold", 0.4),
    (CONFLICT, "expansion.null_threshold", 0.4),
    (CONFLICT, "expansion.selection", "random"),
    (AUTO, "expansion.selection", "gradient_similarity"),
    (CONFLICT, "expansion.pair_threshold", 0.4),
    (PER_LAYER, "expansion.pair_threshold", 0.4),
    (CONFLICT, "expansion.max_streams", 2),
    (PER_LAYER, "expansion.max_streams", 2),
    ({**PER_LAYER, "expansion.max_streams": 2}, "expansion.num_images", 64),
    (PER_LAYER, "expansion.layers", ["both", "none"]),
    (FIXED, "expansion.plan", {"modulate": {2: [["depth"]]}}),
    (FIXED, "expansion.plan", {"expand": {1: [["depth"]]}}),
    (CONFLICT, "expansion.num_task_tokens", 2),
    (ADAPTED, "expansion.lora_rank", 2),
    (ADAPTED, "expansion.lora_alpha", 2.0),
    (ADAPTED, "expansion.lora_targets", "qkv"),
    ({**CONFLICT, "expansion.null_operation": "lora"}, "expansion.lora_rank", 2),
    (FIXED, "expansion.plan", {"modulate": {1: [["depth"]]}, "lora": {1: [["depth"]]}}),
    (FIXED, "expansion.plan", {"modulate": {1: [["depth"]]}, "other": {"mine": {1: [["depth"]]}}}),
    ({**CONFLICT, "expansion.null_operation": "mine"}, "expansion.operation_options", {"mine": {"size": 2}}),
    (FIXED, "expansion.token_std", 0.1),
    (CONFLICT, "expansion.lr_multiplier", 10.0),
    (PER_LAYER, "expansion.freeze_backbone", True),
    (AUXILIARY, "schedule.kind", "switch"),
    ({**AUXILIARY, "schedule.kind": "mine"}, "schedule.options", {"mine": {"pace": 2}}),
    (DIMINISH, "schedule.initial_weight", 0.5),
    (DIMINISH, "schedule.half_life", 0.1),
    (DIMINISH, "schedule.decay_rate", 0.1),
    (DIMINISH, "schedule.decay_power", 2.0),
    (SWITCH, "schedule.switch_at", 0.1),
    (SWITCH, "schedule.patience", 2),
    (DIMINISH, "schedule.patience", 2),
    (AUXILIARY, "schedule.patience", 2),
    (AUXILIARY, "schedule.stop_at", 0.5),
    (LOUD, "schedule.total", 3.0),
    (SWITCH, "schedule.finetune.fraction", 0.5),
    (TUNES, "schedule.finetune.selection", "last"),
    (TUNES, "schedule.finetune.importance", "taylor"),
    (TUNES, "schedule.finetune.images", 3),
    (TUNES, "schedule.finetune.parts", ["block 1"]),
    (LOUD, "schedule.every", 7),
    (LOUD, "schedule.epsilon", 0.1),
    ({**AUXILIARY, "schedule.kind": "fisher_trace"}, "schedule.images", 2),
    ({}, "train.num_steps", 10),
    ({"expansion.start": 0.5}, "train.count_from", "expansion"),
    ({}, "train.batch_size", 4),
    ({}, "train.optimizer", "adamw"),
    ({}, "train.lr", 1e-3),
    ({}, "train.accumulate", 2),
    ({}, "train.backbone_lr_multiplier", 0.1),
    ({}, "train.layer_decay", 0.8),
    ({}, "train.decoder_warmup_steps", 3),
    ({}, "train.weight_decay", 0.1),
    ({}, "train.warmup_steps", 5),
    ({}, "train.poly_power", 1.0),
    ({}, "train.grad_clip", 1.0),
    ({}, "train.ema", 0.9),
    ({}, "train.combine.kind", "pcgrad"),
    ({"train.combine.kind": "mine"}, "train.combine.options", {"mine": {"size": 2}}),
    ({"train.combine.kind": "uncertainty"}, "train.combine.lr", 0.1),
    ({"train.combine.kind": "imtl_l"}, "train.combine.lr", 0.1),
    ({"train.combine.kind": "dwa"}, "train.combine.temperature", 1.0),
    ({"train.combine.kind": "dwa"}, "train.combine.window", 7),
    ({"train.combine.kind": "famo"}, "train.combine.lr", 0.1),
    ({"train.combine.kind": "famo"}, "train.combine.decay", 0.1),
    ({"train.combine.kind": "gradnorm"}, "train.combine.alpha", 0.1),
    ({"train.combine.kind": "cagrad"}, "train.combine.radius", 0.2),
    ({"train.combine.kind": "nash_mtl"}, "train.combine.max_norm", 2.0),
    ({"train.combine.kind": "graddrop"}, "train.combine.leak", 0.5),
    ({}, "train.edge_positive_weight", 0.8),
    ({}, "train.precision", "float32"),
    ({}, "train.deterministic", "never"),
    ({}, "train.compile", True),
    ({}, "train.num_evaluations", 2),
    ({}, "train.eval_batch_size", 2),
]

# The same, where the field is not read.
INACTIVE = [
    ({}, "data.root", "/data"),
    # What the file holds is named by its digest.
    ({}, "model.checkpoint", "w.pt"),
    ({}, "model.decoder_options", {"dpt": {"width": 3}}),
    ({}, "model.architecture_options", {"taskprompter": {"channel_heads": 4}}),
    (PROMPTED, "model.architecture_options", {"other": {"width": 3}}),
    (PROMPTED, "model.decoder", "dpt"),
    ({**PROMPTED, "model.decoder": "dpt"}, "model.decoder_options", {"dpt": {"width": 3}}),
    (PROMPTED, "model.levels", "concat4"),
    ({}, "data.storage", "loader"),
    ({}, "data.storage_limit_gb", 1.0),
    ({}, "data.loader_workers", 0),
    ({}, "data.missing", "skip"),
    ({}, "data.nyud.num_classes", 39),
    # What the YAML says is in the fingerprint of the data.
    ({}, "data.folder.description", "orchard.yaml"),
    ({"data.name": "nyud"}, "data.scenes.num_train", 100),
    ({"data.name": "nyud"}, "data.taskonomy.mask_margin", 0),
    ({"data.name": "taskonomy"}, "data.taskonomy.split", "medium.csv"),
    ({"data.name": "taskonomy"}, "data.taskonomy.incomplete", "skip"),
    ({}, "data.taskonomy.split", "medium.csv"),
    ({}, "data.taskonomy.incomplete", "skip"),
    ({"train.combine.kind": "pcgrad"}, "train.combine.lr", 0.1),
    ({"tasks": {"depth": {}}}, "train.combine.kind", "pcgrad"),
    (CONFLICT, "expansion.lora_rank", 2),
    (PER_LAYER, "expansion.lora_alpha", 2.0),
    (FIXED, "expansion.lora_targets", "qkv"),
    (NONE, "expansion.lora_rank", 2),
    (NONE, "expansion.start", 0.5),
    (CONFLICT, "expansion.auto_starts", [0.0, 0.1]),
    (NONE, "expansion.selection", "random"),
    (NONE, "expansion.plan", {"modulate": {1: [["depth"]]}}),
    (NONE, "train.count_from", "expansion"),
    (CONFLICT, "train.count_from", "expansion"),
    (CONFLICT, "expansion.layers", ["both", "none"]),
    (CONFLICT, "expansion.plan", {"modulate": {1: [["depth"]]}}),
    (PER_LAYER, "expansion.range_layer_ratio", 0.25),
    (PER_LAYER, "expansion.range_operation", "expand"),
    (PER_LAYER, "expansion.null_threshold", 0.25),
    (PER_LAYER, "expansion.num_images", 64),
    ({**PER_LAYER, "expansion.max_streams": 2}, "expansion.selection", "random"),
    (FIXED, "expansion.max_streams", 2),
    (FIXED, "expansion.variance_ratio", 10.0),
    (FIXED, "expansion.layers", ["both", "none"]),
    ({}, "schedule.kind", "switch"),
    (AUXILIARY, "schedule.half_life", 0.1),
    (AUXILIARY, "schedule.switch_at", 0.1),
    (SWITCH, "schedule.half_life", 0.1),
    (DIMINISH, "schedule.switch_at", 0.1),
    ({}, "schedule.patience", 2),
    ({**TUNES, "schedule.finetune.selection": "random"}, "schedule.finetune.images", 3),
    ({**TUNES, "schedule.finetune.parts": ["norm"]}, "schedule.finetune.fraction", 0.2),
    (SWITCH, "schedule.finetune.images", 3),
    (AUXILIARY, "schedule.finetune.fraction", 0.5),
    ({}, "schedule.with_loss_weighting", True),
    (DIMINISH, "schedule.total", 2.0),
    (RATED, "schedule.half_life", 0.1),
    ({}, "train.checkpoint_seconds", 1.0),
    # What a run is compared with.
    ({}, "baselines.rule", "base"),
    ({}, "baselines.tried", 8),
    ({}, "baselines.recipes", {"depth": {"train.lr": 0.1}}),
    ({}, "train.statistics.every", 5),
    ({}, "train.statistics.images", 5),
    ({}, "train.statistics.map_images", 5),
]


def config_with(changes):
    return RunConfig.model_validate(with_paths(RunConfig().model_dump(mode="json"), changes))


def name_of(case):
    others, dotted, value = case
    return f"{dotted}={value} with {others}"


@pytest.mark.parametrize("case", ACTIVE, ids=name_of)
def test_a_field_that_is_read_changes_the_fingerprint(case):
    others, dotted, value = case
    assert run_fingerprint(config_with({**others, dotted: value})) != run_fingerprint(config_with(others))


@pytest.mark.parametrize("case", INACTIVE, ids=name_of)
def test_a_field_that_is_not_read_leaves_it(case):
    others, dotted, value = case
    changed, original = config_with({**others, dotted: value}), config_with(others)
    assert changed != original
    assert canonical(changed) == canonical(original)
    assert run_fingerprint(changed) == run_fingerprint(original)


def test_no_field_was_forgotten():
    """A new field must be put into one of the tables; one with a single value cannot be changed, and
    files have tests of their own."""

    def leaves(section, prefix=""):
        for name, value in section:
            if isinstance(value, BaseModel) and name != "plan":
                yield from leaves(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}"

    covered = {dotted for _, dotted, _ in ACTIVE}
    never_read = {dotted for others, dotted, _ in INACTIVE if not others}
    assert set(leaves(RunConfig())) - covered - never_read == {"tasks", "plugins"}


def test_the_canonical_form_does_not_touch_the_config():
    config = config_with(SWITCH)
    canonical(config)["train"].clear()
    assert config == config_with(SWITCH)


def test_parts_are_part_of_the_fingerprint():
    config = RunConfig()
    names = {
        run_fingerprint(config),
        run_fingerprint(config, "data"),
        run_fingerprint(config, "data", "code"),
    }
    assert len(names) == 3
    assert all(len(name) == 16 and int(name, 16) >= 0 for name in names)


def test_order_of_keys_does_not_matter_but_of_items_does():
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint([1, 2]) != fingerprint([2, 1])
    assert fingerprint("ab", "c") != fingerprint("a", "bc")


def test_the_fingerprint_is_the_same_in_every_process():
    code = "from dtme_search.config import *; print(run_fingerprint(RunConfig(), 'data'))"
    names = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("0", "1")
    }
    assert names == {run_fingerprint(RunConfig(), "data")}
